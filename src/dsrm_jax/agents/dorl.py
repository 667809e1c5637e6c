"""DORL (Gao et al. 2023): A2C in a simulator made of the log, on a reward that distrusts the model and the filter bubble.

The penalised reward of an item is r~ = max(0, r_hat - lambda_1 P_U + lambda_2 P_E - R_min): r_hat and P_U from an ensemble of
world models (`world_model`), P_E from the log's own sequences (`log_entropy`), R_min the worst case. A slate's is the mean of
its items'. The clicks of the rollout move the sessions along and never enter the reward.

Shapes: B users, T steps, K slate size.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents import actor_critic
from dsrm_jax.agents.actor_critic import A2CConfig, ActorCritic, ActorCriticState, SlateRecord
from dsrm_jax.agents.agent import Agent, Logged, LoggedData, Method, Rollout
from dsrm_jax.agents.log_entropy import LogEntropy, fit_log_entropy, lowest_entropy, slate_entropy
from dsrm_jax.agents.settings import Head, SharedConfig, settings_of
from dsrm_jax.agents.world_model import fit_world_models, predict_clicks
from dsrm_jax.errors import InputError
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.settings import COUNT, COUNT_OR_ZERO, NON_NEGATIVE, POSITIVE, SHARE_OF_MOST, Range, configuration, number
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.types import PyTree

FLOOR_STATES = 64  # logged states whose whole catalogue is scored to find R_min


@configuration
class DORLConfig:
    """Offline model-based A2C with penalties for uncertainty and for low entropy."""

    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step, in [0, 1)."""
    ensemble: int = number(default=5, within=COUNT)
    """World models."""
    uncertainty_weight: float = number(default=0.5, within=NON_NEGATIVE)
    """lambda_1, weight of the largest predicted variance."""
    entropy_weight: float = number(default=0.05, within=NON_NEGATIVE)
    """lambda_2, weight of the log's next-item entropy."""
    window: int = number(default=2, within=Range(1, 11))
    """Longest tuple of last items, the shown one among them, that the entropy is conditioned on."""
    negatives: int = number(default=1, within=COUNT_OR_ZERO)
    """Items drawn uniformly per logged click, taken as skipped, when the world models are fitted."""
    model_iterations: int = number(default=500, within=COUNT)
    """Adam steps of the world models."""
    model_batch_size: int = number(default=512, within=COUNT)
    """Logged clicks per step and model."""
    model_learning_rate: float = number(default=3e-3, within=POSITIVE)
    """Adam step size of the world models."""


@struct.dataclass
class DORLState:
    """Arrays of the agent."""

    actor_critic: ActorCriticState  # what learns
    models: PyTree  # frozen parameters of the world models, a leading axis of members
    entropy: LogEntropy  # frozen, from the log
    floor: Float[Array, ""]  # `()` float32, R_min


class _Parts(NamedTuple):
    """What the functions of the agent are closed over: static, but for the floats of the settings."""

    settings: DORLConfig
    actor_critic: ActorCritic


def make_dorl(
    *,
    slate_size: int = EnvironmentConfig.slate_size,
    head: Head = SharedConfig.head,
    discount: float = DORLConfig.discount,
    ensemble: int = DORLConfig.ensemble,
    uncertainty_weight: float = DORLConfig.uncertainty_weight,
    entropy_weight: float = DORLConfig.entropy_weight,
    window: int = DORLConfig.window,
    negatives: int = DORLConfig.negatives,
    model_iterations: int = DORLConfig.model_iterations,
    model_batch_size: int = DORLConfig.model_batch_size,
    model_learning_rate: float = DORLConfig.model_learning_rate,
    policy_entropy_weight: float = A2CConfig.entropy_weight,
    minibatches: int = A2CConfig.minibatches,
    actor_learning_rate: float = A2CConfig.actor_learning_rate,
    learning_rate: float = SharedConfig.learning_rate,
    gae_lambda: float = SharedConfig.gae_lambda,
    value_weight: float = SharedConfig.value_weight,
    max_grad_norm: float = SharedConfig.max_grad_norm,
    hidden: int = SharedConfig.hidden,
    sharpness: float = SharedConfig.sharpness,
) -> Agent:
    """Build DORL; keywords are fields of `DORLConfig`, `A2CConfig` and `SharedConfig` (`InputError` out of range), traced or not.

    `policy_entropy_weight` is `A2CConfig.entropy_weight`.

    Returns:
        The `Agent`. Its `init` fits world models and entropies on the log, and raises `InputError` where there is none.
    """
    settings = settings_of(DORLConfig, "dorl", locals())
    shared = settings_of(SharedConfig, "dorl", locals())
    policy = settings_of(A2CConfig, "dorl", locals() | {"entropy_weight": policy_entropy_weight})
    parts = _Parts(settings, actor_critic.make_actor_critic(policy, shared, slate_size=slate_size))
    return Agent(
        partial(_init, parts), partial(_act, parts), partial(_update, parts), grouped=head == "half", offline="log"
    )


