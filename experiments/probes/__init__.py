"""Whether a purifier purifies: ten probes beside controls that must fail."""
