"""DNaIR (Shi et al., TOIS 2024) on slates: Q-learning over items whose reward also pays for novelty.

The lab's adaptation to session simulators (facts/methods.md 3.6), with its bugs repaired: values come from the target
network, nothing follows a termination, and each item has its own target (`item_values`). Not the original, which fits
one network per user offline.

Shapes: B users, J items, K slate size, D state dimensions.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.agent import Agent, Rollout
from dsrm_jax.agents.hyper_action import item_features
from dsrm_jax.agents.item_values import (
    Experience,
    ItemValues,
    click_probability,
    click_probability_at,
    collected,
    correction,
    correction_at,
    exposure_of,
    one_step_target,
    start_experience,
)
from dsrm_jax.agents.replay import Replay, add, clipped_adam, learn
from dsrm_jax.config import AgentConfig
from dsrm_jax.purify.view import Catalogue, View


@struct.dataclass
class ValueState:
    """Arrays of the agent: parameters, their lagging copy, the optimiser's state, the replay."""

    params: Any
    target: Any
    opt_state: Any
    replay: Replay


class _Parts(NamedTuple):
    """What the agent's functions are closed over: static, but for the floats of `config`."""

    config: AgentConfig
    slate_size: int
    network: ItemValues
    optimiser: optax.GradientTransformation


def make_dnair(config: AgentConfig, *, slate_size: int) -> Agent:
    """Build DNaIR; on purified states it is the paper's DNaIR+DSRM.

    The slate is the top K of Q(s, i) = n_i + p_i(s) + <f(s), x_i>: the known novelty payment (`novelty_bonus`), the frozen
    encoder's click probability, and a learnt correction on `item_features` that starts at zero. Thousands of items are thus
    learnt from few clicks. When it explores, each slot is replaced by a random item (`explore`).

    Args:
        config: `dnair`, `replay`, `hidden`, `learning_rate` and `max_grad_norm` are read; floats may be traced.
        slate_size: K.

    Returns:
        The `Agent`; its `init` raises InputError where the catalogue has no exposure counts.
    """
    parts = _Parts(
        config,
        slate_size,
        ItemValues(config.hidden),
        clipped_adam(config.learning_rate, config.max_grad_norm),
    )
    return Agent(partial(_init, parts), partial(_act, parts), partial(_update, parts))


def novelty_bonus(catalogue: Catalogue, *, weight: float | Float[Array, ""]) -> Float[Array, "J"]:
    """Return weight x quality_i / log10(pop_i + 1.1), what showing an item pays besides its click.

    Quality is the Laplace-smoothed click rate of the training log, pop its exposure scaled to [0, 1] over the catalogue.
    The divisor runs from .041 (never shown: 24 times the quality) to .322 (most shown: 3 times).

    Raises:
        InputError: the catalogue has no exposure counts.
    """
    exposure, clicked = exposure_of(catalogue, "dnair")
    quality = (clicked + 1.0) / (exposure + 2.0)
    spread = jnp.maximum(jnp.max(exposure) - jnp.min(exposure), 1.0)
    popularity = (exposure - jnp.min(exposure)) / spread
    return weight * quality / jnp.log10(jnp.maximum(popularity, 0.0) + 1.1)


def explore(
    key: jax.Array, slate: Int[Array, "B K"], *, num_items: int, probability: float | Float[Array, ""]
) -> Int[Array, "B K"]:
    """Replace each slot, with a probability, by a uniformly random item that the slate does not hold.

    Of two slots that draw the same item the later one keeps its own, so no slate repeats an item.

    Args:
        key: consumed.
        slate: distinct catalogue positions in each row.
        num_items: J; with J = K there is nothing to explore.
        probability: in [0, 1], of each slot.
    """
    slate_size = slate.shape[1]
    if num_items == slate_size:
        return slate
    item_key, slot_key = jax.random.split(key)
    # rank among the items off the slate, then moved past each smaller item on it
    item = jax.random.randint(item_key, slate.shape, 0, num_items - slate_size)
    held = jnp.sort(slate, axis=1)
    for k in range(slate_size):
        item = item + (item >= held[:, k : k + 1])
    earlier = jnp.tril(jnp.ones((slate_size, slate_size), bool), k=-1)
    repeated = jnp.any((item[:, :, None] == item[:, None, :]) & earlier, axis=2)
    replaced = (jax.random.uniform(slot_key, slate.shape) < probability) & ~repeated
    return jnp.where(replaced, item, slate)