DORL = Method(
    "dorl",
    "DORL",
    "offline model-based A2C: ensemble world model, uncertainty and entropy penalties",
    make_dorl,
    (DORLConfig, A2CConfig),
    borrowed={"policy_entropy_weight": (A2CConfig, "entropy_weight")},
    needs_log=True,
    in_model=True,
)


def _init(parts: _Parts, key: jax.Array, catalogue: Catalogue, logged: Logged = None) -> DORLState:
    """`Agent.init`."""
    if logged is None:
        raise InputError("dorl fits its world models on the training log: hand `init` its LoggedData")
    settings = parts.settings
    policy_key, model_key, floor_key = jax.random.split(key, 3)
    models, _ = fit_world_models(
        model_key,
        logged,
        catalogue,
        members=settings.ensemble,
        negatives=settings.negatives,
        iterations=settings.model_iterations,
        batch_size=settings.model_batch_size,
        learning_rate=settings.model_learning_rate,
    )
    entropy = fit_log_entropy(logged.item, logged.user, window=settings.window)
    floor = reward_floor(floor_key, models, entropy, logged, catalogue, settings=settings)
    return DORLState(actor_critic.init_actor_critic(parts.actor_critic, policy_key, catalogue), models, entropy, floor)


def _act(
    parts: _Parts, agent: DORLState, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False
) -> tuple[Int[Array, "B K"], SlateRecord]:
    """`Agent.act`."""
    return actor_critic.act(parts.actor_critic, agent.actor_critic, key, view, catalogue, greedy)


def _update(
    parts: _Parts, agent: DORLState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[DORLState, dict[str, jax.Array]]:
    """`Agent.update`: A2C on the penalised reward."""
    rewards = penalised_rewards(agent, rollout.view, rollout.slate, catalogue, settings=parts.settings)
    reward = jnp.mean(rewards, axis=-1)
    learnt, metrics = actor_critic.improve(parts.actor_critic, agent.actor_critic, key, rollout, reward, catalogue)
    metrics["penalised_reward"] = jnp.mean(reward)
    return replace(agent, actor_critic=learnt), metrics


def penalised_rewards(
    agent: DORLState, view: View, slate: Int[Array, "... K"], catalogue: Catalogue, *, settings: DORLConfig
) -> Float[Array, "... K"]:
    """Return r~ of each item of a slate.

    Args:
        agent: for its frozen parts.
        view: what was seen before the slate, of leading shape `(...)`; names its recent events where the window is over 1.
        slate: catalogue positions.
        catalogue: the items.
        settings: both weights.

    Returns:
        At least 0.
    """
    expected, uncertainty = predict_clicks(
        agent.models, view.state.reshape(-1, view.state.shape[-1]), slate.reshape(-1, slate.shape[-1]), catalogue
    )
    entropy = slate_entropy(agent.entropy, past_positions(view, slate, catalogue), slate)
    value = (expected - settings.uncertainty_weight * uncertainty).reshape(slate.shape)
    return jnp.maximum(0.0, value + settings.entropy_weight * entropy - agent.floor)


def past_positions(view: View, slate: Int[Array, "... K"], catalogue: Catalogue) -> Int[Array, "... R"]:
    """Return the catalogue positions of a view's recent events, -1 where there is none; no events where it names none."""
    if view.recent is None or catalogue.position is None:
        return jnp.zeros((*slate.shape[:-1], 0), jnp.int32)
    return jnp.where(view.recent >= 0, catalogue.position[view.recent], -1)


def reward_floor(
    key: jax.Array,
    models: PyTree,
    entropy: LogEntropy,
    logged: LoggedData,
    catalogue: Catalogue,
    *,
    settings: DORLConfig,
) -> Float[Array, ""]:
    """Return R_min, the least r_hat - lambda_1 P_U of any item in some logged states plus lambda_2 times the least P_E.

    The key is consumed.
    """
    states = logged.transitions.view.state
    row = jax.random.randint(key, (FLOOR_STATES,), 0, states.shape[0])
    everything = jnp.arange(catalogue.bias.shape[0])[None]

    def worst(state: jax.Array) -> jax.Array:
        expected, uncertainty = predict_clicks(models, state[None], everything, catalogue)
        return jnp.min(expected - settings.uncertainty_weight * uncertainty)

    return jnp.min(jax.lax.map(worst, states[row])) + settings.entropy_weight * lowest_entropy(entropy)
