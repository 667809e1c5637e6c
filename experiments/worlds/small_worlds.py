"""Each mechanism by itself in a world of 120 items: who chooses by taste alone, who is greedy about what users feel, and who also
pays for what a slate leaves behind.

Shapes: J items, C categories, K slate size, B users.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dsrm_jax.simulator import mechanism as remembering
from dsrm_jax.simulator.clickbait import clickbait
from dsrm_jax.simulator.environment import Environment, EnvState, Observation, make_environment
from dsrm_jax.simulator.leave import make_stay
from dsrm_jax.simulator.presets import MECHANISMS
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.settings import ClickbaitConfig
from dsrm_jax.simulator.world import SessionStarts, World
from dsrm_jax.training.rollout import Act, Step, play, until_left

USERS, ITEMS, CATEGORIES, POPULAR = 200, 120, 8, 24
PRICES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)

# (session, chances (J,), world) -> (J,) what showing each item now leaves behind, in clicks at a price of 1
Charge = Callable[[EnvState, Float[Array, "J"], World], Float[Array, "J"]]


class Small(NamedTuple):
    """A mechanism under study."""

    settings: Mapping[str, Any]  # of the mechanism
    charge: Charge | None = None  # None: nothing that a planner could save by paying
    environment: Mapping[str, Any] = MappingProxyType({"max_len": 40, "ad_penalty": 0})
    # what is drawn of what users feel, and what it is called; None: the click logit that the shown items gain
    felt: Callable[[EnvState, World], Array] | None = None
    called: str = "click logit gained or lost"


def _crowding(env: EnvState, chance: Float[Array, "J"], world: World) -> Float[Array, "J"]:
    """Clicks of the item's category that are remembered, SARDINE's road to boredom."""
    assert env.memory is not None
    assert world.categories is not None
    return world.categories.astype(jnp.float32) @ env.memory["boredom"].count.astype(jnp.float32)


def _bait(env: EnvState, chance: Float[Array, "J"], world: World) -> Float[Array, "J"]:
    return chance * (clickbait(world, jnp.arange(world.num_items)) - 0.5)


def _leaving(env: EnvState, chance: Float[Array, "J"], world: World) -> Float[Array, "J"]:
    """Whether the item would drive the user away."""
    assert env.memory is not None
    quits, memory = MECHANISMS["quit"](), env.memory["quit"]
    assert quits.leaves is not None

    def one(item: Array) -> Array:
        after = quits.step(jax.random.key(0), memory, (), item[None], jnp.zeros(1, bool), world)
        return quits.leaves(after).astype(jnp.float32)  # type: ignore[misc]

    return jax.vmap(one)(jnp.arange(world.num_items))


def _share_leaving(env: EnvState, world: World) -> Array:
    return jnp.mean(_leaving(env, jnp.zeros(world.num_items), world))


def _satisfied(env: EnvState, world: World) -> Array:
    assert env.memory is not None
    return jax.nn.sigmoid(ClickbaitConfig.sensitivity * env.memory["clickbait"])


STAYING: Mapping[str, Any] = MappingProxyType({"leave": make_stay(), "max_len": 40, "ad_penalty": 0})
SMALL: Mapping[str, Small] = MappingProxyType(
    {
        "fatigue": Small({"item": 0.5, "category": 0.1}),
        "no_repeats": Small({}),
        "drift": Small({"spread": 0.7, "reach": 1.0}),
        "boredom": Small({}, _crowding, STAYING),
        "clickbait": Small({"gain": 2.0}, _bait, felt=_satisfied, called="satisfaction"),
        "quit": Small(
            {},
            _leaving,
            MappingProxyType({**STAYING, "slate_size": 1}),
            _share_leaving,
            "items that would drive users away",
        ),
    }
)


class Shown(NamedTuple):
    """What sessions under one rule came to, `(T, B)` each."""

    felt: np.ndarray  # `Small.felt`
    reward: np.ndarray
    present: np.ndarray  # bool


def small_world(name: str) -> tuple[Environment, World]:
    """Return a mechanism's environment and world: tastes by category, popular items a little better, 8 categories."""
    small, rng = SMALL[name], np.random.default_rng(0)
    environment = make_environment(mechanisms=[MECHANISMS[name](**small.settings)], **small.environment)
    category = rng.integers(CATEGORIES, size=ITEMS)
    logit = rng.normal(size=(USERS, CATEGORIES))[:, category] + 0.5 * rng.normal(size=ITEMS) - 0.5
    rows = jnp.zeros(USERS, jnp.int32)
    rank = -np.log1p(np.arange(ITEMS))
    world = World(
        response=TableResponse(jax.nn.sigmoid(jnp.asarray(logit, jnp.float32))),
        starts=SessionStarts(
            jnp.arange(USERS, dtype=jnp.int32), rows, rows > 0, jnp.arange(USERS + 1, dtype=jnp.int32)
        ),
        item=jnp.arange(ITEMS, dtype=jnp.int32),
        is_popular=jnp.arange(ITEMS) < POPULAR,
        log_popularity=jnp.asarray((rank - rank.mean()) / rank.std(), jnp.float32),
        categories=jnp.asarray(category[:, None] == np.arange(CATEGORIES)),
    )
    return environment, remembering.with_mechanisms(jax.random.key(1), world, environment.mechanisms)