def item_targets(
    parts: _Parts, params: Any, target: Any, batch: Experience, catalogue: Catalogue, bonus: Float[Array, "J"]
) -> Float[Array, "N K"]:
    """Return the shaped per-item targets click_k + n_k + gamma (1 - terminated) V(s').

    V(s') is the mean value, by the target network, of the K items that the online network would show (double Q-learning).
    """
    state, time = batch.next_state, batch.next_time
    slate = _best(_values(parts, params, state, time, catalogue, bonus), parts.slate_size)
    following = jnp.mean(_values_at(parts, target, state, time, slate, catalogue, bonus), axis=1)
    reward = batch.clicks.astype(jnp.float32) + bonus[batch.slate]
    return one_step_target(reward, batch.terminated, following, discount=parts.config.dnair.discount)


def _init(parts: _Parts, key: jax.Array, catalogue: Catalogue, logged: Any = None) -> ValueState:
    """`Agent.init`."""
    exposure_of(catalogue, "dnair")
    state = jnp.zeros((1, catalogue.vectors.shape[1]))
    params = parts.network.init(key, state, jnp.zeros((1,), jnp.int32))
    replay = start_experience(catalogue, slate_size=parts.slate_size, capacity=parts.config.replay.capacity)
    return ValueState(params, params, parts.optimiser.init(params), replay)


def _act(
    parts: _Parts,
    agent: ValueState,
    key: jax.Array,
    view: View,
    catalogue: Catalogue,
    greedy: bool = False,
) -> tuple[Int[Array, "B K"], tuple[()]]:
    """`Agent.act`."""
    config = parts.config.dnair
    bonus = novelty_bonus(catalogue, weight=config.novelty_weight)
    slate = _best(_values(parts, agent.params, view.state, view.time, catalogue, bonus), parts.slate_size)
    if greedy:
        return slate, ()
    num_items = catalogue.is_popular.shape[0]
    return explore(key, slate, num_items=num_items, probability=config.exploration), ()


def _update(
    parts: _Parts, agent: ValueState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[ValueState, dict[str, jax.Array]]:
    """`Agent.update`: a rollout into the replay, then gradient steps from it."""
    config = parts.config
    replay = add(agent.replay, collected(rollout))
    bonus = novelty_bonus(catalogue, weight=config.dnair.novelty_weight)

    def step(learner: Any, key: Any, batch: Experience, index: Any) -> tuple[Any, dict[str, jax.Array]]:
        params, target, opt_state = learner
        goal = item_targets(parts, params, target, batch, catalogue, bonus)

        def loss(params: Any) -> jax.Array:
            value = _values_at(parts, params, batch.state, batch.time, batch.slate, catalogue, bonus)
            return jnp.mean(optax.huber_loss(value, goal))

        error, gradient = jax.value_and_grad(loss)(params)
        updates, opt_state = parts.optimiser.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        target = optax.incremental_update(params, target, config.replay.tau)
        return (params, target, opt_state), {"value_loss": error, "value": jnp.mean(goal)}

    learner = agent.params, agent.target, agent.opt_state
    (params, target, opt_state), metrics = learn(step, learner, key, replay, config=config.replay)
    return ValueState(params, target, opt_state, replay), metrics


def _values(
    parts: _Parts,
    params: Any,
    state: Float[Array, "B D"],
    time: Int[Array, "B"],
    catalogue: Catalogue,
    bonus: Float[Array, "J"],
) -> Float[Array, "B J"]:
    """Return Q of every item."""
    weights: Any = parts.network.apply(params, state, time)
    return bonus + click_probability(state, catalogue) + correction(weights, item_features(catalogue))


def _values_at(
    parts: _Parts,
    params: Any,
    state: Float[Array, "B D"],
    time: Int[Array, "B"],
    slate: Int[Array, "B K"],
    catalogue: Catalogue,
    bonus: Float[Array, "J"],
) -> Float[Array, "B K"]:
    """Return Q of the given items."""
    weights: Any = parts.network.apply(params, state, time)
    learnt = correction_at(weights, item_features(catalogue), slate)
    return bonus[slate] + click_probability_at(state, slate, catalogue) + learnt


def _best(values: Float[Array, "B J"], slate_size: int) -> Int[Array, "B K"]:
    """Return the K items of highest value, ties to the smaller position."""
    return jax.lax.top_k(values, slate_size)[1]
