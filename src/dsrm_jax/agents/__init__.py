"""One file per method, readable alone, on shared pieces."""