def rules_of(name: str) -> dict[str, Shown]:
    """Play the rules of a mechanism: by taste alone, greedy on what is felt, and at the best of `PRICES` where one pays."""
    environment, world = small_world(name)
    small, everything = SMALL[name], jnp.arange(ITEMS)
    charge = small.charge

    def scores(env: EnvState, felt: Array, price: Array) -> Float[Array, "J"]:
        taste = world.response.click_probability(env.user, everything, env.history)
        chance = jnp.where(felt, environment.chance(env, everything, world), taste)
        return chance if charge is None else chance - price * charge(env, chance, world)

    def act_of(felt: Array, price: Array) -> Act:
        def act(key: jax.Array, state: tuple[EnvState, Array], observation: Observation) -> tuple[Array, tuple[()]]:
            value = jax.vmap(lambda env: scores(env, felt, price))(state[0])
            return jax.lax.top_k(value, environment.slate_size)[1].astype(jnp.int32), ()

        return act

    def keep(_: jax.Array, step: Step) -> tuple[Array, ...]:
        env, present = step.env

        def feels(env: EnvState, slate: Array) -> Array:
            if small.felt is not None:
                return small.felt(env, world)
            base = world.response.click_probability(env.user, slate, env.history)
            logit = jax.scipy.special.logit
            return jnp.mean(logit(jnp.clip(environment.chance(env, slate, world), 1e-6, 1 - 1e-6)) - logit(base))

        return jax.vmap(feels)(env, step.slate), step.reward, present

    @jax.jit
    def program(key: jax.Array, felt: Array, price: Array) -> tuple[Array, ...]:
        act = act_of(felt, price)
        ends = until_left(environment)
        _, kept = play(key, act, ends, world, keep, num_users=USERS, num_steps=environment.max_steps)
        return kept

    def played(felt: bool, price: float, seed: int = 0) -> Shown:
        return Shown(*map(np.asarray, program(jax.random.key(seed), jnp.asarray(felt), jnp.float32(price))))

    found = {"by taste alone": played(False, 0.0), "greedy on what is felt": played(True, 0.0)}
    if charge is not None:
        earned = [total(played(True, price, seed=1)) for price in PRICES]
        best = PRICES[int(np.argmax(earned))]
        found[f"pays for what it leaves ({best:g})"] = played(True, best)
    return found


def total(shown: Shown) -> float:
    """Return the mean R_cum of the sessions."""
    return float(np.where(shown.present, shown.reward, 0.0).sum(axis=0).mean())
