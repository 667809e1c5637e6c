"""DSRM-HRL (section 4.3): a manager that asks for fairness, a worker that fills the slate, on purified states.

The manager draws a goal z = (w_acc, w_fair) from a Gaussian; the worker scores every item by Eq. (6) and draws
a slate whose log-probability is Plackett-Luce; both learn by PPO.

Shapes: B users, T steps, N = T B samples, K slate size, J items, D state dimensions, E = D + 2.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.agent import Agent, Rollout
from dsrm_jax.agents.block_slates import FactoredScores, greedy_slate, sample_slate, slate_log_prob
from dsrm_jax.agents.fairness import Exposure, observe_slates, slate_fairness, start_exposure
from dsrm_jax.agents.item_values import click_probability_at
from dsrm_jax.agents.minibatches import deal, descend, flatten_time
from dsrm_jax.agents.networks import Manager, Worker, lifted_vectors
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
from dsrm_jax.agents.returns import bootstrap_values, generalised_advantage
from dsrm_jax.config import AgentConfig
from dsrm_jax.purify.view import Catalogue, View

FAIR_SCALE = 0.25  # one unit of the manager's output moves w_fair by this much: cosines live in [-1, 1]


@struct.dataclass
class HierarchyState:
    """Arrays of the agent: parameters of both levels, the optimiser's state, exposure counts for Eq. (4)."""

    params: dict[str, Any]
    opt_state: Any
    exposure: Exposure


@struct.dataclass
class Decision:
    """What `act` records beside the slate.

    Attributes:
        output: `(..., 2)` float32, the manager's raw Gaussian draw; `goal_from` turns it into z.
        manager_log_prob: `(...)` float32.
        manager_value, worker_value: `(...)` float32, V of each level.
        worker_log_prob: `(..., K)` float32, per slot.
    """

    output: Float[Array, "... 2"]
    manager_log_prob: Float[Array, "..."]
    manager_value: Float[Array, "..."]
    worker_log_prob: Float[Array, "... K"]
    worker_value: Float[Array, "..."]


def goal_from(output: Float[Array, "... 2"]) -> Float[Array, "... 2"]:
    """Map the manager's output to z = (w_acc, w_fair): w_acc positive, 1 at output 0; w_fair of either sign."""
    w_acc = jax.nn.softplus(output[..., 0]) / jnp.log(2.0)
    return jnp.stack([w_acc, FAIR_SCALE * output[..., 1]], axis=-1)


def popular_slots(goal: Float[Array, "... 2"], *, slate_size: int) -> Int[Array, "..."]:
    """Return how many slots the goal grants the popular group, Eq. (5) read as a quota.

    The share is sigmoid(-w_fair / 0.25), half at w_fair = 0: the more fairness is asked for, the fewer
    popular items. It is rounded to whole slots, half a slot to the long tail.
    """
    share = jax.nn.sigmoid(-goal[..., 1] / FAIR_SCALE)
    return jnp.ceil(slate_size * share - 0.5).astype(jnp.int32)


def factored_scores(
    query: Float[Array, "B E"],
    goal: Float[Array, "B 2"],
    sharpness: Float[Array, ""],
    vectors: Float[Array, "J E"],
    catalogue: Catalogue,
) -> FactoredScores:
    """Eq. (6): sharpness x (w_acc cos(query, e_i) - w_fair log pop_i), the worker's logits, as one inner product.

    Args:
        query: what the worker looks for, from the purified state and the goal.
        goal: z.
        sharpness: inverse temperature of the slate distribution.
        vectors: `lifted_vectors` of the catalogue, all of norm 1.
        catalogue: for its standardised log-popularity.
    """
    unit = query / (jnp.linalg.norm(query, axis=-1, keepdims=True) + 1e-6)
    left = sharpness * jnp.concatenate([goal[:, :1] * unit, -goal[:, 1:]], axis=1)
    right = jnp.concatenate([vectors, catalogue.log_popularity[:, None]], axis=1)
    return FactoredScores(left, right)


