"""XLA flags that CPUs need with some versions of jaxlib; nothing here imports JAX.

Both faults were measured with jaxlib 0.10.2 on two cores:

* `jit(vmap(train))` can wait for ever (a race in the concurrency-optimised scheduler);
* a product, its sum over the last axis and an addition, such as `vmap(lambda u: sum(item * user[u], -1) + bias)`, give WRONG
  NUMBERS, silently, when mapped once more over an axis of size one (the "ynn" fusions). `tests/test_xla.py` holds the
  smallest case.

The library never touches the environment on import; the command line and the tests call `set_flags` before JAX starts.
"""

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
