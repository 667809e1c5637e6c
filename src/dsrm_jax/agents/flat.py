"""FLAT, the ablation of the hierarchy (Table 3): DSRM-HRL's states and slates, one policy, one reward, one value.

One network emits the goal z = (w_acc, w_fair), a Gaussian draw, and the query; the slate is drawn from Eq. (6)'s scores as
in DSRM-HRL. The action is (z, slate), its log-probability the sum of theirs, and its reward Eq. (4). Everything else (states,
scores, quota, advantage of a slot, clipping per draw) is DSRM-HRL's own code.

Shapes: B users, T steps, N = T B samples, K slate size, J items, D state dimensions, E = D + 2.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents import goals, ppo
from dsrm_jax.agents.actor_critic import Value, adam_apart, rollout_advantage
from dsrm_jax.agents.agent import Agent, Logged, Method, Rollout
from dsrm_jax.agents.fairness import observe_slates, slate_fairness, start_counts
from dsrm_jax.agents.goals import GoalState
from dsrm_jax.agents.networks import MLP, beside, counted, counted_example, example, lifted_vectors, seen
from dsrm_jax.agents.settings import SharedConfig, SlateMode, settings_of
from dsrm_jax.agents.slates import FactoredScores, slate_log_prob
from dsrm_jax.purify.settings import PURIFYING
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.types import PyTree


@struct.dataclass
class FlatDecision:
    """What `act` records beside the slate."""

    output: Float[Array, "... 2"]  # `(..., 2)` float32, the raw Gaussian draw; `goal_from` turns it into z
    log_prob: Float[Array, "... K+1"]  # `(..., K + 1)` float32: of the output, then of each slot
    value: Float[Array, "..."]  # `(...)` float32


class Emission(NamedTuple):
    """What the policy says of a state: the goal's Gaussian, and the query and sharpness of the slate."""

    mean: Float[Array, "... 2"]
    log_std: Float[Array, "2"]
    query: Float[Array, "... E"]
    sharpness: Float[Array, ""]


class FlatPolicy(nn.Module):
    """One network for goal and query: `(state (..., D), sharpness) -> Emission`.

    It starts where manager and worker start: goal's mean zero, query (state, 1, 0), log deviation and sharpness as given.
    """

    hidden: int
    log_deviation: float = -1.5

    @nn.compact
    def __call__(
        self,
        state: Float[Array, "... D"],
        sharpness: float | Float[Array, ""],
        context: Float[Array, "... M"] | None = None,
    ) -> Emission:
        """Return the emission."""
        one = jnp.ones((*state.shape[:-1], 1), state.dtype)
        anchor = jnp.concatenate([state, one, jnp.zeros_like(one)], axis=-1)
        joint = MLP(self.hidden, 2 + anchor.shape[-1])(beside(state, context))
        log_std = self.param("log_std", nn.initializers.constant(self.log_deviation), (2,))
        log_sharpness = self.param("log_sharpness", nn.initializers.zeros, ())
        return Emission(joint[..., :2], log_std, anchor + joint[..., 2:], sharpness * jnp.exp(log_sharpness))


class _Parts(NamedTuple):
    """What the three functions of the agent are closed over: static, but for the floats of the settings."""

    settings: SharedConfig
    slate_size: int
    policy: FlatPolicy
    value: Value
    optimiser: optax.GradientTransformation


def make_flat(
    *,
    slate_size: int = EnvironmentConfig.slate_size,
    slate_mode: SlateMode = SharedConfig.slate_mode,
    fairness: Literal["balance", "gini", "platform"] = SharedConfig.fairness,
    fairness_weight: float = SharedConfig.fairness_weight,
    manager_discount: float = SharedConfig.manager_discount,
    gae_lambda: float = SharedConfig.gae_lambda,
    learning_rate: float = SharedConfig.learning_rate,
    clip: float = SharedConfig.clip,
    entropy_weight: float = SharedConfig.entropy_weight,
    value_weight: float = SharedConfig.value_weight,
    max_grad_norm: float = SharedConfig.max_grad_norm,
    epochs: int = SharedConfig.epochs,
    minibatches: int = SharedConfig.minibatches,
    hidden: int = SharedConfig.hidden,
    sharpness: float = SharedConfig.sharpness,
    goal_log_deviation: float = SharedConfig.goal_log_deviation,
) -> Agent:
    """Build FLAT; keywords are fields of `SharedConfig` (`InputError` outside their ranges), traced or not.

    `manager_discount` is the one discount.
    """
    settings = settings_of(SharedConfig, "flat", locals())
    optimiser = adam_apart({"policy": learning_rate, "value": learning_rate}, max_grad_norm=max_grad_norm)
    parts = _Parts(settings, slate_size, FlatPolicy(hidden, goal_log_deviation), Value(hidden), optimiser)
    functions = partial(_init, parts), partial(_act, parts), partial(_update, parts)
    return Agent(*functions, grouped=slate_mode != "penalty")


FLAT = Method("flat", "FLAT", "DSRM-HRL's states and slates, one single-level policy", make_flat, state=PURIFYING)