def manager_loss(
    log_prob: Float[Array, "N"],
    old_log_prob: Float[Array, "N"],
    advantage: Float[Array, "N"],
    value: Float[Array, "N"],
    target: Float[Array, "N"],
    log_std: Float[Array, "2"],
    *,
    config: AgentConfig,
) -> Float[Array, ""]:
    """PPO loss of the manager, whose reward is Eq. (4); entropy is the Gaussian's own."""
    surrogate = jnp.mean(clipped_surrogate(log_prob, old_log_prob, advantage, config.clip))
    error = jnp.mean(value_loss(value, target))
    return -surrogate + config.value_weight * error - config.entropy_weight * gaussian_entropy(log_std)


def worker_loss(
    log_prob: Float[Array, "N K"],
    old_log_prob: Float[Array, "N K"],
    advantage: Float[Array, "N K"],
    value: Float[Array, "N"],
    target: Float[Array, "N"],
    *,
    config: AgentConfig,
) -> Float[Array, ""]:
    """PPO loss of the worker, slot by slot: a slate is K draws, each with its own ratio and advantage."""
    surrogate = jnp.mean(jnp.sum(clipped_surrogate(log_prob, old_log_prob, advantage, config.clip), axis=-1))
    entropy = jnp.mean(jnp.sum(sampled_entropy(log_prob, old_log_prob), axis=-1))
    error = jnp.mean(value_loss(value, target))
    return -surrogate + config.value_weight * error - config.entropy_weight * entropy


def slot_advantage(
    advantage: Float[Array, "..."], clicks: Float[Array, "... K"], expected_click: Float[Array, "... K"]
) -> Float[Array, "... K"]:
    """Return the slate's advantage with every click but the slot's own replaced by its expectation.

    Slot k gets `advantage - sum over j != k of (clicks_j - expected_j) / K`: given the items, the other slots'
    clicks are noise to the slot's choice. With each item's own click probability as `expected_click` the mean
    policy gradient is the same and its variance smaller; an error in that probability biases the gradient by
    what later slots lose to an earlier choice.

    Args:
        advantage: of the slate, whose reward is the mean click.
        clicks: 0 or 1.
        expected_click: in [0, 1], of each slot's item (`item_values.click_probability_at`).
    """
    surprise = clicks - expected_click
    others = (jnp.sum(surprise, axis=-1, keepdims=True) - surprise) / clicks.shape[-1]
    return advantage[..., None] - others


def slot_credit(
    advantage: Float[Array, "T B"], rollout: Rollout, catalogue: Catalogue
) -> Float[Array, "T B K"]:
    """Return `slot_advantage` of a rollout, with the state's own click probabilities."""
    expected = click_probability_at(rollout.view.state, rollout.slate, catalogue)
    return slot_advantage(advantage, rollout.clicks.astype(jnp.float32), expected)


class _Parts(NamedTuple):
    """What the three functions of the agent are closed over: static, but for the floats of `config`."""

    config: AgentConfig
    slate_size: int
    manager: Manager
    worker: Worker
    optimiser: optax.GradientTransformation


def make_dsrm_hrl(config: AgentConfig, *, slate_size: int) -> Agent:
    """Build DSRM-HRL.

    Args:
        config: weights, discounts and optimiser; floats may be traced.
        slate_size: K.

    Returns:
        The `Agent`. With `slate_mode="quota"` the goal also fixes how many slots are popular
        (`popular_slots`).
    """
    optimiser = optax.multi_transform(
        {level: _optimiser(config) for level in ("manager", "worker")},
        {"manager": "manager", "worker": "worker"},
    )
    parts = _Parts(config, slate_size, Manager(config.hidden), Worker(config.hidden), optimiser)
    return Agent(partial(_init, parts), partial(_act, parts), partial(_update, parts))


