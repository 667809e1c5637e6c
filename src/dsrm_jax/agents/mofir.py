"""MoFIR (Ge et al. 2022): DDPG whose actor and critic are conditioned on a preference between utility and fairness.

One model serves every preference omega on the simplex: the reward is a vector, (mean click, fairness of the slate), so is the
critic's value, and the actor climbs omega's mixture of it. The losses are those of envelope Q-learning (Yang, Sun and
Narasimhan 2019; github.com/RunzheYang/MORL), which MoFIR builds on: it never released code.

Shapes: B users, T steps, N transitions, K slate size, D state dimensions, E = D + 3, two objectives.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents import hyper_action as hyper
from dsrm_jax.agents import replay
from dsrm_jax.agents.agent import Agent, Logged, Method, Rollout, Transition, transitions
from dsrm_jax.agents.networks import seen
from dsrm_jax.agents.replay import Experience, Learner, Metrics, Params, Parts, Replay, ReplayConfig, ReplayState
from dsrm_jax.agents.settings import Head, SharedConfig
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.settings import COUNT, NON_NEGATIVE, POSITIVE, SHARE, SHARE_OF_MOST, configuration, number
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.types import PyTree

NUM_OBJECTIVES = 2


@configuration
class MOFIRConfig:
    """Multi-objective DDPG conditioned on a preference between utility and fairness."""

    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step, in [0, 1)."""
    preference: float = number(default=0.5, within=SHARE)
    """Weight of utility at evaluation, in [0, 1]; fairness gets the rest."""
    fairness_reward: Literal["balance", "long_tail"] = "balance"
    """Fairness of a slate with popular share s: balance is 1 - abs(2s - 1), long_tail is 1 - s."""
    num_preferences: int = number(default=4, within=COUNT)
    """Preferences that each transition of a batch is seen under."""
    homotopy_steps: int = number(default=2000, within=COUNT)
    """Gradient steps over which the loss moves from the vector's error to the error of its mixture."""
    exploration: float = number(default=0.3, within=NON_NEGATIVE)
    """Standard deviation of the exploration noise, per coordinate of the hyper-action."""
    actor_learning_rate: float = number(default=3e-4, within=POSITIVE)
    """Adam step size of the actor."""


@struct.dataclass
class MOFIRState:
    """Arrays of the agent; `steps` `()` int32 counts gradient steps, the homotopy's clock."""

    learner: Learner
    steps: Int[Array, ""]
    replay: Replay


def make_mofir(
    *,
    slate_size: int = EnvironmentConfig.slate_size,
    head: Head = SharedConfig.head,
    discount: float = MOFIRConfig.discount,
    preference: float = MOFIRConfig.preference,
    fairness_reward: Literal["balance", "long_tail"] = MOFIRConfig.fairness_reward,
    num_preferences: int = MOFIRConfig.num_preferences,
    homotopy_steps: int = MOFIRConfig.homotopy_steps,
    exploration: float = MOFIRConfig.exploration,
    actor_learning_rate: float = MOFIRConfig.actor_learning_rate,
    capacity: int = ReplayConfig.capacity,
    batch_size: int = ReplayConfig.batch_size,
    gradient_steps: int = ReplayConfig.gradient_steps,
    warm_up: int = ReplayConfig.warm_up,
    tau: float = ReplayConfig.tau,
    learning_rate: float = SharedConfig.learning_rate,
    max_grad_norm: float = SharedConfig.max_grad_norm,
    hidden: int = SharedConfig.hidden,
) -> Agent:
    """Build MoFIR; keywords are fields of `MOFIRConfig`, `ReplayConfig` and `SharedConfig` (`InputError` out of range).

    `learning_rate` is the critic's, `max_grad_norm` clips each network's gradient; floats may be traced.

    Returns:
        The `Agent`. While it explores, each user of each step is served under another preference; greedily all are served
        under `preference`. Its slate is the top K of the hyper-action's scores; it records the hyper-action.
    """
    rates = {"actor": actor_learning_rate, "critic": learning_rate}
    networks = hyper.hyper_networks(hidden, NUM_OBJECTIVES)
    parts = replay.make_parts("mofir", MOFIRConfig, locals(), networks, rates)
    return Agent(partial(_init, parts), partial(_act, parts), partial(_update, parts), grouped=head == "half")


MOFIR = Method(
    "mofir",
    "MOFIR",
    "DDPG with a Q-vector, conditioned on a preference between utility and fairness",
    make_mofir,
    (MOFIRConfig, ReplayConfig),
    replays=True,
)


def sample_preferences(key: jax.Array, num: int) -> Float[Array, "N 2"]:
    """Draw preferences uniformly on the simplex, Dirichlet(1, 1): (utility, fairness); the key is consumed."""
    utility = jax.random.uniform(key, (num,))
    return jnp.stack([utility, 1.0 - utility], axis=-1)


def reward_vector(found: Transition, *, fairness_reward: str) -> Float[Array, "N 2"]:
    """Return the mean click, and fairness, both in [0, 1] and the larger the better.

    Fairness is 1 - abs(2s - 1), s the slate's popular share, for `"balance"`, and the long tail's share 1 - s for `"long_tail"`.
    """
    share = found.popular_share
    fairness = 1.0 - jnp.abs(2.0 * share - 1.0) if fairness_reward == "balance" else 1.0 - share
    return jnp.stack([found.reward, fairness], axis=-1)


