"""What of a run lies along which axis of its mesh: seeds never communicate, users of one seed meet in the update."""

from typing import TypedDict

from jax.sharding import Mesh, NamedSharding

from dsrm_jax.parallel.mesh_axes import SEEDS, USERS
from dsrm_jax.parallel.sharding import along, mesh_of, place
from dsrm_jax.purify.perception import Perception
from dsrm_jax.simulator.world import World
from dsrm_jax.training.loop import TrainState


class Placement(TypedDict, total=False):
    """What `jax.jit` is told of results."""

    out_shardings: tuple[TrainState, NamedSharding]


def state_shardings(mesh: Mesh) -> TrainState:
    """Return how a vmapped training state is placed, as a prefix of its tree: sessions by seed and user, the rest by seed."""
    by_seed, by_user = along(mesh, SEEDS), along(mesh, SEEDS, USERS)
    return TrainState(agent=by_seed, env=by_user, view=by_user, key=by_seed, step=by_seed)  # type: ignore[arg-type]


def place_frozen(mesh: Mesh | None, world: World, perception: Perception) -> tuple[World, Perception]:
    """Place what training only reads: each seed's purifier with its seed, all else on every device."""
    if mesh is None:
        return world, perception
    chosen = None if perception.purifies is None else along(mesh)
    shardings = Perception(encoder=along(mesh), purifier=along(mesh, SEEDS), purifies=chosen)  # type: ignore[arg-type]
    return place(world, along(mesh)), place(perception, shardings)


def placement_of_results(state: TrainState) -> Placement:
    """Return where `state, ... -> (state, metrics)` leaves its results: the state as it came, metrics everywhere.

    Empty where the state is on no mesh, so that one device gets the program that it always got.
    """
    mesh = mesh_of(state.step)
    return {} if mesh is None else {"out_shardings": (state_shardings(mesh), along(mesh))}
