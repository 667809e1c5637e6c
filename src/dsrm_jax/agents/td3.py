"""TD3 (Fujimoto, van Hoof and Meger 2018) over hyper-actions: deterministic actor, twin critics, delayed updates.

What the public re-implementations for recommendation change is not repeated here (facts/methods.md 3.2): the bootstrap is
discounted and masked by termination, the smoothing noise is symmetric and clipped on both sides, exploration perturbs the
policy's hyper-action instead of replacing it, actor and targets move every `delay` critic steps.

Shapes: B users, T steps, N transitions, K slate size, D state dimensions, E = D + 3.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.agent import Agent, Rollout, transitions
from dsrm_jax.agents.hyper_action import (
    Experience,
    experience,
    experience_row,
    explore,
    hyper_slate,
    unit,
)
from dsrm_jax.agents.hyper_actor_critic import (
    HyperActorCritic,
    make_hyper_actor_critic,
    policy,
    start,
    values,
)
from dsrm_jax.agents.replay import (
    Learner,
    Params,
    Replay,
    add,
    descend,
    learn,
    start_replay,
    track,
)
from dsrm_jax.config import AgentConfig
from dsrm_jax.errors import InputError
from dsrm_jax.purify.view import Catalogue, View


@struct.dataclass
class TD3State:
    """Arrays of the agent."""

    learner: Learner
    replay: Replay


def make_td3(config: AgentConfig, *, slate_size: int) -> Agent:
    """Build TD3.

    Args:
        config: `td3` and `replay` hold its settings, `learning_rate` is the critics', `max_grad_norm` clips each network's
            gradient; floats may be traced.
        slate_size: K.

    Returns:
        The `Agent`. Its slate is the top K of the hyper-action's scores; what it records is the hyper-action.

    Raises:
        InputError: where an update's gradient steps are no multiple of the delay.
    """
    if config.replay.gradient_steps % config.td3.delay:
        raise InputError(
            f"agent.replay.gradient_steps is {config.replay.gradient_steps}, and must be a multiple of agent.td3.delay, "
            f"{config.td3.delay}: change either"
        )
    parts = make_hyper_actor_critic(
        config,
        slate_size=slate_size,
        actor_learning_rate=config.td3.actor_learning_rate,
        num_critics=2,
    )
    return Agent(partial(_init, parts), partial(_act, parts), partial(_update, parts))


def td_target(
    parts: HyperActorCritic, target: Params, batch: Experience, noise: Float[Array, "N E"]
) -> Float[Array, "N"]:
    r"""Return the critics' regression target (Fujimoto et al. 2018, Algorithm 1).

    $$y = r + \gamma (1 - \mathrm{terminated}) \min_j Q'_j\big(s', \mu'(s') + \mathrm{clip}(\epsilon, -c, c)\big).$$

    Args:
        parts: of the agent.
        target: parameters of the target networks.
        batch: transitions.
        noise: epsilon, before it is clipped.
    """
    settings = parts.config.td3
    action = policy(parts, target["actor"], batch.next_features[:, :-1])
    action = unit(action + jnp.clip(noise, -settings.noise_clip, settings.noise_clip))
    value = jnp.min(values(parts, target["critic"], batch.next_features, action), axis=-1)
    return batch.reward + settings.discount * jnp.where(batch.terminated, 0.0, value)


def _init(parts: HyperActorCritic, key: jax.Array, catalogue: Catalogue, logged: Any = None) -> TD3State:
    """`Agent.init`."""
    row = experience_row(catalogue)
    features, action = jnp.zeros((1, *row.features.shape)), jnp.zeros((1, *row.action.shape))
    replay = start_replay(row, capacity=parts.config.replay.capacity)
    return TD3State(start(parts, key, features, action), replay)


def _act(
    parts: HyperActorCritic,
    agent: TD3State,
    key: jax.Array,
    view: View,
    catalogue: Catalogue,
    greedy: bool = False,
) -> tuple[Int[Array, "B K"], Float[Array, "B E"]]:
    """`Agent.act`."""
    action = policy(parts, agent.learner.params["actor"], view.state)
    if not greedy:
        action = explore(key, action, parts.config.td3.exploration)
    return hyper_slate(action, catalogue, slate_size=parts.slate_size), action


def _update(
    parts: HyperActorCritic, agent: TD3State, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[TD3State, dict[str, jax.Array]]:
    """`Agent.update`."""
    found = transitions(rollout)
    replay = add(agent.replay, experience(found, found.record, found.reward))
    learner, metrics = learn(
        partial(_gradient_step, parts), agent.learner, key, replay, config=parts.config.replay
    )
    return TD3State(learner, replay), metrics


def _gradient_step(
    parts: HyperActorCritic, learner: Learner, key: jax.Array, batch: Experience, index: jax.Array
) -> tuple[Learner, dict[str, jax.Array]]:
    """Move the critics; every `delay` steps also the actor and the targets."""
    settings = parts.config.td3
    noise = settings.target_noise * jax.random.normal(key, batch.action.shape)
    target = td_target(parts, learner.target, batch, noise)

    def critic_loss(params: Any) -> Any:
        value = values(parts, params, batch.features, batch.action)
        return jnp.mean(jnp.sum(jnp.square(value - target[:, None]), axis=-1)), value

    def actor_loss(params: Any, critic: Any) -> Any:
        action = policy(parts, params, batch.features[:, :-1])
        return -jnp.mean(values(parts, critic, batch.features, action)[:, 0])

    def move_actor(learner: Learner) -> Learner:
        grads = jax.grad(actor_loss)(learner.params["actor"], learner.params["critic"])
        return track(descend(learner, "actor", parts.optimiser["actor"], grads), parts.config.replay.tau)

    (loss, value), grads = jax.value_and_grad(critic_loss, has_aux=True)(learner.params["critic"])
    learner = descend(learner, "critic", parts.optimiser["critic"], grads)
    learner = jax.lax.cond((index + 1) % settings.delay == 0, move_actor, lambda same: same, learner)
    return learner, {"critic_loss": loss, "value": jnp.mean(value), "target": jnp.mean(target)}
