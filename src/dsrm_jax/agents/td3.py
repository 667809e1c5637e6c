"""TD3 (Fujimoto, van Hoof and Meger 2018) over hyper-actions: deterministic actor, twin critics, delayed updates.

What public re-implementations change (code/model/agent/TD3.py of github.com/Applied-Machine-Learning-Lab/KuaiSim) is not
repeated here: the bootstrap is discounted and masked by termination, the smoothing noise is symmetric and clipped on both sides,
exploration perturbs the policy's hyper-action instead of replacing it, actor and targets move every `delay` critic steps.

Shapes: B users, T steps, N transitions, K slate size, D state dimensions, E = D + 3.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dsrm_jax.agents import hyper_action as hyper
from dsrm_jax.agents import replay
from dsrm_jax.agents.agent import Agent, Logged, Method, Rollout, transitions
from dsrm_jax.agents.networks import seen
from dsrm_jax.agents.replay import Experience, Learner, Metrics, Params, Parts, ReplayConfig, ReplayState
from dsrm_jax.agents.settings import Head, SharedConfig
from dsrm_jax.errors import InputError
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.settings import COUNT, NON_NEGATIVE, POSITIVE, SHARE_OF_MOST, configuration, number
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.types import PyTree


@configuration
class TD3Config:
    """Twin delayed deep deterministic policy gradient over hyper-actions."""

    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step, in [0, 1)."""
    actor_learning_rate: float = number(default=1e-3, within=POSITIVE)
    """Adam step size of the actor."""
    exploration: float = number(default=0.5, within=NON_NEGATIVE)
    """Standard deviation of the exploration noise, per coordinate of the hyper-action."""
    target_noise: float = number(default=0.1, within=NON_NEGATIVE)
    """Standard deviation of the target policy's smoothing noise."""
    noise_clip: float = number(default=0.25, within=NON_NEGATIVE)
    """Bound on the smoothing noise."""
    delay: int = number(default=2, within=COUNT)
    """Critic steps per actor step."""


def make_td3(
    *,
    slate_size: int = EnvironmentConfig.slate_size,
    head: Head = SharedConfig.head,
    discount: float = TD3Config.discount,
    actor_learning_rate: float = TD3Config.actor_learning_rate,
    exploration: float = TD3Config.exploration,
    target_noise: float = TD3Config.target_noise,
    noise_clip: float = TD3Config.noise_clip,
    delay: int = TD3Config.delay,
    capacity: int = ReplayConfig.capacity,
    batch_size: int = ReplayConfig.batch_size,
    gradient_steps: int = ReplayConfig.gradient_steps,
    warm_up: int = ReplayConfig.warm_up,
    tau: float = ReplayConfig.tau,
    learning_rate: float = SharedConfig.learning_rate,
    max_grad_norm: float = SharedConfig.max_grad_norm,
    hidden: int = SharedConfig.hidden,
) -> Agent:
    """Build TD3; keywords are fields of `TD3Config`, `ReplayConfig`, `SharedConfig` (`InputError` out of range), traced or not.

    `learning_rate` is the critics', `max_grad_norm` clips each network's gradient.

    Returns:
        The `Agent`. Its slate is the top K of the hyper-action's scores; what it records is the hyper-action.

    Raises:
        InputError: a value out of range; gradient steps of an update that are no multiple of the delay.
    """
    rates = {"actor": actor_learning_rate, "critic": learning_rate}
    parts = replay.make_parts("td3", TD3Config, locals(), hyper.hyper_networks(hidden, 2), rates)
    if gradient_steps % delay:
        raise InputError(
            f"agent.replay.gradient_steps is {gradient_steps}, and must be a multiple of agent.td3.delay, {delay}: "
            "change either"
        )
    return Agent(partial(_init, parts), partial(_act, parts), partial(_update, parts), grouped=head == "half")


TD3 = Method(
    "td3",
    "TD3",
    "twin delayed DDPG over hyper-actions (a vector that scores every item)",
    make_td3,
    (TD3Config, ReplayConfig),
)


def td_target(
    parts: Parts[TD3Config], target: Params, batch: Experience, noise: Float[Array, "N E"]
) -> Float[Array, "N"]:
    r"""Return the critics' regression target (Fujimoto et al. 2018, Algorithm 1).

    $$y = r + \gamma (1 - \mathrm{terminated}) \min_j Q'_j\big(s', \mu'(s') + \mathrm{clip}(\epsilon, -c, c)\big).$$

    Args:
        parts: of the agent.
        target: parameters of the target networks.
        batch: transitions.
        noise: epsilon, before it is clipped.
    """
    settings = parts.settings
    action = hyper.policy(parts, target["actor"], batch.next_features[:, :-1], noise.shape[-1])
    action = hyper.unit(action + jnp.clip(noise, -settings.noise_clip, settings.noise_clip))
    value = jnp.min(parts.apply("critic", target["critic"], batch.next_features, action), axis=-1)
    return batch.reward + settings.discount * jnp.where(batch.terminated, 0.0, value)


def _init(parts: Parts[TD3Config], key: jax.Array, catalogue: Catalogue, logged: Logged = None) -> ReplayState:
    """`Agent.init`."""
    return hyper.start(parts, key, replay.hyper_row(catalogue))


def _act(
    parts: Parts[TD3Config], agent: ReplayState, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False
) -> tuple[Int[Array, "B K"], Float[Array, "B E"]]:
    """`Agent.act`."""
    action = hyper.policy(parts, agent.learner.params["actor"], seen(view), view.state.shape[-1] + 3)
    if not greedy:
        action = hyper.explore(key, action, parts.settings.exploration)
    head, size = parts.shared.head, parts.slate_size
    return hyper.hyper_slate(action, catalogue, slate_size=size, excluded=view.excluded, head=head), action


def _update(
    parts: Parts[TD3Config], agent: ReplayState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[ReplayState, Metrics]:
    """`Agent.update`."""
    found = transitions(rollout)
    rows = replay.experience(found, found.record, found.reward)
    return replay.practise(partial(_gradient_step, parts), agent, key, rows, settings=parts.replay)


def _gradient_step(
    parts: Parts[TD3Config], learner: Learner, key: jax.Array, batch: Experience, index: jax.Array
) -> tuple[Learner, Metrics]:
    """Move the critics; every `delay` steps also the actor and the targets."""
    settings = parts.settings
    noise = settings.target_noise * jax.random.normal(key, batch.action.shape)
    target = td_target(parts, learner.target, batch, noise)

    def critic_loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
        value = parts.apply("critic", params, batch.features, batch.action)
        return jnp.mean(jnp.sum(jnp.square(value - target[:, None]), axis=-1)), value

    def move_actor(learner: Learner) -> Learner:
        def actor_loss(params: PyTree) -> tuple[jax.Array, None]:
            action = hyper.policy(parts, params, batch.features[:, :-1], batch.action.shape[-1])
            return -jnp.mean(parts.apply("critic", learner.params["critic"], batch.features, action)[:, 0]), None

        return replay.track(replay.improve(learner, "actor", parts.optimisers, actor_loss)[0], parts.replay.tau)

    learner, loss, value = replay.improve(learner, "critic", parts.optimisers, critic_loss)
    learner = jax.lax.cond((index + 1) % settings.delay == 0, move_actor, lambda same: same, learner)
    return learner, {"critic_loss": loss, "value": jnp.mean(value), "target": jnp.mean(target)}
