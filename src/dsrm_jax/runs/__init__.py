"""What serves the command line: pieces from the configuration, Stage I once, run directories, checkpoints, the host's loop."""
