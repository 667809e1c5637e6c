"""DSRM-HRL (section 4.3): a manager that asks for fairness, a worker that fills the slate, on purified states.

The manager draws a goal z = (w_acc, w_fair) from a Gaussian; the worker scores every item by Eq. (6) and draws
a slate whose log-probability is Plackett-Luce; both learn by PPO.

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
from dsrm_jax.agents.actor_critic import adam_apart, rollout_advantage
from dsrm_jax.agents.agent import Agent, Logged, Method, Rollout
from dsrm_jax.agents.fairness import observe_slates, slate_fairness, start_counts
from dsrm_jax.agents.goals import GoalState
from dsrm_jax.agents.networks import Manager, Worker, counted, counted_example, lifted_vectors
from dsrm_jax.agents.settings import SharedConfig, SlateMode, settings_of
from dsrm_jax.agents.slates import FactoredScores, slate_log_prob
from dsrm_jax.errors import InputError
from dsrm_jax.purify.settings import PURIFYING
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.types import PyTree

LEVELS = ("manager", "worker")


@struct.dataclass
class Decision:
    """What `act` records beside the slate, float32; values are V of each level."""

    output: Float[Array, "... 2"]  # the manager's raw Gaussian draw; `goal_from` turns it into z
    manager_log_prob: Float[Array, "..."]
    manager_value: Float[Array, "..."]
    worker_log_prob: Float[Array, "... K"]  # of each slot
    worker_value: Float[Array, "..."]


class _Parts(NamedTuple):
    """What the three functions of the agent are closed over: static, but for the floats of the settings."""

    settings: SharedConfig
    slate_size: int
    manager: nn.Module
    worker: nn.Module
    optimiser: optax.GradientTransformation


def make_dsrm_hrl(
    *,
    slate_size: int = EnvironmentConfig.slate_size,
    manager: nn.Module | None = None,
    worker: nn.Module | None = None,
    slate_mode: SlateMode = SharedConfig.slate_mode,
    fairness: Literal["balance", "gini", "platform"] = SharedConfig.fairness,
    fairness_weight: float = SharedConfig.fairness_weight,
    manager_discount: float = SharedConfig.manager_discount,
    worker_discount: float = SharedConfig.worker_discount,
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
    """Build DSRM-HRL; keywords are fields of `SharedConfig` (`InputError` outside their ranges), traced or not.

    `manager` and `worker` are modules with the contracts of `networks.Manager` and `networks.Worker`, which they are by default.

    Returns:
        The `Agent`. But with `slate_mode="penalty"` the goal also fixes how many slots are popular (`popular_slots`).

    Raises:
        InputError: a value out of range; a manager or worker that is no module.
    """
    settings = settings_of(SharedConfig, "dsrm_hrl", locals())
    levels = {"manager": manager or Manager(hidden, goal_log_deviation), "worker": worker or Worker(hidden)}
    for level, network in levels.items():
        if not isinstance(network, nn.Module):
            raise InputError(f"dsrm_hrl.{level} is a {type(network).__name__}, expected a flax.linen.Module")
    optimiser = adam_apart(dict.fromkeys(LEVELS, learning_rate), max_grad_norm=max_grad_norm)
    parts = _Parts(settings, slate_size, levels["manager"], levels["worker"], optimiser)
    functions = partial(_init, parts), partial(_act, parts), partial(_update, parts)
    return Agent(*functions, grouped=slate_mode != "penalty")


DSRM_HRL = Method(
    "dsrm_hrl",
    "DSRM-HRL",
    "the paper's method: diffusion-purified state, manager and worker by PPO",
    make_dsrm_hrl,
    networks=LEVELS,
    state=PURIFYING,
)
HRL = DSRM_HRL._replace(name="hrl", label="HRL", about="the hierarchy on observed states", state="identity")
HRL_RCE = HRL._replace(name="hrl_rce", label="HRL + RCE", about="the hierarchy on states denoised by R-CE", state="rce")
HRL_TCE = HRL._replace(name="hrl_tce", label="HRL + TCE", about="the hierarchy on states denoised by T-CE", state="tce")
HRL_BOD = HRL._replace(name="hrl_bod", label="HRL + BOD", about="the hierarchy on states denoised by BOD", state="bod")


def manager_loss(
    log_prob: Float[Array, "N"],
    old_log_prob: Float[Array, "N"],
    advantage: Float[Array, "N"],
    value: Float[Array, "N"],
    target: Float[Array, "N"],
    log_std: Float[Array, "2"],
    *,
    settings: SharedConfig,
) -> Float[Array, ""]:
    """PPO loss of the manager, whose reward is Eq. (4); entropy is the Gaussian's own."""
    surrogate = jnp.mean(ppo.clipped_surrogate(log_prob, old_log_prob, advantage, settings.clip))
    error = jnp.mean(ppo.value_loss(value, target))
    return -surrogate + settings.value_weight * error - settings.entropy_weight * ppo.gaussian_entropy(log_std)


