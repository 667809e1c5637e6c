"""What this process computes on, in words and yes or no."""

import sys

import jax
from jax.sharding import Mesh


def platform() -> str:
    """Return what JAX computes on, by the names of `jax.export`: cpu, cuda, tpu and others."""
    backend = jax.default_backend()
    return {"gpu": "cuda"}.get(backend, backend)


def platform_if_started() -> str:
    """Return `jax.default_backend()`, or "not started": asking JAX would start it."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    started = bridge is not None and bridge.backends_are_initialized()
    return jax.default_backend() if started else "not started"


def alone_on_cpu() -> bool:
    """Return whether one process computes on the cores of a CPU."""
    return jax.process_count() == 1 and jax.default_backend() == "cpu"


def described(mesh: Mesh) -> str:
    """Return what a mesh is made of, in words, and what of the machine it leaves unused."""
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    along = " x ".join(f"{count} along the {axis}" for axis, count in mesh.shape.items())
    unused = jax.device_count() - mesh.size
    return f"{mesh.size} {jax.devices()[0].platform} devices{processes}: {along}" + (
        f", {unused} unused" if unused else ""
    )
