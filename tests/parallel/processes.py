"""Processes of tests in which JAX sees several devices."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(devices):
    """Return a process's environment in which JAX sees that many devices; compiling is what costs there, not running."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    told = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    # the command line, called by another test of this process, may have set how many
    return {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"} | told
