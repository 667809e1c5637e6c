"""FLAT, the ablation of the hierarchy (Table 3): DSRM-HRL's states and slates, one policy, one reward, one value.

One network emits the goal z = (w_acc, w_fair), a Gaussian draw, and the query; the slate is drawn from Eq. (6)'s scores as
in DSRM-HRL. The action is (z, slate), its log-probability the sum of theirs, and its reward Eq. (4). Everything else (states,
scores, quota, advantage of a slot, clipping per draw) is DSRM-HRL's own code.

Shapes: B users, T steps, N = T B samples, K slate size, J items, D state dimensions, E = D + 2.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.a2c import Value, actor_critic_optimiser, rollout_advantage
from dsrm_jax.agents.agent import Agent, Rollout
from dsrm_jax.agents.dsrm_hrl import factored_scores, goal_from, popular_slots, slot_credit
from dsrm_jax.agents.fairness import Exposure, observe_slates, slate_fairness, start_exposure
from dsrm_jax.agents.minibatches import deal, descend, flatten_time
from dsrm_jax.agents.networks import MLP, lifted_vectors
from dsrm_jax.agents.ppo import (
    approx_kl,
    clipped_surrogate,
    epoch_indices,
    explained_variance,
    gaussian_entropy,
    gaussian_log_prob,
    gaussian_sample,
    normalise,
    sampled_entropy,
    value_loss,
)
from dsrm_jax.agents.slates import greedy_slate, sample_slate, slate_log_prob
from dsrm_jax.config import AgentConfig
from dsrm_jax.purify.view import Catalogue, View


@struct.dataclass
class FlatState:
    """Arrays of the agent: parameters, the optimiser's state, exposure counts for Eq. (4)."""

    params: dict[str, Any]
    opt_state: Any
    exposure: Exposure


@struct.dataclass
class FlatDecision:
    """What `act` records beside the slate.

    Attributes:
        output: `(..., 2)` float32, the raw Gaussian draw; `goal_from` turns it into z.
        log_prob: `(..., K + 1)` float32: of the output, then of each slot.
        value: `(...)` float32.
    """

    output: Float[Array, "... 2"]
    log_prob: Float[Array, "... K+1"]
    value: Float[Array, "..."]


class Emission(NamedTuple):
    """What the policy says of a state: the goal's Gaussian, and the query and sharpness of the slate."""

    mean: Float[Array, "... 2"]
    log_std: Float[Array, "2"]
    query: Float[Array, "... E"]
    sharpness: Float[Array, ""]


class FlatPolicy(nn.Module):
    """One network for goal and query: `(state (..., D), sharpness) -> Emission`.

    It starts where manager and worker start: goal's mean zero and deviation exp(-1.5), query (state, 1, 0), sharpness as given.
    """

    hidden: int

    @nn.compact
    def __call__(self, state: Float[Array, "... D"], sharpness: float | Float[Array, ""]) -> Emission:
        """Return the emission."""
        one = jnp.ones((*state.shape[:-1], 1), state.dtype)
        anchor = jnp.concatenate([state, one, jnp.zeros_like(one)], axis=-1)
        joint = MLP(self.hidden, 2 + anchor.shape[-1])(state)
        log_std = self.param("log_std", nn.initializers.constant(-1.5), (2,))
        log_sharpness = self.param("log_sharpness", nn.initializers.zeros, ())
        return Emission(joint[..., :2], log_std, anchor + joint[..., 2:], sharpness * jnp.exp(log_sharpness))


class _Parts(NamedTuple):
    """What the three functions of the agent are closed over: static, but for the floats of `config`."""

    config: AgentConfig
    slate_size: int
    policy: FlatPolicy
    value: Value
    optimiser: optax.GradientTransformation


def make_flat(config: AgentConfig, *, slate_size: int) -> Agent:
    """Build FLAT.

    Args:
        config: DSRM-HRL's own fields; `manager_discount` is the one discount, `worker_discount` is not read. Floats may be
            traced.
        slate_size: K.

    Returns:
        The `Agent`.
    """
    optimiser = actor_critic_optimiser(
        config.learning_rate, config.learning_rate, max_grad_norm=config.max_grad_norm
    )
    policy, value = FlatPolicy(config.hidden), Value(config.hidden)
    parts = _Parts(config, slate_size, policy, value, optimiser)
    return Agent(partial(_init, parts), partial(_act, parts), partial(_update, parts))


def _init(parts: _Parts, key: jax.Array, catalogue: Catalogue, logged: Any = None) -> FlatState:
    """`Agent.init`."""
    policy_key, value_key = jax.random.split(key)
    state = jnp.zeros((1, catalogue.vectors.shape[1]))
    params = {
        "policy": parts.policy.init(policy_key, state, parts.config.sharpness),
        "value": parts.value.init(
            value_key, state, jnp.zeros((1,), jnp.int32), parts.config.manager_discount
        ),
    }
    exposure = start_exposure(catalogue.is_popular.shape[0])
    return FlatState(params, parts.optimiser.init(params), exposure)


def _emit(parts: _Parts, params: Any, view: View) -> Emission:
    """Return what the policy says of a view."""
    return parts.policy.apply(params["policy"], view.state, parts.config.sharpness)  # type: ignore[return-value]