def _init(parts: _Parts, key: jax.Array, catalogue: Catalogue, logged: Logged = None) -> GoalState:
    """`Agent.init`."""
    policy_key, value_key = jax.random.split(key)
    num_items, dim = catalogue.vectors.shape
    state, settings = jnp.zeros((1, dim)), parts.settings
    discount = settings.manager_discount
    params = {
        "policy": parts.policy.init(policy_key, state, settings.sharpness, *counted_example(catalogue)),
        "value": parts.value.init(value_key, example(catalogue), jnp.zeros((1,), jnp.int32), discount),
    }
    return GoalState(params, parts.optimiser.init(params), start_counts(num_items))


def _emit(parts: _Parts, params: PyTree, view: View) -> Emission:
    """Return what the policy says of a view."""
    found: PyTree = parts.policy.apply(params["policy"], view.state, parts.settings.sharpness, *counted(view))
    return found


def _value(parts: _Parts, params: PyTree, view: View) -> Float[Array, "..."]:
    """Return the value of a view."""
    discount = parts.settings.manager_discount
    found: PyTree = parts.value.apply(params["value"], seen(view), view.time, discount)
    return found


def _scores(parts: _Parts, emission: Emission, output: Float[Array, "B 2"], catalogue: Catalogue) -> FactoredScores:
    """Return Eq. (6)'s logits of all items."""
    goal = goals.scoring_goal(goals.goal_from(output), slate_mode=parts.settings.slate_mode)
    return goals.factored_scores(emission.query, goal, emission.sharpness, lifted_vectors(catalogue), catalogue)


def _act(
    parts: _Parts, agent: GoalState, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False
) -> tuple[Int[Array, "B K"], FlatDecision]:
    """`Agent.act`."""
    goal_key, slate_key = jax.random.split(key)
    emission = _emit(parts, agent.params, view)
    mean, log_std = emission.mean, emission.log_std
    output = mean if greedy else ppo.gaussian_sample(goal_key, mean, log_std)
    slate, slot_log_prob = goals.fill_slate(
        slate_key,
        _scores(parts, emission, output, catalogue),
        output,
        catalogue,
        slate_mode=parts.settings.slate_mode,
        slate_size=parts.slate_size,
        greedy=greedy,
        excluded=view.excluded,
    )
    goal_log_prob = ppo.gaussian_log_prob(output, mean, log_std)
    log_prob = jnp.concatenate([goal_log_prob[:, None], slot_log_prob], axis=1)
    return slate, FlatDecision(output, log_prob, _value(parts, agent.params, view))


def _update(
    parts: _Parts, agent: GoalState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[GoalState, dict[str, jax.Array]]:
    """`Agent.update`: PPO, `epochs` passes over the rollout in minibatches."""
    settings, value = parts.settings, rollout.record.value
    fairness = slate_fairness(agent.shown, rollout, kind=settings.fairness)
    advantage, target = rollout_advantage(
        rollout,
        rollout.reward + settings.fairness_weight * fairness,  # Eq. (4)
        value,
        partial(_value, parts, agent.params),
        discount=settings.manager_discount,
        lam=settings.gae_lambda,
    )
    credit = {"goal": advantage, "slots": goals.slot_credit(advantage, rollout, catalogue)}
    loss = partial(_loss, parts, catalogue=catalogue)
    params, opt_state, metrics = goals.proximal_epochs(
        loss, parts.optimiser, agent, key, rollout, (target, credit), settings=settings
    )
    metrics["explained"] = ppo.explained_variance(value, target)
    metrics["fairness"] = jnp.mean(fairness)
    return GoalState(params, opt_state, observe_slates(agent.shown, rollout.slate)), metrics


def _loss(
    parts: _Parts, params: PyTree, batch: PyTree, *, catalogue: Catalogue
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the loss of N samples, and diagnostics.

    An action is K + 1 draws, each with its own clipped ratio as in DSRM-HRL: one ratio of the product would clip far sooner.
    """
    view, decision, slate, target, credit = batch
    settings = parts.settings
    emission = _emit(parts, params, view)
    slots = goals.shown_quota(slate, catalogue, slate_mode=settings.slate_mode)
    scores = _scores(parts, emission, decision.output, catalogue)
    slot_log_prob = slate_log_prob(scores, slate, catalogue.is_popular, slots)
    goal_log_prob = ppo.gaussian_log_prob(decision.output, emission.mean, emission.log_std)
    log_prob = jnp.concatenate([goal_log_prob[:, None], slot_log_prob], axis=1)
    of_draws = jnp.concatenate([credit["goal"][:, None], credit["slots"]], axis=1)
    surrogate = ppo.clipped_surrogate(log_prob, decision.log_prob, of_draws, settings.clip)
    entropy = ppo.gaussian_entropy(emission.log_std) + jnp.mean(
        jnp.sum(ppo.sampled_entropy(slot_log_prob, decision.log_prob[:, 1:]), axis=-1)
    )
    error = jnp.mean(ppo.value_loss(_value(parts, params, view), target))
    loss = -jnp.mean(jnp.sum(surrogate, axis=-1)) + settings.value_weight * error
    loss = loss - settings.entropy_weight * entropy
    goal = goals.goal_from(decision.output)
    metrics = {
        "loss": loss,
        "value_loss": error,
        "kl": ppo.approx_kl(log_prob, decision.log_prob),
        "entropy": -jnp.mean(jnp.sum(slot_log_prob, axis=-1)),
        "goal_std": jnp.mean(jnp.exp(emission.log_std)),
        "goal_accuracy": jnp.mean(goal[:, 0]),
        "goal_fairness": jnp.mean(goal[:, 1]),
    }
    return loss, metrics
