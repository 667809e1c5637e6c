"""`dsrm-jax`: commands, options, progress and pictures; thin, and the last room of the house."""