def _value(parts: _Parts, params: Any, view: View) -> Float[Array, "..."]:
    """Return the value of a view."""
    discount = parts.config.manager_discount
    return parts.value.apply(params["value"], view.state, view.time, discount)  # type: ignore[return-value]


def _scores(emission: Emission, output: Float[Array, "B 2"], catalogue: Catalogue) -> Float[Array, "B J"]:
    """Return Eq. (6)'s logits of all items."""
    vectors = lifted_vectors(catalogue)
    goal = goal_from(output)
    return factored_scores(emission.query, goal, emission.sharpness, vectors, catalogue).whole()


def _act(
    parts: _Parts, agent: FlatState, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False
) -> tuple[Int[Array, "B K"], FlatDecision]:
    """`Agent.act`."""
    goal_key, slate_key = jax.random.split(key)
    emission = _emit(parts, agent.params, view)
    mean, log_std = emission.mean, emission.log_std
    output = mean if greedy else gaussian_sample(goal_key, mean, log_std)
    scores = _scores(emission, output, catalogue)
    slots = None
    if parts.config.slate_mode == "quota":
        slots = popular_slots(goal_from(output), slate_size=parts.slate_size)
    if greedy:
        slate = greedy_slate(scores, catalogue.is_popular, slots, slate_size=parts.slate_size)
        slot_log_prob = jnp.zeros(slate.shape, scores.dtype)
    else:
        slate, slot_log_prob = sample_slate(
            slate_key, scores, catalogue.is_popular, slots, slate_size=parts.slate_size
        )
    goal_log_prob = gaussian_log_prob(output, mean, log_std)
    log_prob = jnp.concatenate([goal_log_prob[:, None], slot_log_prob], axis=1)
    return slate, FlatDecision(output, log_prob, _value(parts, agent.params, view))


def _update(
    parts: _Parts, agent: FlatState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[FlatState, dict[str, jax.Array]]:
    """`Agent.update`: PPO, `epochs` passes over the rollout in minibatches."""
    config, record = parts.config, rollout.record
    fairness = slate_fairness(agent.exposure, rollout, kind=config.fairness)
    advantage, target = rollout_advantage(
        rollout,
        rollout.reward + config.fairness_weight * fairness,  # Eq. (4)
        record.value,
        partial(_value, parts, agent.params),
        discount=config.manager_discount,
        lam=config.gae_lambda,
    )
    credit = {"goal": advantage, "slots": slot_credit(advantage, rollout, catalogue)}
    batch = flatten_time((rollout.view, record, rollout.slate, target, credit))
    index = epoch_indices(key, advantage.size, epochs=config.epochs, minibatches=config.minibatches)
    *others, credit = deal(batch, index)
    minibatches = (*others, jax.tree.map(jax.vmap(normalise), credit))
    loss = partial(_loss, parts, catalogue=catalogue)
    params, opt_state, metrics = descend(loss, parts.optimiser, agent.params, agent.opt_state, minibatches)
    metrics["explained"] = explained_variance(record.value, target)
    metrics["fairness"] = jnp.mean(fairness)
    return FlatState(params, opt_state, observe_slates(agent.exposure, rollout.slate)), metrics


def _loss(
    parts: _Parts, params: Any, batch: Any, *, catalogue: Catalogue
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the loss of N samples, and diagnostics.

    An action is K + 1 draws, each with its own clipped ratio as in DSRM-HRL: one ratio of the product would clip far sooner.
    """
    view, decision, slate, target, credit = batch
    config = parts.config
    emission = _emit(parts, params, view)
    slots = None
    if config.slate_mode == "quota":
        # Counted on the slate: the goal's share rounded again in another compilation may differ by a slot.
        slots = jnp.sum(catalogue.is_popular[slate], axis=-1, dtype=jnp.int32)
    scores = _scores(emission, decision.output, catalogue)
    slot_log_prob = slate_log_prob(scores, slate, catalogue.is_popular, slots)
    goal_log_prob = gaussian_log_prob(decision.output, emission.mean, emission.log_std)
    log_prob = jnp.concatenate([goal_log_prob[:, None], slot_log_prob], axis=1)
    of_draws = jnp.concatenate([credit["goal"][:, None], credit["slots"]], axis=1)
    surrogate = clipped_surrogate(log_prob, decision.log_prob, of_draws, config.clip)
    entropy = gaussian_entropy(emission.log_std) + jnp.mean(
        jnp.sum(sampled_entropy(slot_log_prob, decision.log_prob[:, 1:]), axis=-1)
    )
    error = jnp.mean(value_loss(_value(parts, params, view), target))
    loss = -jnp.mean(jnp.sum(surrogate, axis=-1)) + config.value_weight * error
    loss = loss - config.entropy_weight * entropy
    goal = goal_from(decision.output)
    metrics = {
        "loss": loss,
        "value_loss": error,
        "kl": approx_kl(log_prob, decision.log_prob),
        "entropy": -jnp.mean(jnp.sum(slot_log_prob, axis=-1)),
        "goal_std": jnp.mean(jnp.exp(emission.log_std)),
        "goal_accuracy": jnp.mean(goal[:, 0]),
        "goal_fairness": jnp.mean(goal[:, 1]),
    }
    return loss, metrics
