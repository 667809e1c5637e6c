"""Names of a mesh's axes, and how a program that knows of no mesh says what may be spread over one."""

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Shaped

SEEDS, USERS = "seeds", "users"


def user_devices() -> int:
    """Return how many devices share the users in the mesh in use (`jax.set_mesh`); 1 without one."""
    return jax.sharding.get_abstract_mesh().shape.get(USERS, 1)


def spread_over_users(x: Shaped[Array, "..."], *, axis: int) -> Shaped[Array, "..."]:
    """Lay an axis of an array along the users of the mesh in use; without one nothing happens.

    For arrays whose axis is no users' axis, such as a minibatch drawn from all of them, so that every device takes its share.
    """
    if user_devices() == 1:
        return x
    spec: list[object] = [P.UNCONSTRAINED] * x.ndim
    spec[axis] = USERS
    return jax.lax.with_sharding_constraint(x, P(*spec))
