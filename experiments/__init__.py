"""Studies made with `dsrm_jax`, from a checkout: the paper's report, headroom, probes, benchmarks, FCPO, KuaiSim's table.

They import the library, and nothing in the library imports them: they add their commands to `dsrm-jax` by entry points.
"""
