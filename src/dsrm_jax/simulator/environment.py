"""Sessions: users who arrive with a history, click on slates, lose their temper and leave.

`make_environment` builds pure functions for ONE user; `jax.vmap` them over users: `reset`, `step` and a `step_auto_reset` that
starts the next session when one ends; the `World` comes last. For the contracts of Gymnax and Gymnasium see `gymnax_adapter` and
`gymnasium_adapter`.

Shapes: J catalogue items, U users of the world, N log rows, H history length, K slate size.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.errors import InputError
from dsrm_jax.settings import check
from dsrm_jax.simulator import mechanism as remembering
from dsrm_jax.simulator import shown
from dsrm_jax.simulator.history import append, history_before, keep_last, unlogged_before
from dsrm_jax.simulator.leave import Leave, make_temper, unbalanced_slates
from dsrm_jax.simulator.mechanism import Mechanism, Memories
from dsrm_jax.simulator.response import click_logit, slate_probability
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.simulator.spaces import Box, Product, Reals, Slates
from dsrm_jax.simulator.world import History, World
from dsrm_jax.types import PyTree


@struct.dataclass
class Observation:
    """What a policy may see of a user."""

    history: History  # the user's last H events, those of this session included
    time: Int[Array, "..."]  # `(...)` int32 in [0, max_len], steps already taken in the session
    # `(...)` int32 in [0, H], how many of the latest events the training log's policy did not choose: those of this session,
    # and all of a user whose rows are another log's
    unlogged: Int[Array, "..."]
    # `(..., M)` float32, what the platform counts of the session (`mechanism.context`); None without mechanisms
    context: Float[Array, "... M"] | None = None


@struct.dataclass
class EnvState:
    """One session under way; sums are over the session so far, exact but for an own reward's."""

    user: Int[Array, "..."]  # `(...)` int32, user of the world, 0..U-1
    history: History  # the user's last H events
    unlogged: Int[Array, "..."]  # `(...)` int32, see `Observation`
    # what the leave rule remembers: of the paper's, `(...)` int32, patience left in units of 1/K of a step
    temper: PyTree
    time: Int[Array, "..."]  # `(...)` int32, steps taken
    clicks: Int[Array, "..."]  # `(...)` int32, items clicked
    popular: Int[Array, "..."]  # `(...)` int32, popular items shown
    broken: Int[Array, "..."]  # `(...)` int32, slates that broke the bound on abs(2s - 1)
    # `(...)` float32, sum of rewards; None where the reward is `mean_click`, whose sum is clicks / K
    total: Float[Array, "..."] | None = None
    memory: Memories | None = None  # what mechanisms remember, by their names; None without mechanisms
    # where users come back: sessions so far and the steps taken before the present one, `(...)` int32; None elsewhere
    visits: Int[Array, "..."] | None = None
    before: Int[Array, "..."] | None = None


Info = dict[str, PyTree]
Reward = Callable[[Bool[Array, "K"], Int[Array, "K"], World], Float[Array, ""]]
"""`(clicks, slate, world) -> reward`, what a slate was worth to the platform."""
StepResult = tuple[Observation, EnvState, Float[Array, ""], Bool[Array, ""], Bool[Array, ""], Info]


class Environment(NamedTuple):
    """Pure functions of one user, to be mapped with `jax.vmap`, and the static facts that a loop plans by."""

    # `(key, world) -> (observation, state)`. The key is consumed
    reset: Callable[[jax.Array, World], tuple[Observation, EnvState]]
    # `(key, state, slate, world) -> (observation, state, reward, terminated, truncated, info)`; see `make_environment`. The key
    # is consumed
    step: Callable[[jax.Array, EnvState, Int[Array, "K"], World], StepResult]
    # same signature; where the session ended, observation and state begin the next one and `info["final_observation"]` keeps
    # the leaver's last. The key is consumed
    step_auto_reset: Callable[[jax.Array, EnvState, Int[Array, "K"], World], StepResult]
    action_space: Callable[[World], Slates]  # `(world) -> Slates`
    observation_space: Callable[[World], Product]  # `(world) -> Product` of spaces, in the shape of an `Observation`
    # `(state, items (N,), world) -> (N,)`, how likely a user is to click items now, each by itself
    chance: Callable[[EnvState, Int[Array, "N"], World], Float[Array, "N"]]
    slate_size: int  # K
    max_steps: int  # no session is longer
    can_truncate: bool  # whether `truncated` can ever be true; if not, a loop need not keep final observations
    history_length: int  # H, events that a history holds
    arrival_length: int  # logged events that a user arrives with, at most
    leave: Leave  # when users leave
    reward: Reward  # what a slate is worth
    mechanisms: tuple[Mechanism, ...] = ()  # what gives sessions memory
    # `(observation, state) -> (observation, state)` of `(B, ...)` arrays, to be called after every step of B users: what they
    # share is settled among them, and shown; None: they share nothing
    couple: Callable[[Observation, EnvState], tuple[Observation, EnvState]] | None = None


