"""KuaiSim's own report of a run, to compare with its numbers."""
