"""What CPUs need to be told before JAX starts: flags for some versions of jaxlib, and cores as devices; nothing imports JAX here.

Both faults were measured with jaxlib 0.10.2 on two cores:

* `jit(vmap(train))` can wait for ever (a race in the concurrency-optimised scheduler);
* a product, its sum over the last axis and an addition, such as `vmap(lambda u: sum(item * user[u], -1) + bias)`, give WRONG
  NUMBERS, silently, when mapped once more over an axis of size one (the "ynn" fusions). `tests/test_xla.py` holds the
  smallest case.

A third has no flag: a batch of matrices that several CPU devices factorise waits for ever; `training.run.start` avoids it.

The library never touches the environment on import; the command line and the tests call `set_flags` before JAX starts.
"""

import os
from collections.abc import MutableMapping
from importlib.metadata import PackageNotFoundError, version

FLAGS = (
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",
    "--xla_cpu_experimental_ynn_fusion_type=",
)
SHORT_PROGRAMS = (
    "--xla_backend_optimization_level=1",
)  # LLVM's: a third less compiling, training as fast (27 s and 19 s for DSRM-HRL; 2.0 s for 5 updates of 3 seeds with both)
AFFECTED = ("0.10.", "0.11.")  # other versions may not know the flags, and XLA stops at an unknown one


MOST_CORES = 4  # measured on two; each device's share of 64 users should stay worth a program of its own


def use_cores(environ: MutableMapping[str, str]) -> None:
    """Make each core of a CPU a device of its own, `MOST_CORES` at most, so that what is split over devices uses them.

    Left to one device of two cores, XLA splits the reverse scan's many small products, and loses by it what it gains elsewhere:
    an update of DSRM-HRL (64 users, S = 20) takes 90 to 108 ms, and 64 to 70 ms on two devices of half the users each. Where the
    number of devices is set already, or there is one core, nothing changes; accelerators do not read it.

    Args:
        environ: `os.environ`, before JAX starts its first backend.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = "JAX_NUM_CPU_DEVICES" in environ or "xla_force_host_platform_device_count" in environ.get(
        "XLA_FLAGS", ""
    )
    if cores > 1 and not told:
        environ["JAX_NUM_CPU_DEVICES"] = str(min(cores, MOST_CORES))


def set_flags(environ: MutableMapping[str, str], more: tuple[str, ...] = ()) -> None:
    """Append to XLA_FLAGS what the installed jaxlib needs; a flag that is set already stays as it is.

    Args:
        environ: `os.environ`, before JAX starts its first backend.
        more: flags wanted besides, such as `SHORT_PROGRAMS` in a process that compiles much and runs little.
    """
    try:
        affected = version("jaxlib").startswith(AFFECTED)
    except PackageNotFoundError:
        return
    flags = environ.get("XLA_FLAGS", "")
    missing = [flag for flag in (*FLAGS, *more) if flag.split("=")[0] not in flags]
    if affected and missing:
        environ["XLA_FLAGS"] = " ".join([flags, *missing]).strip()


def use_compilation_cache() -> None:
    """Keep compiled programs between processes, in the folder that JAX_COMPILATION_CACHE_DIR names or the user's cache folder."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        import platformdirs

        jax.config.update("jax_compilation_cache_dir", platformdirs.user_cache_dir("dsrm_jax"))
