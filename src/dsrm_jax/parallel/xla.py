"""What CPUs need to be told before JAX starts: flags for some versions of jaxlib, and cores as devices; nothing imports JAX here.

Both faults were measured with jaxlib 0.10.2 on two cores, and found neither in 0.9.2 nor in 0.12.0. The second is not in 0.10.0,
0.11.0 and 0.11.2 either; the first is in 0.10.1, and reported of 0.11.0 (github.com/jax-ml/jax, issues 39257 and 40412):

* `jit(vmap(train))` can wait for ever (a race in the concurrency-optimised scheduler);
* a product, its sum over the last axis and an addition, such as `vmap(lambda u: sum(item * user[u], -1) + bias)`, give WRONG
  NUMBERS, silently, when mapped once more over an axis of size one ("ynn" fusions; smallest case: `tests/parallel/test_xla.py`).

A third has no flag: a batch of matrices that several CPU devices factorise waits for ever; `training.run.start` avoids it.

Importing the library touches no environment: the command line and the tests call `set_flags`, the front door `warn_of_faults`.
"""

import contextlib
import os
import warnings
from collections.abc import MutableMapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FLAGS = ("--xla_cpu_enable_concurrency_optimized_scheduler=false", "--xla_cpu_experimental_ynn_fusion_type=")
AFFECTED = ("0.10.", "0.11.")  # by the faults above
# LLVM's optimiser and XLA's older emitters compile in half the time (DSRM-HRL, 3 seeds: 11 s and 19 s), and what they make is
# slower by 5 % at most; by the versions that know them, for XLA stops at an unknown flag
SHORT_PROGRAMS = {
    "xla_backend_optimization_level=1": ("0.9.", *AFFECTED, "0.12."),
    "xla_cpu_use_fusion_emitters=false": ("0.9.", "0.10."),
}
# of compiling one program, over the flags: one that runs for minutes, and one that runs once for a moment
Options = dict[str, str | bool]
LONG: Options = {"xla_backend_optimization_level": "3", "xla_cpu_use_fusion_emitters": True}
MOMENTARY: Options = {"xla_backend_optimization_level": "0", "xla_cpu_use_fusion_emitters": False}
ACCELERATORS = ("jax-cuda12-plugin", "jax-cuda13-plugin", "jax-rocm7-plugin", "libtpu")
MOST_BYTES = 1 << 30  # of compiled programs kept; a run of `train` adds about 5 MB
MOST_CORES = 4  # measured on two; each device's share of 64 users should stay worth a program of its own


def use_cores(environ: MutableMapping[str, str]) -> None:
    """Make each core of a CPU a device of its own, `MOST_CORES` at most, so that what is split over devices uses them.

    Left to one device of two cores, XLA splits the reverse scan's many small products, and loses by it what it gains elsewhere:
    an update of DSRM-HRL (64 users, S = 20) takes 90 to 108 ms, and 64 to 70 ms on two devices of half the users each. Where the
    number of devices is set already, or there is one core, nothing changes; accelerators do not read it. `environ` is
    `os.environ`, before JAX starts its first backend.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = "JAX_NUM_CPU_DEVICES" in environ or "xla_force_host_platform_device_count" in environ.get("XLA_FLAGS", "")
    if cores > 1 and not told:
        environ["JAX_NUM_CPU_DEVICES"] = str(min(cores, MOST_CORES))


def set_flags(environ: MutableMapping[str, str]) -> None:
    """Append to XLA_FLAGS of `os.environ`, before JAX starts, what the installed jaxlib needs; a flag that is set stays as it is.

    These are `FLAGS`, and `SHORT_PROGRAMS`: every command compiles dozens of programs that run for seconds.
    """
    short = (f"--{flag}" for flag, versions in SHORT_PROGRAMS.items() if _installed(versions))
    wanted = (*(FLAGS if _installed(AFFECTED) else ()), *short)
    if missing := _missing(environ, wanted):
        environ["XLA_FLAGS"] = " ".join([environ.get("XLA_FLAGS", ""), *missing]).strip()


def options(wanted: Options) -> Options:
    """Return of `LONG` or `MOMENTARY` what the installed jaxlib knows, for `compiler_options` of `jax.jit`; none off a CPU."""
    import jax

    known = {flag.split("=")[0] for flag, versions in SHORT_PROGRAMS.items() if _installed(versions)}
    return {name: value for name, value in wanted.items() if name in known and jax.default_backend() == "cpu"}


def has_accelerator() -> bool:
    """Return whether what JAX needs for a GPU or a TPU is installed; JAX is not started to see whether there is one."""
    return any(map(_version, ACCELERATORS))


@cache
def warn_of_faults() -> None:
    """Warn once a process where the installed jaxlib computes on a CPU and lacks the flags that it needs there."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    on_cpu = platforms.startswith("cpu") if platforms else not has_accelerator()
    if on_cpu and _installed(AFFECTED) and (missing := _missing(os.environ, FLAGS)):
        warnings.warn(
            "on CPUs jaxlib 0.10 and 0.11 can hang in vmapped training, and 0.10.2 computes wrong numbers in a vmap over an axis "
            f'of size one: set XLA_FLAGS="{" ".join(missing)}" before JAX starts',
            RuntimeWarning,
            stacklevel=3,
        )


def _missing(environ: MutableMapping[str, str], wanted: tuple[str, ...]) -> list[str]:
    flags = environ.get("XLA_FLAGS", "")
    return [flag for flag in wanted if flag.split("=")[0] not in flags]


def _installed(versions: tuple[str, ...]) -> bool:
    return _version("jaxlib").startswith(versions)


def _version(package: str) -> str:
    """Return the installed version of a package; an empty text where it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def use_compilation_cache() -> None:
    """Keep compiled programs between processes, in the folder that JAX_COMPILATION_CACHE_DIR names or the user's cache folder.

    In the user's folder small programs are kept, too: a run has dozens, which together take seconds to compile. The oldest go
    once all take more than `MOST_BYTES`.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        import platformdirs

        folder = Path(platformdirs.user_cache_dir("dsrm_jax"))
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        remove_oldest(folder, MOST_BYTES)


def remove_oldest(folder: Path, most_bytes: int) -> None:
    """Remove the oldest files right in a folder until the rest take at most so many bytes; what vanishes meanwhile is gone."""
    with contextlib.suppress(OSError):
        files = sorted(
            ((path, path.stat()) for path in folder.iterdir() if path.is_file()), key=lambda x: x[1].st_mtime
        )
        excess = sum(stat.st_size for _, stat in files) - most_bytes
        for path, stat in files:
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= stat.st_size