def mean_click(clicks: Bool[Array, "K"], slate: Int[Array, "K"], world: World) -> Float[Array, ""]:
    """Return the share of the shown items that were clicked, the paper's reward."""
    return jnp.sum(clicks, dtype=jnp.int32) / clicks.shape[0]


def check_world(world: World, *, slate_size: int) -> None:
    """Raise `InputError` where a catalogue holds fewer items than a slate, or no log row is there to start sessions from.

    It looks at shapes only, so it costs nothing under `jit`.
    """
    if slate_size > world.num_items:
        raise InputError(
            f"environment.slate_size is {slate_size} but the catalogue holds {world.num_items} items: "
            f"give a slate_size of at most {world.num_items} or a larger catalogue"
        )
    if world.starts.user.shape[0] == 0:
        raise InputError("the world has no log rows to start sessions from: give a log with at least one row")


def make_environment(
    *,
    slate_size: int = EnvironmentConfig.slate_size,
    max_len: int = EnvironmentConfig.max_len,
    history_length: int = EnvironmentConfig.history_length,
    arrival_length: int = EnvironmentConfig.arrival_length,
    ad_bound: float = EnvironmentConfig.ad_bound,
    ad_penalty: int = EnvironmentConfig.ad_penalty,
    double_sigmoid: bool = EnvironmentConfig.double_sigmoid,
    slate_correlation: float = EnvironmentConfig.slate_correlation,
    position_bias: float = EnvironmentConfig.position_bias,
    step_cap: int = EnvironmentConfig.step_cap,
    reward: Reward = mean_click,
    leave: Leave | None = None,
    mechanisms: Sequence[Mechanism] = (),
) -> Environment:
    """Build the simulator of sessions: KuaiSim's, with the fairness-aware leave rule.

    A session starts from a uniformly drawn row of `world.starts`: its user, with the rows before it as history. A step draws one
    click per shown item, takes 2 minus their share (plus `ad_penalty` where abs(2s - 1) reaches `ad_bound`) from the temper, and
    appends all K shown items, in slate order and clicked or not, to the history.

    `step` takes a `(K,)` int32 slate of catalogue positions (positions outside the catalogue are not detected; see
    `Slates.contains`). It returns the reward, `()` float32; `terminated`, `()` bool, the user left; `truncated`, `()` bool, the
    session of a user who would have stayed was cut after `max_steps`; and `info`:

    * `clicks` `(K,)` bool, `popular_share` float32 in [0, 1] and `broken` bool, all of this slate;
    * `ended` bool, whether the session is over, and, over the session so far, `session_length` int32, `session_return` float32
      (sum of rewards), `session_popular_share` and `session_broken_share` float32;
    * `final_observation` (from `step_auto_reset` only): the observation before any reset;
    * with mechanisms that have them: `price`, `() float32`, the platform's for this slate, and `visits` int32, sessions of a user
      who comes back; then `session_` sums are those of all these sessions, and `ended` is when the user stays away.

    The other keywords are the fields of `EnvironmentConfig`, which says what each means; only its floats may be traced.

    `reward`, `(clicks, slate, world) -> () float32`, is what a slate is worth; the paper's temper follows clicks whatever it is.
    `leave` is another rule by which users leave; sessions are then cut after `step_cap` steps, or `max_len` where that is 0.
    `mechanisms` give sessions memory; the world is to be made with them (`make_worlds`).

    Raises:
        InputError: if a setting is out of range or the pieces do not go together; the functions raise it where the world does not
            fit them (`check_world`, `mechanism.trait_of`).
    """
    check(EnvironmentConfig, "environment", **{name: value for name, value in locals().items() if name != "mechanisms"})
    mechanisms = tuple(mechanisms)
    remembering.check_mechanisms(mechanisms)
    can_truncate = leave is not None or 0 < step_cap < max_len
    comes_back = next((m for m in mechanisms if m.returns), None)
    max_steps = ((step_cap or max_len) if can_truncate else max_len) * (comes_back.visits if comes_back else 1)
    rule = leave or make_temper(slate_size=slate_size, max_len=max_len, ad_bound=ad_bound, ad_penalty=ad_penalty)
    unbalanced = unbalanced_slates(slate_size, ad_bound)
    is_broken = rule.broken or (lambda num_popular: unbalanced[num_popular])
    has_own_reward = reward is not mean_click
    has_position_bias = not _is(position_bias, 1)
    plain = not double_sigmoid and _is(slate_correlation, 0)  # the response's own logits are those that clicks follow
    costs = any(m.cost for m in mechanisms)
    if costs and rule.charge is None:
        raise InputError("a mechanism takes temper, which the leave rule does not have: give it a Leave with `charge`")
    shares = any(m.couple for m in mechanisms)

    def observe(state: EnvState) -> Observation:
        return _observe(state, mechanisms)

    def felt(state: EnvState, items: Int[Array, "N"], world: World, correlation: float = 0.0) -> Float[Array, "N"]:
        pairs = world.response, state.user, items, state.history
        told = slate_probability(*pairs, correlation_weight=correlation, double_sigmoid=double_sigmoid)
        logit = click_logit(*pairs) if plain else None
        return remembering.felt(told, mechanisms, state.memory, state.user, items, world, logit=logit)

    def reset(key: jax.Array, world: World) -> tuple[Observation, EnvState]:
        check_world(world, slate_size=slate_size)
        row_key, memory_key = jax.random.split(key) if mechanisms else (key, key)
        row = jax.random.randint(row_key, (), 0, world.starts.user.shape[0])
        history = history_before(world.starts, row, length=history_length)
        history = keep_last(history, arrival_length)
        zero = jnp.zeros((), jnp.int32)
        user = world.starts.user[row]
        memory = None
        if mechanisms:
            share = shown.arrival_share(world, row, history.length)
            memory = remembering.begin(memory_key, mechanisms, user, share, world)
        state = EnvState(
            user=user,
            history=history,
            unlogged=unlogged_before(world.starts, row, length=history.length),
            temper=rule.start(),
            time=zero,
            clicks=zero,
            popular=zero,
            broken=zero,
            total=jnp.zeros((), jnp.float32) if has_own_reward else None,
            memory=memory,
            visits=zero + 1 if comes_back else None,
            before=zero if comes_back else None,
        )
        return observe(state), state

    def step(key: jax.Array, state: EnvState, slate: Int[Array, "K"], world: World) -> StepResult:
        check_world(world, slate_size=slate_size)
        chex.assert_shape(slate, (slate_size,))
        click_key, memory_key, return_key = jax.random.split(key, 3) if mechanisms else (key, key, key)
        probability = felt(state, slate, world, slate_correlation)
        if has_position_bias:
            probability *= position_bias ** jnp.arange(slate_size, dtype=jnp.float32)
        clicks = jax.random.uniform(click_key, (slate_size,)) < probability
        num_clicks = jnp.sum(clicks, dtype=jnp.int32)
        num_popular = jnp.sum(world.is_popular[slate], dtype=jnp.int32)
        broken = is_broken(num_popular)
        temper, terminated = rule.step(state.temper, clicks, num_popular)
        check_answers(state.temper, temper, terminated)
        earned = scalar(reward(clicks, slate, world))
        memory, price = state.memory, None
        if memory is not None:
            price = remembering.price_of(mechanisms, memory)
            if costs:
                assert rule.charge is not None
                cost = remembering.total_cost(mechanisms, memory, state.user, slate, world)
                temper, spent = rule.charge(temper, cost)
                terminated |= spent
            memory = remembering.advance(memory_key, mechanisms, memory, state.user, slate, clicks, world)
            terminated |= remembering.any_leaves(mechanisms, memory)
        state = replace(
            state,
            history=append(state.history, world.item[slate], clicks),
            unlogged=jnp.minimum(state.unlogged + slate_size, history_length),
            temper=temper,
            time=state.time + 1,
            clicks=state.clicks + num_clicks,
            popular=state.popular + num_popular,
            broken=state.broken + broken.astype(jnp.int32),
            total=None if state.total is None else state.total + earned,
            memory=memory,
        )
        if comes_back:
            state, back = return_of(return_key, comes_back, rule, state, terminated, world)
            terminated &= ~back
        truncated = ~terminated & (state.time >= max_steps) if can_truncate else jnp.zeros((), bool)
        info = {"clicks": clicks, "popular_share": num_popular / slate_size, "broken": broken}
        info |= session_sums(state, slate_size=slate_size) | {"ended": terminated | truncated}
        info |= {} if price is None else {"price": price}
        return observe(state), state, earned, terminated, truncated, info

    def step_auto_reset(key: jax.Array, state: EnvState, slate: Int[Array, "K"], world: World) -> StepResult:
        step_key, reset_key = jax.random.split(key)
        final, state, reward, terminated, truncated, info = step(step_key, state, slate, world)
        begun = reset(reset_key, world)
        if shares and state.memory is not None and begun[1].memory is not None:
            lasting = remembering.lasting(mechanisms, state.memory, begun[1].memory)
            begun = observe(replace(begun[1], memory=lasting)), replace(begun[1], memory=lasting)
        observation, state = jax.tree.map(lambda new, old: jnp.where(info["ended"], new, old), begun, (final, state))
        return observation, state, reward, terminated, truncated, info | {"final_observation": final}

    def couple(observation: Observation, state: EnvState) -> tuple[Observation, EnvState]:
        assert state.memory is not None
        state = replace(state, memory=remembering.couple(mechanisms, state.memory))
        return replace(observation, context=jax.vmap(observe)(state).context), state

    return Environment(
        reset=reset,
        step=step,
        step_auto_reset=step_auto_reset,
        action_space=lambda world: Slates(world.num_items, slate_size),
        chance=felt,
        observation_space=lambda world: observation_space(history_length, max_steps, _num_seen(reset, world)),
        slate_size=slate_size,
        max_steps=max_steps,
        can_truncate=can_truncate,
        history_length=history_length,
        arrival_length=arrival_length,
        leave=rule,
        reward=reward,
        mechanisms=mechanisms,
        couple=couple if shares else None,
    )


