"""MoFIR (Ge et al. 2022): DDPG whose actor and critic are conditioned on a preference between utility and fairness.

One model serves every preference omega on the simplex: the reward is a vector, (mean click, fairness of the slate), so is the
critic's value, and the actor climbs omega's mixture of it. The losses are those of envelope Q-learning (Yang, Sun and
Narasimhan 2019), which MoFIR builds on: it never released code (facts/methods.md 3.4).

Shapes: B users, T steps, N transitions, K slate size, D state dimensions, E = D + 3, two objectives.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.agent import Agent, Rollout, Transition, transitions
from dsrm_jax.agents.hyper_action import (
    Experience,
    experience,
    experience_row,
    explore,
    hyper_slate,
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
from dsrm_jax.purify.view import Catalogue, View

NUM_OBJECTIVES = 2


@struct.dataclass
class MOFIRState:
    """Arrays of the agent; `steps` `()` int32 counts gradient steps, the homotopy's clock."""

    learner: Learner
    steps: Int[Array, ""]
    replay: Replay


def make_mofir(config: AgentConfig, *, slate_size: int) -> Agent:
    """Build MoFIR.

    Args:
        config: `mofir` and `replay` hold its settings, `learning_rate` is the critic's, `max_grad_norm` clips each network's
            gradient; floats may be traced.
        slate_size: K.

    Returns:
        The `Agent`. While it explores, each user of each step is served under another preference; greedily all are served
        under `config.mofir.preference`. Its slate is the top K of the hyper-action's scores; it records the hyper-action.
    """
    parts = make_hyper_actor_critic(
        config,
        slate_size=slate_size,
        actor_learning_rate=config.mofir.actor_learning_rate,
        num_critics=NUM_OBJECTIVES,
    )
    return Agent(partial(_init, parts), partial(_act, parts), partial(_update, parts))


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
    parts: HyperActorCritic, target: Params, batch: Experience, omega: Float[Array, "N 2"]
) -> Float[Array, "N 2"]:
    r"""Return the critic's regression target, a vector.

    $$y = r + \gamma (1 - \mathrm{terminated}) Q'\big(s', \mu'(s', \omega), \omega\big).$$

    Args:
        parts: of the agent.
        target: parameters of the target networks.
        batch: transitions, with rewards `(N, 2)`.
        omega: preferences; they condition the target actor too.
    """
    action = policy(parts, target["actor"], batch.next_features[:, :-1], omega)
    value = values(parts, target["critic"], batch.next_features, action, omega)
    return batch.reward + parts.config.mofir.discount * jnp.where(batch.terminated[:, None], 0.0, value)


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


def _init(parts: HyperActorCritic, key: jax.Array, catalogue: Catalogue, logged: Any = None) -> MOFIRState:
    """`Agent.init`."""
    row = experience_row(catalogue, num_rewards=NUM_OBJECTIVES)
    features, action = jnp.zeros((1, *row.features.shape)), jnp.zeros((1, *row.action.shape))
    learner = start(parts, key, features, action, jnp.zeros((1, NUM_OBJECTIVES)))
    replay = start_replay(row, capacity=parts.config.replay.capacity)
    return MOFIRState(learner, jnp.zeros((), jnp.int32), replay)


def _act(
    parts: HyperActorCritic,
    agent: MOFIRState,
    key: jax.Array,
    view: View,
    catalogue: Catalogue,
    greedy: bool = False,
) -> tuple[Int[Array, "B K"], Float[Array, "B E"]]:
    """`Agent.act`."""
    settings, batch = parts.config.mofir, view.state.shape[0]
    omega_key, noise_key = jax.random.split(key)
    if greedy:
        omega = jnp.tile(jnp.stack([settings.preference, 1.0 - settings.preference]), (batch, 1))
    else:
        omega = sample_preferences(omega_key, batch)
    action = policy(parts, agent.learner.params["actor"], view.state, omega)
    if not greedy:
        action = explore(noise_key, action, settings.exploration)
    return hyper_slate(action, catalogue, slate_size=parts.slate_size), action


def _update(
    parts: HyperActorCritic, agent: MOFIRState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[MOFIRState, dict[str, jax.Array]]:
    """`Agent.update`."""
    config = parts.config
    found = transitions(rollout)
    reward = reward_vector(found, fairness_reward=config.mofir.fairness_reward)
    replay = add(agent.replay, experience(found, found.record, reward))
    homotopy = jnp.minimum(agent.steps / config.mofir.homotopy_steps, 1.0)
    step = partial(_gradient_step, parts, homotopy)
    learner, metrics = learn(step, agent.learner, key, replay, config=config.replay)
    ready = replay.size >= config.replay.warm_up
    steps = agent.steps + jnp.where(ready, config.replay.gradient_steps, 0)
    return MOFIRState(learner, steps, replay), metrics | {"homotopy": homotopy}


def _gradient_step(
    parts: HyperActorCritic,
    homotopy: jax.Array,
    learner: Learner,
    key: jax.Array,
    batch: Experience,
    index: jax.Array,
) -> tuple[Learner, dict[str, jax.Array]]:
    """Move critic, actor and targets on a batch seen under `num_preferences` preferences each (hindsight relabelling)."""
    copies = parts.config.mofir.num_preferences
    batch = jax.tree.map(lambda x: jnp.tile(x, (copies,) + (1,) * (x.ndim - 1)), batch)
    omega = sample_preferences(key, batch.terminated.shape[0])
    target = td_target(parts, learner.target, batch, omega)

    def loss_of_critic(params: Any) -> Any:
        value = values(parts, params, batch.features, batch.action, omega)
        return critic_loss(value, target, omega, homotopy), value

    def loss_of_actor(params: Any, critic: Any) -> Any:
        action = policy(parts, params, batch.features[:, :-1], omega)
        return -jnp.mean(jnp.sum(omega * values(parts, critic, batch.features, action, omega), axis=-1))

    (loss, value), grads = jax.value_and_grad(loss_of_critic, has_aux=True)(learner.params["critic"])
    learner = descend(learner, "critic", parts.optimiser["critic"], grads)
    grads = jax.grad(loss_of_actor)(learner.params["actor"], learner.params["critic"])
    learner = track(descend(learner, "actor", parts.optimiser["actor"], grads), parts.config.replay.tau)
    mean_value = jnp.mean(value, axis=0)
    return learner, {"critic_loss": loss, "value_utility": mean_value[0], "value_fairness": mean_value[1]}
