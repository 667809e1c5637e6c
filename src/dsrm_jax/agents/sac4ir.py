"""SAC4IR (Shi et al., TSC 2024) on slates: discrete soft actor-critic, whose entropy bound keeps exposure spread.

The corrected form of the lab's follow-up code (facts/methods.md 3.7): the temperature RISES when entropy is below its
target, nothing follows a termination, logits are not squeezed, and the target entropy is within reach.

Shapes: B users, J items, K slate size, D state dimensions, N batch.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.agent import Agent, Rollout
from dsrm_jax.agents.hyper_action import HyperActor, item_features
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
from dsrm_jax.agents.slates import greedy_slate, sample_slate
from dsrm_jax.config import AgentConfig
from dsrm_jax.purify.view import Catalogue, View

LOG_TEMPERATURE = (-10.0, 2.0)  # bounds
LARGEST_WEIGHT = 10.0  # of a click, before self-normalisation


@struct.dataclass
class SoftState:
    """Arrays of the agent.

    Attributes:
        params: `actor`; `critic`, two stacked critics; `log_temperature`.
        target: lagging copy of `critic`.
        opt_state: one optimiser's state for each entry of `params`.
        replay: of `Experience`.
    """

    params: dict[str, Any]
    target: Any
    opt_state: Any
    replay: Replay


class SoftActor(nn.Module):
    """`state (..., D) -> (w (..., E), sharpness)`: logits of the items are sharpness x <w, item features>."""

    hidden: int

    @nn.compact
    def __call__(self, state: Float[Array, "... D"]) -> tuple[Float[Array, "... E"], Float[Array, ""]]:
        """Return the hyper-action and a positive factor that starts at 1."""
        sharpness = jnp.exp(self.param("log_sharpness", nn.initializers.zeros, ()))
        return HyperActor(self.hidden)(state), sharpness


class _Parts(NamedTuple):
    """What the agent's functions are closed over: static, but for the floats of `config`."""

    config: AgentConfig
    slate_size: int
    actor: SoftActor
    critic: ItemValues
    optimiser: optax.GradientTransformation


def make_sac4ir(config: AgentConfig, *, slate_size: int) -> Agent:
    """Build SAC4IR.

    The policy is a softmax over all J items and a slate K draws from it without replacement (Plackett-Luce). Its logits
    start at the frozen encoder's ranking, as sharp as `config.sharpness`; the critics start at the encoder's click
    probability. Expectations over items are exact sums.

    Args:
        config: `sac4ir`, `replay`, `hidden`, `sharpness`, `learning_rate` and `max_grad_norm` are read; floats may be
            traced.
        slate_size: K.

    Returns:
        The `Agent`; greedy, it shows the policy's mode, whose exposure the entropy bound says nothing about. Its `init`
        raises InputError where clicks are to be weighted and the catalogue has no exposure counts.
    """
    labels = ("actor", "critic", "log_temperature")
    optimiser = optax.multi_transform(
        {x: clipped_adam(config.learning_rate, config.max_grad_norm) for x in labels}, {x: x for x in labels}
    )
    parts = _Parts(config, slate_size, SoftActor(config.hidden), ItemValues(config.hidden), optimiser)
    return Agent(partial(_init, parts), partial(_act, parts), partial(_update, parts))


@struct.dataclass
class Policy:
    """A softmax over items: its `probability` `(N, J)` and its `entropy` `(N,)` in nats."""

    probability: Float[Array, "N J"]
    entropy: Float[Array, "N"]


def softmax_policy(logits: Float[Array, "N J"]) -> Policy:
    """Return the softmax of finite logits, at one exponential an item."""
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, axis=1, keepdims=True))
    weight = jnp.exp(shifted)
    total = jnp.sum(weight, axis=1, keepdims=True)
    probability, log_probability = weight / total, shifted - jnp.log(total)
    return Policy(probability, -jnp.sum(probability * log_probability, axis=1))


def temperature_loss(
    log_temperature: Float[Array, ""], entropy: Float[Array, "N"], *, target: float | Float[Array, ""]
) -> Float[Array, ""]:
    """Return log alpha x (H - H_target): its descent raises the temperature where entropy is below the target."""
    return log_temperature * jax.lax.stop_gradient(jnp.mean(entropy) - target)


def click_rewards(
    batch: Experience, catalogue: Catalogue, *, power: float | Float[Array, ""]
) -> Float[Array, "N K"]:
    """Return each click times its inverse-propensity weight.

    The weight is (exposure / median exposure)^-power, clipped to [1/10, 10] and divided by its mean over the batch's slots;
    power 0 gives the clicks themselves.

    Raises:
        InputError: `power` is not 0 and the catalogue has no exposure counts.
    """
    clicks = batch.clicks.astype(jnp.float32)
    if _is_zero(power):
        return clicks
    exposure = exposure_of(catalogue, "sac4ir with a propensity_power")[0] + 1.0
    weight = jnp.clip((exposure / jnp.median(exposure)) ** -power, 1.0 / LARGEST_WEIGHT, LARGEST_WEIGHT)
    shown = weight[batch.slate]
    return clicks * shown / jnp.mean(shown)


def soft_targets(
    parts: _Parts, params: Any, target: Any, batch: Experience, catalogue: Catalogue
) -> Float[Array, "N K"]:
    """Return per-item targets r_k + gamma (1 - terminated) V(s').

    V(s') is the exact sum over items of pi(a | s') [min over both target critics of Q(s', a) - alpha log pi(a | s')].
    """
    config = parts.config.sac4ir
    policy = softmax_policy(_logits(parts, params["actor"], batch.next_state, catalogue))
    least = _least_values(parts, target, batch.next_state, batch.next_time, catalogue)
    temperature = jnp.exp(params["log_temperature"])
    value = jnp.sum(policy.probability * least, axis=1) + temperature * policy.entropy
    reward = click_rewards(batch, catalogue, power=config.propensity_power)
    return one_step_target(reward, batch.terminated, value, discount=config.discount)


