"""The paper in one command: its tables and figures with ours beside theirs, and a verdict on every claim."""
