"""Grids of runs: expanded, grouped by shape, trained as few programs by worker processes, never twice."""
