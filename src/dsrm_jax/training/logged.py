"""The training log as an offline method sees it: slates of consecutive logged items under the environment's own leave rule.

Shapes: B lanes, T steps, K slate size, N log rows, J catalogue items.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from dsrm_jax.agents.agent import LoggedData, Transition
from dsrm_jax.purify.perception import Perceive, Perception
from dsrm_jax.purify.view import Catalogue
from dsrm_jax.simulator import mechanism as remembering
from dsrm_jax.simulator.environment import Environment, Observation
from dsrm_jax.simulator.history import append, history_before, keep_last
from dsrm_jax.simulator.mechanism import Memories
from dsrm_jax.simulator.shown import arrival_share
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
    user: Int[Array, "B"]
    memory: Memories | None  # what mechanisms remember, as if the log's slates had been the policy's


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

    Mechanisms remember what the log shows, and make users leave by it; nobody comes back.

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
    mechanisms, memory = environment.mechanisms, None
    row_key, memory_key = jax.random.split(key) if mechanisms else (key, key)
    row = jax.random.randint(row_key, (LANES,), 0, world.starts.user.shape[0])
    history = jax.vmap(lambda r: history_before(world.starts, r, length=environment.history_length))(row)
    history = keep_last(history, environment.arrival_length)
    temper = jax.tree.map(lambda x: jnp.broadcast_to(x, (LANES, *x.shape)), environment.leave.start())
    user = world.starts.user[row]
    if mechanisms:
        share = jax.vmap(lambda row, length: arrival_share(world, row, length))(row, history.length)
        start = jax.vmap(lambda key, user, share: remembering.begin(key, mechanisms, user, share, world))
        memory = start(jax.random.split(memory_key, LANES), user, share)
    return _Replayed(row, history, temper, jnp.zeros(LANES, jnp.int32), user, memory)


def _observed(environment: Environment, lanes: _Replayed) -> Observation:
    """Return what a policy would have seen; the log chose every event."""
    shown = lanes.memory
    context = None if shown is None else jax.vmap(lambda m: remembering.context(environment.mechanisms, m))(shown)
    return Observation(lanes.history, lanes.time, jnp.zeros(LANES, jnp.int32), context)


def _remember(
    key: jax.Array, environment: Environment, world: World, lanes: _Replayed, slate: jax.Array, click: jax.Array
) -> tuple[PyTree, Memories, Bool[Array, "B"]]:
    """Return temper and memories after slates that were read, `lanes.temper` being that of the leave rule, and who leaves."""
    mechanisms, charge = environment.mechanisms, environment.leave.charge
    assert lanes.memory is not None

    def one(
        key: jax.Array, temper: PyTree, memory: Memories, user: jax.Array, slate: jax.Array, click: jax.Array
    ) -> tuple[PyTree, Memories, jax.Array]:
        left = jnp.zeros((), bool)
        if charge is not None:
            temper, left = charge(temper, remembering.total_cost(mechanisms, memory, user, slate, world))
        memory = remembering.advance(key, mechanisms, memory, user, slate, click, world)
        return temper, memory, left | remembering.any_leaves(mechanisms, memory)

    return jax.vmap(one)(jax.random.split(key, LANES), lanes.temper, lanes.memory, lanes.user, slate, click)


def _positions(catalogue: Catalogue) -> Int[Array, "V"]:
    assert catalogue.position is not None  # `make_catalogue` always sets it
    return catalogue.position


def _make_step(
    environment: Environment, world: World, perception: Perception, perceive: Perceive, catalogue: Catalogue
) -> Callable[[_Replayed, jax.Array], tuple[_Replayed, tuple[Transition, jax.Array]]]:
    """Build the body of the scan over steps: read a slate, follow the leave rule, start again where a session is over."""
    slate_size = environment.slate_size
    position = _positions(catalogue)

    def step(lanes: _Replayed, key: jax.Array) -> tuple[_Replayed, tuple[Transition, jax.Array]]:
        arrive_key, view_key, next_key, *rest = jax.random.split(key, 4 if environment.mechanisms else 3)
        slate, click, row, found = jax.vmap(lambda r: next_slate(world, position, r, slate_size=slate_size))(lanes.row)
        num_popular = jnp.sum(world.is_popular[slate], axis=1, dtype=jnp.int32)
        temper, terminated = jax.vmap(environment.leave.step)(lanes.temper, click, num_popular)
        history = jax.vmap(append)(lanes.history, world.item[slate], click)
        memory = lanes.memory
        if memory is not None:
            temper, memory, left = _remember(rest[0], environment, world, replace(lanes, temper=temper), slate, click)
            terminated |= left
        moved = _Replayed(row, history, temper, lanes.time + 1, lanes.user, memory)
        read = Transition(
            view=perceive(perception, view_key, _observed(environment, lanes)),
            slate=slate,
            record=(),
            clicks=click,
            reward=jax.vmap(environment.reward, in_axes=(0, 0, None))(click, slate, world).astype(jnp.float32),
            popular_share=num_popular / slate_size,
            terminated=terminated,
            next_view=perceive(perception, next_key, _observed(environment, moved)),
        )
        over = terminated | ~found | (moved.time >= environment.max_steps)

        def choose(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(over.reshape(over.shape + (1,) * (old.ndim - 1)), new, old)

        return jax.tree.map(choose, _arrive(arrive_key, environment, world), moved), (read, found)

    return step
