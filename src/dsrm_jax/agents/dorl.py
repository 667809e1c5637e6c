"""DORL (Gao et al. 2023): A2C in a simulator made of the log, on a reward that distrusts the model and the filter bubble.

The penalised reward of an item is r~ = max(0, r_hat - lambda_1 P_U + lambda_2 P_E - R_min): r_hat and P_U from an ensemble of
world models (`world_model`), P_E from the log's own sequences (`log_entropy`), R_min the worst case. A slate's is the mean of
its items'. The clicks of the rollout move the sessions along and never enter the reward.

Shapes: B users, T steps, K slate size.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.a2c import ActorCriticState, act, improve, init_actor_critic, make_actor_critic
from dsrm_jax.agents.agent import Agent, LoggedData, Rollout
from dsrm_jax.agents.log_entropy import LogEntropy, fit_log_entropy, lowest_entropy, slate_entropy
from dsrm_jax.agents.world_model import fit_world_models, predict_clicks
from dsrm_jax.config import AgentConfig, DORLConfig
from dsrm_jax.errors import InputError
from dsrm_jax.purify.view import Catalogue, View

FLOOR_STATES = 64  # logged states whose whole catalogue is scored to find R_min


@struct.dataclass
class DORLState:
    """Arrays of the agent.

    Attributes:
        actor_critic: what learns.
        models: frozen parameters of the world models, a leading axis of members.
        entropy: frozen, from the log.
        floor: `()` float32, R_min.
    """

    actor_critic: ActorCriticState
    models: Any
    entropy: LogEntropy
    floor: Float[Array, ""]


def make_dorl(config: AgentConfig, *, slate_size: int) -> Agent:
    """Build DORL.

    Args:
        config: `dorl`, and `a2c` for all of the actor-critic but the discount; floats may be traced.
        slate_size: K.

    Returns:
        The `Agent`. Its `init` fits world models and entropies on the log, and raises `InputError` where there is none.
    """
    parts = make_actor_critic(config, discount=config.dorl.discount, slate_size=slate_size)

    def init(key: jax.Array, catalogue: Catalogue, logged: LoggedData | None = None) -> DORLState:
        if logged is None:
            raise InputError("dorl fits its world models on the training log: hand `init` its LoggedData")
        policy_key, model_key, floor_key = jax.random.split(key, 3)
        models, _ = fit_world_models(model_key, logged, catalogue, config=config.dorl)
        entropy = fit_log_entropy(logged.item, logged.user, window=config.dorl.window)
        floor = reward_floor(floor_key, models, entropy, logged, catalogue, config=config.dorl)
        return DORLState(init_actor_critic(parts, policy_key, catalogue), models, entropy, floor)

    def act_(agent: DORLState, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False) -> Any:
        return act(parts, agent.actor_critic, key, view, catalogue, greedy)

    return Agent(init, act_, partial(_update, parts), offline="log")


def _update(
    parts: Any, agent: DORLState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[DORLState, dict[str, jax.Array]]:
    """`Agent.update`: A2C on the penalised reward."""
    config = parts.config.dorl
    rewards = penalised_rewards(agent, rollout.view, rollout.slate, catalogue, config=config)
    reward = jnp.mean(rewards, axis=-1)
    learnt, metrics = improve(parts, agent.actor_critic, key, rollout, reward, catalogue)
    metrics["penalised_reward"] = jnp.mean(reward)
    return agent.replace(actor_critic=learnt), metrics  # type: ignore[attr-defined]


def penalised_rewards(
    agent: DORLState,
    view: View,
    slate: Int[Array, "... K"],
    catalogue: Catalogue,
    *,
    config: DORLConfig,
) -> Float[Array, "... K"]:
    """Return r~ of each item of a slate.

    Args:
        agent: for its frozen parts.
        view: what was seen before the slate, of leading shape `(...)`; names its recent events where the window is over 1.
        slate: catalogue positions.
        catalogue: the items.
        config: both weights.

    Returns:
        At least 0.
    """
    expected, uncertainty = predict_clicks(
        agent.models,
        view.state.reshape(-1, view.state.shape[-1]),
        slate.reshape(-1, slate.shape[-1]),
        catalogue,
    )
    entropy = slate_entropy(agent.entropy, past_positions(view, slate, catalogue), slate)
    value = (expected - config.uncertainty_weight * uncertainty).reshape(slate.shape)
    return jnp.maximum(0.0, value + config.entropy_weight * entropy - agent.floor)


def past_positions(view: View, slate: Int[Array, "... K"], catalogue: Catalogue) -> Int[Array, "... R"]:
    """Return the catalogue positions of a view's recent events, -1 where there is none; no events where it names none."""
    if view.recent is None or catalogue.position is None:
        return jnp.zeros((*slate.shape[:-1], 0), jnp.int32)
    return jnp.where(view.recent >= 0, catalogue.position[view.recent], -1)


def reward_floor(
    key: jax.Array,
    models: Any,
    entropy: LogEntropy,
    logged: LoggedData,
    catalogue: Catalogue,
    *,
    config: DORLConfig,
) -> Float[Array, ""]:
    """Return R_min, the least r_hat - lambda_1 P_U of any item in some logged states plus lambda_2 times the least P_E.

    The key is consumed.
    """
    states = logged.transitions.view.state
    row = jax.random.randint(key, (FLOOR_STATES,), 0, states.shape[0])
    everything = jnp.arange(catalogue.bias.shape[0])[None]

    def worst(state: jax.Array) -> jax.Array:
        expected, uncertainty = predict_clicks(models, state[None], everything, catalogue)
        return jnp.min(expected - config.uncertainty_weight * uncertainty)

    return jnp.min(jax.lax.map(worst, states[row])) + config.entropy_weight * lowest_entropy(entropy)
