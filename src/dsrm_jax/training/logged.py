"""The training log as an offline method sees it: slates of consecutive logged items under the environment's own leave rule.

Shapes: B lanes, T steps, K slate size, N log rows, J catalogue items.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from dsrm_jax.agents.agent import LoggedData, Transition
from dsrm_jax.purify.perception import Perceive, Perception
from dsrm_jax.purify.view import Catalogue
from dsrm_jax.simulator.environment import Environment, Observation
from dsrm_jax.simulator.history import append, history_before, keep_last
from dsrm_jax.simulator.world import History, World
from dsrm_jax.types import PyTree

LANES = 256
STEPS = 64
SEARCH = 8  # a slate's K items are sought among the next 8 K rows of the user


@struct.dataclass
class _Replayed:
    """Logged sessions being read: the next row of the log, what the user has seen, what the leave rule remembers."""

    row: Int[Array, "B"]
    history: History
    temper: PyTree
    time: Int[Array, "B"]


def logged_data(
    key: jax.Array,
    environment: Environment,
    world: World,
    perception: Perception,
    perceive: Perceive,
    catalogue: Catalogue,
) -> LoggedData:
    """Read sessions from the training log, with the logging policy's slates and the logged clicks.

    A session starts at a uniformly drawn row, as in the simulator. A step shows the next K distinct catalogue items that the
    user's log holds after the rows already read and takes their logged clicks; reward, history and leaving follow the
    environment's rules. Where the log runs out another session starts; the last step read is not marked as terminated.

    The key is consumed. Of the environment slate size, reward, leave rule and lengths are read, and of the (training) world
    `starts`, `item` and `is_popular`, never its responses. The perception is one seed's.

    Returns:
        8,192 transitions (some of them twice where the log holds fewer slates), and the whole log's item sequence.
    """
    start_key, scan_key = jax.random.split(key)
    step = _make_step(environment, world, perception, perceive, catalogue)
    lanes = _arrive(start_key, environment, world)
    _, (read, found) = jax.lax.scan(step, lanes, jax.random.split(scan_key, STEPS))
    read, found = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (read, found))
    first = jnp.argsort(~found, stable=True)  # the steps that found a slate, in order
    kept = first[jnp.arange(LANES * STEPS // 2) % jnp.maximum(jnp.sum(found), 1)]
    return LoggedData(
        transitions=jax.tree.map(lambda x: x[kept], read),
        item=_positions(catalogue)[world.starts.item],
        user=world.starts.user,
    )


def next_slate(
    world: World, position: Int[Array, "V"], row: Int[Array, ""], *, slate_size: int
) -> tuple[Int[Array, "K"], Bool[Array, "K"], Int[Array, ""], Bool[Array, ""]]:
    """Return the next K distinct catalogue items that one user's log holds from a row on.

    `position` is the catalogue position of each vocabulary index, or -1; `row` the first row of the world's log that may be read.

    Returns:
        `(slate, click, following, found)`: catalogue positions, logged clicks, the row after the last one read, and whether K
        items were found among the next `SEARCH` K rows of the user of `row`.
    """
    starts = world.starts
    num_rows = starts.user.shape[0]
    rows = row + jnp.arange(SEARCH * slate_size)
    inside = jnp.minimum(rows, num_rows - 1)
    item = position[starts.item[inside]]
    repeated = jnp.any(jnp.tril(item[:, None] == item[None, :], k=-1), axis=1)
    usable = (rows < starts.first[starts.user[jnp.minimum(row, num_rows - 1)] + 1]) & (item >= 0) & ~repeated
    rank = jnp.cumsum(usable) - 1
    chosen = usable & (rank < slate_size)
    slot = jnp.where(chosen, rank, slate_size)
    slate = jnp.zeros(slate_size + 1, jnp.int32).at[slot].set(item)[:slate_size]
    click = jnp.zeros(slate_size + 1, bool).at[slot].set(starts.click[inside])[:slate_size]
    return slate, click, jnp.max(jnp.where(chosen, rows + 1, 0)), jnp.sum(usable) >= slate_size


def _arrive(key: jax.Array, environment: Environment, world: World) -> _Replayed:
    row = jax.random.randint(key, (LANES,), 0, world.starts.user.shape[0])
    history = jax.vmap(lambda r: history_before(world.starts, r, length=environment.history_length))(row)
    history = keep_last(history, environment.arrival_length)
    temper = jax.tree.map(lambda x: jnp.broadcast_to(x, (LANES, *x.shape)), environment.leave.start())
    return _Replayed(row, history, temper, jnp.zeros(LANES, jnp.int32))


def _positions(catalogue: Catalogue) -> Int[Array, "V"]:
    assert catalogue.position is not None  # `make_catalogue` always sets it
    return catalogue.position


def _make_step(
    environment: Environment, world: World, perception: Perception, perceive: Perceive, catalogue: Catalogue
) -> Callable[[_Replayed, jax.Array], tuple[_Replayed, tuple[Transition, jax.Array]]]:
    """Build the body of the scan over steps: read a slate, follow the leave rule, start again where a session is over."""
    slate_size = environment.slate_size
    position = _positions(catalogue)
    none = jnp.zeros(LANES, jnp.int32)  # the log chose every event

    def step(lanes: _Replayed, key: jax.Array) -> tuple[_Replayed, tuple[Transition, jax.Array]]:
        arrive_key, view_key, next_key = jax.random.split(key, 3)
        slate, click, row, found = jax.vmap(lambda r: next_slate(world, position, r, slate_size=slate_size))(lanes.row)
        num_popular = jnp.sum(world.is_popular[slate], axis=1, dtype=jnp.int32)
        temper, terminated = jax.vmap(environment.leave.step)(lanes.temper, click, num_popular)
        history = jax.vmap(append)(lanes.history, world.item[slate], click)
        moved = _Replayed(row, history, temper, lanes.time + 1)
        read = Transition(
            view=perceive(perception, view_key, Observation(lanes.history, lanes.time, none)),
            slate=slate,
            record=(),
            clicks=click,
            reward=jax.vmap(environment.reward, in_axes=(0, 0, None))(click, slate, world).astype(jnp.float32),
            popular_share=num_popular / slate_size,
            terminated=terminated,
            next_view=perceive(perception, next_key, Observation(moved.history, moved.time, none)),
        )
        over = terminated | ~found | (moved.time >= environment.max_steps)

        def choose(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(over.reshape(over.shape + (1,) * (old.ndim - 1)), new, old)

        return jax.tree.map(choose, _arrive(arrive_key, environment, world), moved), (read, found)

    return step