def return_of(
    key: jax.Array, comes_back: Mechanism, rule: Leave, state: EnvState, left: Bool[Array, ""], world: World
) -> tuple[EnvState, Bool[Array, ""]]:
    """Return the state of a user who may come back after leaving, and whether they did: with fresh temper and what is remembered.

    The key is consumed.
    """
    assert comes_back.returns is not None
    assert state.memory is not None
    assert state.visits is not None
    assert state.before is not None
    trait = remembering.trait_of(comes_back, state.user, world)
    likely = comes_back.returns(state.memory[comes_back.name], trait)
    back = left & (state.visits < comes_back.visits) & (jax.random.uniform(key) < likely)
    temper = jax.tree.map(lambda new, old: jnp.where(back, new, old), rule.start(), state.temper)
    before = jnp.where(back, state.time, state.before)
    return replace(state, temper=temper, visits=state.visits + back.astype(jnp.int32), before=before), back


def _is(setting: float, value: int) -> bool:
    """Return whether a float that may be traced is known to be a value."""
    return isinstance(setting, float | int) and setting == value


def check_answers(before: PyTree, after: PyTree, left: Bool[Array, ""]) -> None:
    """Raise `InputError` where a leave rule's memory changed its shapes or types, or `left` is not one bool."""
    old, new = (jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), memory) for memory in (before, after))
    if old != new:
        raise InputError(f"the leave rule's memory was {old} and became {new} (shapes, types): expected the same")
    if jnp.shape(left) != () or not jnp.issubdtype(jnp.result_type(left), jnp.bool_):
        raise InputError(
            f"the leave rule's step says {jnp.result_type(left)} of shape {jnp.shape(left)}: expected one bool"
        )