def worker_loss(
    log_prob: Float[Array, "N K"],
    old_log_prob: Float[Array, "N K"],
    advantage: Float[Array, "N K"],
    value: Float[Array, "N"],
    target: Float[Array, "N"],
    *,
    settings: SharedConfig,
) -> Float[Array, ""]:
    """PPO loss of the worker, slot by slot: a slate is K draws, each with its own ratio and advantage."""
    surrogate = ppo.clipped_surrogate(log_prob, old_log_prob, advantage, settings.clip)
    entropy = jnp.mean(jnp.sum(ppo.sampled_entropy(log_prob, old_log_prob), axis=-1))
    error = jnp.mean(ppo.value_loss(value, target))
    loss = -jnp.mean(jnp.sum(surrogate, axis=-1)) + settings.value_weight * error
    return loss - settings.entropy_weight * entropy


def _init(parts: _Parts, key: jax.Array, catalogue: Catalogue, logged: Logged = None) -> GoalState:
    """`Agent.init`."""
    manager_key, worker_key = jax.random.split(key)
    num_items, dim = catalogue.vectors.shape
    state, time, goal = jnp.zeros((1, dim)), jnp.zeros((1,), jnp.int32), jnp.zeros((1, 2))
    params = {
        "manager": parts.manager.init(manager_key, state, time, *counted_example(catalogue)),
        "worker": parts.worker.init(
            worker_key, state, goal, time, parts.settings.sharpness, *counted_example(catalogue)
        ),
    }
    return GoalState(params, parts.optimiser.init(params), start_counts(num_items))


def _act(
    parts: _Parts, agent: GoalState, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False
) -> tuple[Int[Array, "B K"], Decision]:
    """`Agent.act`."""
    goal_key, slate_key = jax.random.split(key)
    mean, log_std, manager_value = _manage(parts, agent.params, view)
    output = mean if greedy else ppo.gaussian_sample(goal_key, mean, log_std)
    scores, worker_value = _score_items(parts, agent.params, view, output, catalogue)
    slate, log_prob = goals.fill_slate(
        slate_key,
        scores,
        output,
        catalogue,
        slate_mode=parts.settings.slate_mode,
        slate_size=parts.slate_size,
        greedy=greedy,
        excluded=view.excluded,
    )
    return slate, Decision(
        output=output,
        manager_log_prob=ppo.gaussian_log_prob(output, mean, log_std),
        manager_value=manager_value,
        worker_log_prob=log_prob,
        worker_value=worker_value,
    )


