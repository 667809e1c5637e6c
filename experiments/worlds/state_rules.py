"""Rules that act on a state, as policies do: likeliest clicks by the frozen encoder, and a count of popular items from what a
platform could know of a world.

Shapes: B sessions in parallel, K slate size, C = K + 1 counts, J items.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import stats

from dsrm_jax.agents.slates import FactoredScores, greedy_slate
from dsrm_jax.purify.encoder import make_catalogue
from dsrm_jax.purify.perception import Perceive, Perception
from dsrm_jax.simulator import presets
from dsrm_jax.simulator.environment import EnvState, Observation
from dsrm_jax.simulator.settings import AppealConfig, RetentionConfig, SatisfactionConfig, ToleranceConfig
from dsrm_jax.simulator.world import World
from dsrm_jax.training.rollout import Act
from experiments.worlds import rules
from experiments.worlds.planning import Effects, User

RANKED = 1e6  # far beyond any logit

# (likeliest popular logits (B, K), likeliest long-tail logits (B, K), sessions) -> (B,) popular items to show
Choose = Callable[[Float[Array, "B K"], Float[Array, "B K"], EnvState], Int[Array, "B"]]


class Told(NamedTuple):
    """What a rule is told of a world's users: population means, and what of its mechanisms follows from them."""

    effects: Effects
    offset: float = 0.0  # of all click logits
    appeal: float = 0.0  # mean of what users add to popular items' logits
    threshold: float = np.inf  # mean tolerance of net exposure
    tolerance: ToleranceConfig | None = None


def told_of(preset: str, effects: Effects) -> Told:
    """Return what the one-step-aware rule is told of a preset."""
    chosen: Mapping[str, Any] = presets.PRESETS[preset].get("mechanisms", {})
    told = Told(effects)
    if "appeal" in chosen:
        appeal = AppealConfig(**chosen["appeal"])
        told = told._replace(offset=appeal.offset, appeal=appeal.mean)
    if "satisfaction" in chosen:
        tired = SatisfactionConfig(**chosen["satisfaction"])
        told = told._replace(threshold=(tired.lowest_tolerance + tired.highest_tolerance) / 2)
    if "retention" in chosen:
        coming = RetentionConfig(**chosen["retention"])
        told = told._replace(threshold=(coming.lowest_tolerance + coming.highest_tolerance) / 2)
    if "tolerance" in chosen:
        told = told._replace(tolerance=ToleranceConfig(**chosen["tolerance"]))
    return told


def by_state(perceive: Perceive, perception: Perception, world: World, size: int, choose: Choose) -> Act:
    """Return the rule that fills each group's part of a slate with the likeliest clicks."""
    catalogue = make_catalogue(perception.encoder.embeddings, world)

    def act(key: jax.Array, env: EnvState, observation: Observation) -> tuple[Int[Array, "B K"], tuple[()]]:
        view = perceive(perception, key, observation)
        logit = FactoredScores(view.state, catalogue.vectors, catalogue.bias).whole()
        popular, tail = (
            jax.lax.top_k(jnp.where(group, logit, -RANKED), size)[0]
            for group in (catalogue.is_popular, ~catalogue.is_popular)
        )
        count = choose(popular, tail, env)
        return greedy_slate(logit, catalogue.is_popular, count, slate_size=size), ()

    return act


def any_choice(index: Int[Array, ""], chosen: Sequence[Choose]) -> Choose:
    """Return the choice of an index."""
    return lambda popular, tail, env: jax.lax.switch(index, list(chosen), popular, tail, env)


def myopic(popular: Float[Array, "B K"], tail: Float[Array, "B K"], env: EnvState) -> Int[Array, "B"]:
    """Click-myopic: the K likeliest clicks of all, whichever group they are of."""
    size = popular.shape[1]
    best = jax.lax.top_k(jnp.concatenate([popular, tail], axis=1), size)[1]
    return jnp.sum(best < size, axis=1, dtype=jnp.int32)


def constant(count: Int[Array, ""] | int) -> Choose:
    """A constant goal: so many popular items in every slate."""
    return lambda popular, tail, env: jnp.full(popular.shape[:1], count, jnp.int32)


def aware(told: Told, *, reads: bool = False) -> Choose:
    """One-step-aware (`rules.aware`), with the state's clicks and mean appeal for the truth's, and no mood.

    It is told net exposure n, the mean tolerance, and the distribution of the centres of tolerance; where it `reads`, also the
    share of a user's choices that the platform is shown, from which it infers the centre by Bayes' rule.
    """

    def choose(popular: Float[Array, "B K"], tail: Float[Array, "B K"], env: EnvState) -> Int[Array, "B"]:
        batch = popular.shape[0]
        cost = jnp.zeros((batch, told.effects.slate_size + 1))
        if told.tolerance is not None:
            read = (env.memory or {})["tolerance"] if reads else None
            cost = jnp.broadcast_to(_tolerance_cost(told.tolerance, told.effects.slate_size, read), cost.shape)
        known = User(popular + told.offset + told.appeal, tail + told.offset, jnp.full((batch,), told.threshold), cost)
        at = rules.now(env)._replace(mood=jnp.zeros((batch,)))
        worth = jax.vmap(lambda user, now: rules.aware(user, told.effects, now, jnp.float32(0)))(known, at)
        return jnp.argmax(worth, axis=1).astype(jnp.int32)

    return choose


def _tolerance_cost(config: ToleranceConfig, size: int, read: Float[Array, "B"] | None) -> Float[Array, "... C"]:
    """Return the patience that each count is expected to cost, units of 1/K, given the share of choices that was read."""
    centre = np.linspace(0.0, 1.0, 201)
    prior = stats.norm.pdf(centre, config.mean, config.spread)
    prior[0], prior[-1] = (
        201 * p for p in stats.norm.cdf([-config.mean / config.spread, (config.mean - 1) / config.spread])
    )
    share = np.arange(size + 1) / size
    costs = config.penalty * size * (np.abs(share - centre[:, None]) >= config.bound)
    weight = jnp.asarray(prior)
    if read is not None:
        likely = jnp.clip(jnp.asarray(centre), 1e-4, 1 - 1e-4)
        chosen = config.choices * read[:, None]
        weight = weight * jnp.exp(chosen * jnp.log(likely) + (config.choices - chosen) * jnp.log1p(-likely))
    return weight @ jnp.asarray(costs, jnp.float32) / jnp.sum(weight, axis=-1, keepdims=True)


def renumbered(act: Act, drawn: Int[Array, "U"]) -> Act:
    """Return a rule for a few users, numbered as in `drawn` (sorted), in a world that numbers all its users."""

    def by_place(key: jax.Array, env: EnvState, observation: Observation) -> tuple[Int[Array, "B K"], Any]:
        return act(key, replace(env, user=jnp.searchsorted(drawn, env.user).astype(jnp.int32)), observation)

    return by_place