def _is_zero(number: float | Float[Array, ""]) -> bool:
    """Return whether a number is known to be 0 before anything runs."""
    return isinstance(number, int | float) and number == 0


def _init(parts: _Parts, key: jax.Array, catalogue: Catalogue, logged: Any = None) -> SoftState:
    """`Agent.init`."""
    config = parts.config
    if not _is_zero(config.sac4ir.propensity_power):
        exposure_of(catalogue, "sac4ir with a propensity_power")
    actor_key, critic_key = jax.random.split(key)
    state, time = jnp.zeros((1, catalogue.vectors.shape[1])), jnp.zeros((1,), jnp.int32)
    critic = jax.vmap(lambda key: parts.critic.init(key, state, time))(jax.random.split(critic_key))
    params = {
        "actor": parts.actor.init(actor_key, state),
        "critic": critic,
        "log_temperature": jnp.log(jnp.float32(config.sac4ir.initial_temperature)),
    }
    replay = start_experience(catalogue, slate_size=parts.slate_size, capacity=config.replay.capacity)
    return SoftState(params, critic, parts.optimiser.init(params), replay)


def _act(
    parts: _Parts,
    agent: SoftState,
    key: jax.Array,
    view: View,
    catalogue: Catalogue,
    greedy: bool = False,
) -> tuple[Int[Array, "B K"], tuple[()]]:
    """`Agent.act`."""
    logits = _logits(parts, agent.params["actor"], view.state, catalogue)
    if greedy:
        return greedy_slate(logits, catalogue.is_popular, None, slate_size=parts.slate_size), ()
    return sample_slate(key, logits, catalogue.is_popular, None, slate_size=parts.slate_size)[0], ()


def _update(
    parts: _Parts, agent: SoftState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[SoftState, dict[str, jax.Array]]:
    """`Agent.update`: a rollout into the replay, then gradient steps from it."""
    replay = add(agent.replay, collected(rollout))

    def step(learner: Any, key: Any, batch: Experience, index: Any) -> tuple[Any, dict[str, jax.Array]]:
        params, target, opt_state = learner
        goal = soft_targets(parts, params, target, batch, catalogue)
        gradient, metrics = jax.grad(partial(_loss, parts), has_aux=True)(params, goal, batch, catalogue)
        updates, opt_state = parts.optimiser.update(gradient, opt_state, params)
        params = dict(optax.apply_updates(params, updates))
        params["log_temperature"] = jnp.clip(params["log_temperature"], *LOG_TEMPERATURE)
        target = optax.incremental_update(params["critic"], target, parts.config.replay.tau)
        return (params, target, opt_state), metrics

    learner = agent.params, agent.target, agent.opt_state
    settings = replace(parts.config.replay, batch_size=parts.config.sac4ir.batch_size)
    (params, target, opt_state), metrics = learn(step, learner, key, replay, config=settings)
    return SoftState(params, target, opt_state, replay), metrics


def _loss(
    parts: _Parts, params: Any, goal: Float[Array, "N K"], batch: Experience, catalogue: Catalogue
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the sum of three losses, each with a gradient in its own parameters alone, and diagnostics."""
    frozen = jax.lax.stop_gradient(params)
    item = item_features(catalogue)
    weights = _both(parts, params["critic"], batch.state, batch.time)
    learnt = jax.vmap(correction_at, in_axes=(0, None, None))(weights, item, batch.slate)
    value = click_probability_at(batch.state, batch.slate, catalogue) + learnt
    critic_loss = jnp.mean(jnp.sum(optax.huber_loss(value, goal[None]), axis=0))
    policy = softmax_policy(_logits(parts, params["actor"], batch.state, catalogue))
    least = _least_values(parts, frozen["critic"], batch.state, batch.time, catalogue)
    temperature = jnp.exp(frozen["log_temperature"])
    expected = jnp.sum(policy.probability * least, axis=1)
    actor_loss = -jnp.mean(expected + temperature * policy.entropy)
    bound = parts.config.sac4ir.entropy_ratio * jnp.log(float(item.shape[0]))
    metrics = {
        "critic_loss": critic_loss,
        "actor_loss": actor_loss,
        "entropy": jnp.mean(policy.entropy),
        "temperature": temperature,
    }
    warming = temperature_loss(params["log_temperature"], policy.entropy, target=bound)
    return critic_loss + actor_loss + warming, metrics


def _logits(
    parts: _Parts, params: Any, state: Float[Array, "B D"], catalogue: Catalogue
) -> Float[Array, "B J"]:
    """Return the policy's logits of every item."""
    action: Any
    sharpness: Any
    action, sharpness = parts.actor.apply(params, state)
    return (parts.config.sharpness * sharpness * action) @ item_features(catalogue).T


def _both(
    parts: _Parts, params: Any, state: Float[Array, "B D"], time: Int[Array, "B"]
) -> Float[Array, "2 B E+1"]:
    """Return the weights of both critics."""
    return jax.vmap(lambda p: parts.critic.apply(p, state, time))(params)  # type: ignore[return-value]


def _least_values(
    parts: _Parts, params: Any, state: Float[Array, "B D"], time: Int[Array, "B"], catalogue: Catalogue
) -> Float[Array, "B J"]:
    """Return the smaller of both critics' Q, for every item."""
    first, second = _both(parts, params, state, time)
    item = item_features(catalogue)
    learnt = jnp.minimum(correction(first, item), correction(second, item))
    return click_probability(state, catalogue) + learnt
