"""Many devices: a mesh of seeds and users, and arrays laid on it.

A program is written for all seeds and users at once and does not change: `jax.jit` splits it by how its arguments are placed.
Everything works the same on the devices of one process and of many.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dsrm_jax.errors import InputError
from dsrm_jax.parallel.mesh_axes import SEEDS, USERS
from dsrm_jax.types import PyTree


def mesh_shape(num_seeds: int, num_users: int, num_devices: int, num_processes: int = 1) -> tuple[int, int]:
    """Return how many devices share the seeds and how many share each seed's users: as many in all as can be put to use.

    Seeds are policies trained together, users those in parallel of each; devices are those of all processes, each of which takes
    part with the same number. Of the result `(s, u)` s divides `num_seeds`, u divides `num_users`, s u is at most `num_devices`
    and a multiple of `num_processes`; of equally large ones it has more devices along the seeds, which need not communicate.

    Raises:
        InputError: there is none, since some process would be left without work.
    """
    shapes = [
        (s * u, s, u)
        for s in _divisors(num_seeds)
        for u in _divisors(num_users)
        if s * u <= num_devices and s * u % num_processes == 0
    ]
    if not shapes:
        raise InputError(
            f"{num_seeds} seeds (training.seeds) of {num_users} users (training.num_users) cannot be shared evenly by "
            f"{num_processes} processes with {num_devices // num_processes} devices each: choose a number of users that "
            f"{num_processes} divides"
        )
    _, s, u = max(shapes)
    return s, u


def make_mesh(num_seeds: int, num_users: int, devices: Sequence[jax.Device] | None = None) -> Mesh | None:
    """Return the mesh, with axes "seeds" and "users", that a run is spread over; None where it has one device to itself.

    The devices are all that JAX sees by default; the counts are those of `mesh_shape`.

    Raises:
        InputError: as `mesh_shape`, or some process has fewer devices than the others.
    """
    devices = jax.devices() if devices is None else devices
    processes = sorted({device.process_index for device in devices})
    shape = mesh_shape(num_seeds, num_users, len(devices), len(processes))
    if shape == (1, 1):
        return None
    each = shape[0] * shape[1] // len(processes)
    chosen = []
    for process in processes:
        own = [device for device in devices if device.process_index == process]
        if len(own) < each:
            raise InputError(
                f"process {process} has {len(own)} devices, others more: give every process the same number"
            )
        chosen += own[:each]
    # Not `jax.make_mesh`: it refuses GPUs of several machines, and parts of a TPU slice that are no cuboid.
    return Mesh(np.array(chosen).reshape(shape), (SEEDS, USERS), axis_types=(AxisType.Auto, AxisType.Auto))


def along(mesh: Mesh, *axes: str) -> NamedSharding:
    """Return how an array is laid whose leading axes go along these axes of a mesh; without any it is whole on every device."""
    return NamedSharding(mesh, P(*axes))


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Place arrays, typed keys too, on a mesh by `NamedSharding`s, a prefix of the tree.

    They have the same values in every process, or lie as asked already.
    """
    return jax.tree.map(lambda sharding, part: jax.tree.map(lambda x: _place(x, sharding), part), shardings, tree)


def _place(x: PyTree, sharding: NamedSharding) -> jax.Array:
    if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
        return x
    if _is_key(x):
        return jax.random.wrap_key_data(_place(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def fetch(tree: PyTree) -> PyTree:
    """Return whole arrays on the host of every process, typed keys as local arrays; all processes must call it."""
    return jax.tree.map(_fetch, tree)


def _fetch(x: PyTree) -> PyTree:
    if _is_key(x):
        data = jnp.asarray(_fetch(jax.random.key_data(x)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def from_first(tree: PyTree) -> PyTree:
    """Return process 0's arrays in every process, given local ones of the same shapes; one process's are left alone.

    Processes that compute the same numbers on different hosts may differ in the last bits, and a program over all of them must
    start from the same.
    """
    return tree if jax.process_count() == 1 else jax.tree.map(_from_first, tree)


def _from_first(x: PyTree) -> PyTree:
    if _is_key(x):
        data = jnp.asarray(_from_first(jax.random.key_data(x)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    host = np.asarray(x)
    # As bytes: the broadcast is a sum with zeros, which would lose the sign of -0.0 and 64-bit types.
    sent = multihost_utils.broadcast_one_to_all(np.ascontiguousarray(host).reshape(-1).view(np.uint8))
    value = np.asarray(sent).view(host.dtype).reshape(host.shape)
    return jnp.asarray(value) if isinstance(x, jax.Array) else value


def mesh_of(array: jax.Array) -> Mesh | None:
    """Return the mesh that an array lies on; None where it is on none."""
    sharding = array.sharding
    if not isinstance(sharding, NamedSharding):
        return None
    assert isinstance(sharding.mesh, Mesh)  # of an array that exists
    return sharding.mesh


def using(mesh: Mesh | None) -> AbstractContextManager[Mesh | None]:
    """Return the context in which programs for a mesh are traced (`mesh_axes`); without a mesh nothing happens."""
    return nullcontext() if mesh is None else jax.set_mesh(mesh)


def all_finite(x: PyTree) -> bool:
    """Return whether an array, wherever it lies, holds neither NaN nor infinity; the same answer in every process."""
    if getattr(x, "is_fully_addressable", True):
        return bool(np.all(np.isfinite(x)))
    return bool(jax.jit(_all_finite, out_shardings=along(x.sharding.mesh))(x))


def _all_finite(x: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(x))


def _is_key(x: PyTree) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