def td_target(
    parts: Parts[MOFIRConfig], target: Params, batch: Experience, omega: Float[Array, "N 2"]
) -> Float[Array, "N 2"]:
    r"""Return the critic's regression target, a vector.

    $$y = r + \gamma (1 - \mathrm{terminated}) Q'\big(s', \mu'(s', \omega), \omega\big).$$

    Args:
        parts: of the agent.
        target: parameters of the target networks.
        batch: transitions, with rewards `(N, 2)`.
        omega: preferences; they condition the target actor too.
    """
    action = hyper.policy(parts, target["actor"], batch.next_features[:, :-1], batch.action.shape[-1], omega)
    value = parts.apply("critic", target["critic"], batch.next_features, action, omega)
    return batch.reward + parts.settings.discount * jnp.where(batch.terminated[:, None], 0.0, value)


def critic_loss(
    value: Float[Array, "N 2"],
    target: Float[Array, "N 2"],
    omega: Float[Array, "N 2"],
    homotopy: float | Float[Array, ""],
) -> Float[Array, ""]:
    r"""Return $(1 - \lambda) L_A + \lambda L_B$: squared error of the vector, and of its mixture by the preference.

    $$L_A = E \lVert y - Q \rVert^2, \qquad L_B = E (\omega^\top y - \omega^\top Q)^2.$$

    $L_B$ is the quadratic form that the envelope reference code uses, not the absolute value that its paper prints.
    """
    error = value - target
    whole = jnp.mean(jnp.sum(jnp.square(error), axis=-1))
    mixed = jnp.mean(jnp.square(jnp.sum(omega * error, axis=-1)))
    return (1.0 - homotopy) * whole + homotopy * mixed


def _init(parts: Parts[MOFIRConfig], key: jax.Array, catalogue: Catalogue, logged: Logged = None) -> MOFIRState:
    """`Agent.init`."""
    begun = hyper.start(parts, key, replay.hyper_row(catalogue, NUM_OBJECTIVES), jnp.zeros((1, NUM_OBJECTIVES)))
    return MOFIRState(begun.learner, jnp.zeros((), jnp.int32), begun.replay)


def _act(
    parts: Parts[MOFIRConfig], agent: MOFIRState, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False
) -> tuple[Int[Array, "B K"], Float[Array, "B E"]]:
    """`Agent.act`."""
    settings, batch = parts.settings, view.state.shape[0]
    omega_key, noise_key = jax.random.split(key)
    if greedy:
        omega = jnp.tile(jnp.stack([settings.preference, 1.0 - settings.preference]), (batch, 1))
    else:
        omega = sample_preferences(omega_key, batch)
    action = hyper.policy(parts, agent.learner.params["actor"], seen(view), view.state.shape[-1] + 3, omega)
    if not greedy:
        action = hyper.explore(noise_key, action, settings.exploration)
    head, size = parts.shared.head, parts.slate_size
    return hyper.hyper_slate(action, catalogue, slate_size=size, excluded=view.excluded, head=head), action


def _update(
    parts: Parts[MOFIRConfig], agent: MOFIRState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[MOFIRState, Metrics]:
    """`Agent.update`."""
    settings, found = parts.settings, transitions(rollout)
    reward = reward_vector(found, fairness_reward=settings.fairness_reward)
    rows = replay.experience(found, found.record, reward)
    homotopy = jnp.minimum(agent.steps / settings.homotopy_steps, 1.0)
    step = partial(_gradient_step, parts, homotopy)
    learnt, metrics = replay.practise(step, ReplayState(agent.learner, agent.replay), key, rows, settings=parts.replay)
    ready = learnt.replay.size >= parts.replay.warm_up
    steps = agent.steps + jnp.where(ready, parts.replay.gradient_steps, 0)
    return MOFIRState(learnt.learner, steps, learnt.replay), metrics | {"homotopy": homotopy}


def _gradient_step(
    parts: Parts[MOFIRConfig],
    homotopy: jax.Array,
    learner: Learner,
    key: jax.Array,
    batch: Experience,
    index: jax.Array,
) -> tuple[Learner, Metrics]:
    """Move critic, actor and targets on a batch seen under `num_preferences` preferences each (hindsight relabelling)."""
    copies = parts.settings.num_preferences
    batch = jax.tree.map(lambda x: jnp.tile(x, (copies,) + (1,) * (x.ndim - 1)), batch)
    omega = sample_preferences(key, batch.terminated.shape[0])
    target = td_target(parts, learner.target, batch, omega)

    def loss_of_critic(params: PyTree) -> tuple[jax.Array, jax.Array]:
        value = parts.apply("critic", params, batch.features, batch.action, omega)
        return critic_loss(value, target, omega, homotopy), value

    learner, loss, value = replay.improve(learner, "critic", parts.optimisers, loss_of_critic)
    critic = learner.params["critic"]

    def loss_of_actor(params: PyTree) -> tuple[jax.Array, None]:
        action = hyper.policy(parts, params, batch.features[:, :-1], batch.action.shape[-1], omega)
        value = parts.apply("critic", critic, batch.features, action, omega)
        return -jnp.mean(jnp.sum(omega * value, axis=-1)), None

    learner = replay.track(replay.improve(learner, "actor", parts.optimisers, loss_of_actor)[0], parts.replay.tau)
    mean_value = jnp.mean(value, axis=0)
    return learner, {"critic_loss": loss, "value_utility": mean_value[0], "value_fairness": mean_value[1]}