def _optimiser(config: AgentConfig) -> optax.GradientTransformation:
    """Return one level's optimiser: gradients are clipped on their own, so neither level drowns the other."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm), optax.adam(config.learning_rate, eps=1e-5)
    )


def _init(parts: _Parts, key: jax.Array, catalogue: Catalogue, logged: Any = None) -> HierarchyState:
    """`Agent.init`."""
    manager_key, worker_key = jax.random.split(key)
    state = jnp.zeros((1, catalogue.vectors.shape[1]))
    time = jnp.zeros((1,), jnp.int32)
    goal = jnp.zeros((1, 2))
    params = {
        "manager": parts.manager.init(manager_key, state, time),
        "worker": parts.worker.init(worker_key, state, goal, time, parts.config.sharpness),
    }
    return HierarchyState(params, parts.optimiser.init(params), start_exposure(catalogue.is_popular.shape[0]))


def _act(
    parts: _Parts,
    agent: HierarchyState,
    key: jax.Array,
    view: View,
    catalogue: Catalogue,
    greedy: bool = False,
) -> tuple[Int[Array, "B K"], Decision]:
    """`Agent.act`."""
    goal_key, slate_key = jax.random.split(key)
    mean, log_std, manager_value = _manage(parts, agent.params, view)
    output = mean if greedy else gaussian_sample(goal_key, mean, log_std)
    scores, worker_value = _score_items(parts, agent.params, view, output, catalogue)
    slots = None
    if parts.config.slate_mode == "quota":
        slots = popular_slots(goal_from(output), slate_size=parts.slate_size)
    if greedy:
        slate = greedy_slate(scores, catalogue.is_popular, slots, slate_size=parts.slate_size)
        log_prob = jnp.zeros(slate.shape, jnp.float32)
    else:
        slate, log_prob = sample_slate(
            slate_key, scores, catalogue.is_popular, slots, slate_size=parts.slate_size
        )
    return slate, Decision(
        output=output,
        manager_log_prob=gaussian_log_prob(output, mean, log_std),
        manager_value=manager_value,
        worker_log_prob=log_prob,
        worker_value=worker_value,
    )


def _update(
    parts: _Parts, agent: HierarchyState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[HierarchyState, dict[str, jax.Array]]:
    """`Agent.update`: PPO on both levels, `epochs` passes over the rollout in minibatches."""
    config = parts.config
    fairness = slate_fairness(agent.exposure, rollout, kind=config.fairness)
    advantage, target = _level_advantages(parts, agent.params, rollout, fairness)
    credit = {"manager": advantage["manager"], "worker": slot_credit(advantage["worker"], rollout, catalogue)}
    batch = flatten_time((rollout.view, rollout.record, rollout.slate, target, credit))
    index = epoch_indices(key, rollout.reward.size, epochs=config.epochs, minibatches=config.minibatches)
    *others, credit = deal(batch, index)
    minibatches = (*others, jax.tree.map(jax.vmap(normalise), credit))
    loss = partial(_losses, parts, catalogue=catalogue)
    params, opt_state, metrics = descend(loss, parts.optimiser, agent.params, agent.opt_state, minibatches)
    metrics["manager_explained"] = explained_variance(rollout.record.manager_value, target["manager"])
    metrics["worker_explained"] = explained_variance(rollout.record.worker_value, target["worker"])
    metrics["fairness"] = jnp.mean(fairness)
    return HierarchyState(params, opt_state, observe_slates(agent.exposure, rollout.slate)), metrics


def _manage(parts: _Parts, params: Any, view: View) -> Any:
    """Return `(mean, log_std, value)` of `networks.Manager`; its value is of a reward per step, over the discount's horizon."""
    found: Any = parts.manager.apply(params["manager"], view.state, view.time)
    mean, log_std, value = found
    return mean, log_std, value / (1.0 - parts.config.manager_discount)


def _work(parts: _Parts, params: Any, view: View, goal: Float[Array, "... 2"]) -> Any:
    """Return `(query, sharpness, value)` of `networks.Worker`, its value scaled as the manager's."""
    found: Any = parts.worker.apply(params["worker"], view.state, goal, view.time, parts.config.sharpness)
    query, sharpness, value = found
    return query, sharpness, value / (1.0 - parts.config.worker_discount)


