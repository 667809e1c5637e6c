"""Settings that every test needs before JAX starts."""

import gc
import os
from importlib.metadata import version

from dsrm_jax.parallel.xla import SHORT_PROGRAMS, set_flags

# Tests compile for most of their time: XLA's older emitters, and LLVM without its optimiser, take a third of it less. With
# DSRM_FLAGS=users programs are compiled as users' are: the slow tests and those of other versions of the packages, in CI.
QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
knows = version("jaxlib").startswith(
    SHORT_PROGRAMS["xla_cpu_use_fusion_emitters=false"]
)  # later ones have no older emitters
if knows and os.environ.get("DSRM_FLAGS") != "users":
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *QUICK]).strip()
set_flags(os.environ)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Modules and traces are objects by the million that live on. Python's collector, left alone, walks all of them again and again:
# a tenth of the CPU that tests take, more of what their collection does.
gc.set_threshold(20_000, 20, 100)


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later walk."""
    gc.collect()
    gc.freeze()