def _update(
    parts: _Parts, agent: GoalState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[GoalState, dict[str, jax.Array]]:
    """`Agent.update`: PPO on both levels, `epochs` passes over the rollout in minibatches."""
    settings, record = parts.settings, rollout.record
    fairness = slate_fairness(agent.shown, rollout, kind=settings.fairness)
    advantage, target = _level_advantages(parts, agent.params, rollout, fairness)
    credit = {"manager": advantage["manager"], "worker": goals.slot_credit(advantage["worker"], rollout, catalogue)}
    loss = partial(_losses, parts, catalogue=catalogue)
    params, opt_state, metrics = goals.proximal_epochs(
        loss, parts.optimiser, agent, key, rollout, (target, credit), settings=settings
    )
    metrics["manager_explained"] = ppo.explained_variance(record.manager_value, target["manager"])
    metrics["worker_explained"] = ppo.explained_variance(record.worker_value, target["worker"])
    metrics["fairness"] = jnp.mean(fairness)
    return GoalState(params, opt_state, observe_slates(agent.shown, rollout.slate)), metrics


def _manage(
    parts: _Parts, params: PyTree, view: View
) -> tuple[Float[Array, "... 2"], Float[Array, "2"], Float[Array, "..."]]:
    """Return `(mean, log_std, value)` of `networks.Manager`; its value is of a reward per step, over the discount's horizon."""
    found: PyTree = parts.manager.apply(params["manager"], view.state, view.time, *counted(view))
    mean, log_std, value = found
    return mean, log_std, value / (1.0 - parts.settings.manager_discount)


def _work(
    parts: _Parts, params: PyTree, view: View, goal: Float[Array, "... 2"]
) -> tuple[Float[Array, "... E"], Float[Array, ""], Float[Array, "..."]]:
    """Return `(query, sharpness, value)` of `networks.Worker`, its value scaled as the manager's."""
    sharpness = parts.settings.sharpness
    found: PyTree = parts.worker.apply(params["worker"], view.state, goal, view.time, sharpness, *counted(view))
    query, sharpness, value = found
    return query, sharpness, value / (1.0 - parts.settings.worker_discount)


def _score_items(
    parts: _Parts, params: PyTree, view: View, output: Float[Array, "B 2"], catalogue: Catalogue
) -> tuple[FactoredScores, Float[Array, "B"]]:
    """Return the worker's logits of all items, never multiplied out for a large catalogue, and its value."""
    goal = goals.goal_from(output)
    query, sharpness, value = _work(parts, params, view, goal)
    goal = goals.scoring_goal(goal, slate_mode=parts.settings.slate_mode)
    return goals.factored_scores(query, goal, sharpness, lifted_vectors(catalogue), catalogue), value


def _losses(
    parts: _Parts, params: PyTree, batch: PyTree, *, catalogue: Catalogue
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the sum of both levels' losses on N samples, and diagnostics."""
    view, decision, slate, target, credit = batch
    settings = parts.settings
    mean, log_std, manager_value = _manage(parts, params, view)
    manager_log_prob = ppo.gaussian_log_prob(decision.output, mean, log_std)
    scores, worker_value = _score_items(parts, params, view, decision.output, catalogue)
    slots = goals.shown_quota(slate, catalogue, slate_mode=settings.slate_mode)
    log_prob = slate_log_prob(scores, slate, catalogue.is_popular, slots)
    manager_part = manager_loss(
        manager_log_prob,
        decision.manager_log_prob,
        credit["manager"],
        manager_value,
        target["manager"],
        log_std,
        settings=settings,
    )
    worker_part = worker_loss(
        log_prob, decision.worker_log_prob, credit["worker"], worker_value, target["worker"], settings=settings
    )
    goal = goals.goal_from(decision.output)
    metrics = {
        "manager_loss": manager_part,
        "worker_loss": worker_part,
        "worker_kl": ppo.approx_kl(log_prob, decision.worker_log_prob),
        "manager_kl": ppo.approx_kl(manager_log_prob, decision.manager_log_prob),
        "worker_entropy": -jnp.mean(jnp.sum(log_prob, axis=-1)),
        "manager_std": jnp.mean(jnp.exp(log_std)),
        "goal_accuracy": jnp.mean(goal[:, 0]),
        "goal_fairness": jnp.mean(goal[:, 1]),
    }
    return manager_part + worker_part, metrics


def _level_advantages(
    parts: _Parts, params: PyTree, rollout: Rollout, fairness: Float[Array, "T B"]
) -> tuple[dict[str, Float[Array, "T B"]], dict[str, Float[Array, "T B"]]]:
    """Return advantages and value targets of each level, on its own reward and discount."""
    settings, record = parts.settings, rollout.record

    shaped = rollout.reward + settings.fairness_weight * fairness  # Eq. (4)
    reward = {"manager": shaped, "worker": rollout.reward}
    value = {"manager": record.manager_value, "worker": record.worker_value}
    discount = {"manager": settings.manager_discount, "worker": settings.worker_discount}
    advantage, target = {}, {}
    for level in LEVELS:
        advantage[level], target[level] = rollout_advantage(
            rollout,
            reward[level],
            value[level],
            partial(_level_value, parts, params, level),
            discount=discount[level],
            lam=settings.gae_lambda,
        )
    return advantage, target


def _level_value(parts: _Parts, params: PyTree, level: str, view: View) -> Float[Array, "..."]:
    """Return the value of one level where the manager acts by its mean."""
    mean, _, value = _manage(parts, params, view)
    return value if level == "manager" else _work(parts, params, view, goals.goal_from(mean))[2]