def scalar(reward: Float[Array, ""]) -> Float[Array, ""]:
    """Return a reward as `()` float32; raises `InputError` where it is not one number."""
    if jnp.shape(reward) != ():
        raise InputError(f"the reward has the shape {jnp.shape(reward)}: expected one number per slate")
    return jnp.asarray(reward, jnp.float32)


def _observe(state: EnvState, mechanisms: Sequence[Mechanism]) -> Observation:
    """Return what a policy may see of a session: the history, who chose it, the time, what was counted; never user or temper."""
    time = state.time if state.before is None else state.time - state.before
    context = None if state.memory is None else remembering.context(mechanisms, state.memory)
    return Observation(state.history, time, state.unlogged, context)


def _num_seen(reset: Callable[[jax.Array, World], tuple[Observation, EnvState]], world: World) -> int | None:
    """Return M, the numbers that an observation's context holds; None without mechanisms."""
    seen = jax.eval_shape(reset, jax.random.key(0), world)[0].context
    return None if seen is None else int(seen.shape[0])


def session_sums(state: EnvState, *, slate_size: int) -> Info:
    """Return what `make_environment` tells of a session so far, after at least one step."""
    sums = {
        "session_length": state.time,
        "session_return": state.clicks / slate_size if state.total is None else state.total,
        "session_popular_share": state.popular / (slate_size * state.time),
        "session_broken_share": state.broken / state.time,
    }
    return sums if state.visits is None else sums | {"visits": state.visits}


def observation_space(length: int, max_steps: int, num_seen: int | None = None) -> Product:
    """Return the space of observations; vocabulary indices are bounded by their data type alone, what is counted by nothing."""
    history = History(
        item=Box(0, int(jnp.iinfo(jnp.int32).max), (length,)),  # type: ignore[arg-type]
        click=Box(0, 1, (length,), jnp.bool_),  # type: ignore[arg-type]
        length=Box(0, length),  # type: ignore[arg-type]
    )
    counts = Box(0, max_steps), Box(0, length)
    context = None if num_seen is None else Reals((num_seen,))
    return Product(Observation(history, *counts, context))  # type: ignore[arg-type]