def _score_items(
    parts: _Parts, params: Any, view: View, output: Float[Array, "B 2"], catalogue: Catalogue
) -> tuple[FactoredScores, Float[Array, "B"]]:
    """Return the worker's logits of all items, never multiplied out for a large catalogue, and its value."""
    goal = goal_from(output)
    query, sharpness, value = _work(parts, params, view, goal)
    return factored_scores(query, goal, sharpness, lifted_vectors(catalogue), catalogue), value


def _losses(
    parts: _Parts, params: Any, batch: Any, *, catalogue: Catalogue
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the sum of both levels' losses on N samples, and diagnostics."""
    view, decision, slate, target, credit = batch
    config = parts.config
    mean, log_std, manager_value = _manage(parts, params, view)
    manager_log_prob = gaussian_log_prob(decision.output, mean, log_std)
    scores, worker_value = _score_items(parts, params, view, decision.output, catalogue)
    slots = None
    if config.slate_mode == "quota":
        # Counted on the slate: to round the goal's share again may differ by a slot in another compilation,
        # and the slate would have probability zero.
        slots = jnp.sum(catalogue.is_popular[slate], axis=-1, dtype=jnp.int32)
    log_prob = slate_log_prob(scores, slate, catalogue.is_popular, slots)
    manager_part = manager_loss(
        manager_log_prob,
        decision.manager_log_prob,
        credit["manager"],
        manager_value,
        target["manager"],
        log_std,
        config=config,
    )
    worker_part = worker_loss(
        log_prob,
        decision.worker_log_prob,
        credit["worker"],
        worker_value,
        target["worker"],
        config=config,
    )
    goal = goal_from(decision.output)
    metrics = {
        "manager_loss": manager_part,
        "worker_loss": worker_part,
        "worker_kl": approx_kl(log_prob, decision.worker_log_prob),
        "manager_kl": approx_kl(manager_log_prob, decision.manager_log_prob),
        "worker_entropy": -jnp.mean(jnp.sum(log_prob, axis=-1)),
        "manager_std": jnp.mean(jnp.exp(log_std)),
        "goal_accuracy": jnp.mean(goal[:, 0]),
        "goal_fairness": jnp.mean(goal[:, 1]),
    }
    return manager_part + worker_part, metrics


def _values(parts: _Parts, params: Any, view: View) -> dict[str, Float[Array, "..."]]:
    """Return the values of both levels where the manager acts by its mean."""
    mean, _, manager_value = _manage(parts, params, view)
    _, _, worker_value = _work(parts, params, view, goal_from(mean))
    return {"manager": manager_value, "worker": worker_value}


def _level_advantages(
    parts: _Parts, params: Any, rollout: Rollout, fairness: Float[Array, "T B"]
) -> tuple[dict[str, Float[Array, "T B"]], dict[str, Float[Array, "T B"]]]:
    """Return advantages and value targets of each level, on its own reward and discount."""
    config, record = parts.config, rollout.record
    shaped = rollout.reward + config.fairness_weight * fairness  # Eq. (4)
    reward = {"manager": shaped, "worker": rollout.reward}
    value = {"manager": record.manager_value, "worker": record.worker_value}
    discount = {"manager": config.manager_discount, "worker": config.worker_discount}
    last = _values(parts, params, rollout.last_view)
    final = None if rollout.final_view is None else _values(parts, params, rollout.final_view)
    advantage, target = {}, {}
    for level in ("manager", "worker"):
        following = bootstrap_values(
            jnp.concatenate([value[level], last[level][None]]),
            None if final is None else final[level],
            rollout.truncated,
        )
        advantage[level], target[level] = generalised_advantage(
            reward[level],
            value[level],
            following,
            rollout.terminated,
            rollout.truncated,
            discount=discount[level],
            lam=config.gae_lambda,
        )
    return advantage, target
