"""DSRM-HRL: a manager that asks for fairness and a worker that fills the slate, on purified states (paper, section 4.3).

The manager draws a goal z = (w_acc, w_fair) from a Gaussian; the worker scores every item by Eq. (6) and draws a slate whose
log-probability is Plackett-Luce; both learn by PPO. Shapes: B users, T steps, K slate size, J items, D state dimensions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.agent import Agent, Rollout
from dsrm_jax.agents.fairness import Exposure, observe_slates, slate_fairness, start_exposure
from dsrm_jax.agents.networks import Manager, Worker, lifted_vectors
from dsrm_jax.agents.ppo import (
    approx_kl,
    clipped_surrogate,
    explained_variance,
    gaussian_entropy,
    gaussian_log_prob,
    gaussian_sample,
    minibatch_indices,
    normalise,
    sampled_entropy,
    value_loss,
)
from dsrm_jax.agents.returns import bootstrap_values, generalised_advantage
from dsrm_jax.agents.slates import greedy_slate, sample_slate, slate_log_prob
from dsrm_jax.config import AgentConfig
from dsrm_jax.state.view import Catalogue, View

FAIR_SCALE = 0.25  # one unit of the manager's output moves w_fair by this much: cosines live in [-1, 1]


@struct.dataclass
class HierarchyState:
    """Arrays of the agent: parameters of both levels, the optimiser's state and the exposure counts of Eq. (4)."""

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
    """Map the manager's raw output to z = (w_acc, w_fair): w_acc above 0 and 1 at output 0, w_fair of either sign."""
    w_acc = jax.nn.softplus(output[..., 0]) / jnp.log(2.0)
    return jnp.stack([w_acc, FAIR_SCALE * output[..., 1]], axis=-1)


def popular_slots(goal: Float[Array, "... 2"], *, slate_size: int) -> Int[Array, "..."]:
    """Return how many slots the goal grants the popular group, Eq. (5) read as a quota: half of them at w_fair = 0.

    The share is sigmoid(-w_fair / 0.25), rounded to whole slots: the more fairness is asked for, the fewer popular items.
    """
    share = jax.nn.sigmoid(-goal[..., 1] / FAIR_SCALE)
    return jnp.round(slate_size * share).astype(jnp.int32)


def item_scores(
    query: Float[Array, "B E"],
    goal: Float[Array, "B 2"],
    sharpness: Float[Array, ""],
    vectors: Float[Array, "J E"],
    catalogue: Catalogue,
) -> Float[Array, "B J"]:
    """Eq. (6): sharpness x (w_acc cos(query, e_i) - w_fair log pop_i), the worker's logits.

    Args:
        query: what the worker looks for, from the purified state and the goal.
        goal: z.
        sharpness: inverse temperature of the slate distribution.
        vectors: `lifted_vectors` of the catalogue, all of norm 1.
        catalogue: for its standardised log-popularity.
    """
    unit = query / (jnp.linalg.norm(query, axis=-1, keepdims=True) + 1e-6)
    # one matrix product: the two terms of Eq. (6) are an inner product with (e_i, log pop_i)
    left = sharpness * jnp.concatenate([goal[:, :1] * unit, -goal[:, 1:]], axis=1)
    right = jnp.concatenate([vectors, catalogue.log_popularity[:, None]], axis=1)
    return left @ right.T


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
    """PPO loss of the worker, slot by slot: a slate is a sequence of K draws, each with its own ratio and advantage."""
    surrogate = jnp.mean(jnp.sum(clipped_surrogate(log_prob, old_log_prob, advantage, config.clip), axis=-1))
    entropy = jnp.mean(jnp.sum(sampled_entropy(log_prob, old_log_prob), axis=-1))
    error = jnp.mean(value_loss(value, target))
    return -surrogate + config.value_weight * error - config.entropy_weight * entropy


def slot_advantage(
    advantage: Float[Array, "..."], clicks: Float[Array, "... K"], expected_click: Float[Array, "..."]
) -> Float[Array, "... K"]:
    """Credit each slot with its own click and none of its neighbours': (advantage - sum over other slots of surprise) / K scale.

    Clicks of a slate are independent given its items, so the other slots' clicks are noise to a slot's choice; what is
    taken away has mean zero wherever `expected_click` is right. Returns the slate's advantage with every click but the slot's
    own replaced by its expectation.

    Args:
        advantage: of the slate.
        clicks: 0 or 1.
        expected_click: mean click rate that the state promises, in [0, 1].
    """
    slate_size = clicks.shape[-1]
    surprise = clicks - expected_click[..., None]
    others = (jnp.sum(surprise, axis=-1, keepdims=True) - surprise) / slate_size
    return advantage[..., None] - others


def make_dsrm_hrl(config: AgentConfig, *, slate_size: int) -> Agent:
    """Build DSRM-HRL.

    Args:
        config: weights, discounts and optimiser; floats may be traced.
        slate_size: K.

    Returns:
        The `Agent`. With `slate_mode="quota"` the goal also fixes how many slots are popular (`popular_slots`).
    """
    manager, worker = Manager(config.hidden), Worker(config.hidden)
    optimiser = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm), optax.adam(config.learning_rate, eps=1e-5)
    )
    quota = config.slate_mode == "quota"

    def init(key: jax.Array, catalogue: Catalogue) -> HierarchyState:
        manager_key, worker_key = jax.random.split(key)
        state = jnp.zeros((1, catalogue.vectors.shape[1]))
        time = jnp.zeros((1,), jnp.int32)
        params = {
            "manager": manager.init(manager_key, state, time),
            "worker": worker.init(worker_key, state, jnp.zeros((1, 2)), time, config.sharpness),
        }
        return HierarchyState(params, optimiser.init(params), start_exposure(catalogue.is_popular.shape[0]))

    def slate_scores(params: Any, view: View, output: jax.Array, catalogue: Catalogue) -> tuple[Any, ...]:
        goal = goal_from(output)
        query, sharpness, value, click = worker.apply(
            params["worker"], view.state, goal, view.time, config.sharpness
        )
        scores = item_scores(query, goal, sharpness, lifted_vectors(catalogue), catalogue)
        slots = popular_slots(goal, slate_size=slate_size) if quota else None
        return scores, slots, value, click

    def act(
        agent: HierarchyState, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False
    ) -> tuple[jax.Array, Decision]:
        goal_key, slate_key = jax.random.split(key)
        mean, log_std, manager_value = manager.apply(agent.params["manager"], view.state, view.time)
        output = mean if greedy else gaussian_sample(goal_key, mean, log_std)
        scores, slots, worker_value, _ = slate_scores(agent.params, view, output, catalogue)
        if greedy:
            slate = greedy_slate(scores, catalogue.is_popular, slots, slate_size=slate_size)
            log_prob = jnp.zeros(slate.shape, scores.dtype)
        else:
            slate, log_prob = sample_slate(
                slate_key, scores, catalogue.is_popular, slots, slate_size=slate_size
            )
        return slate, Decision(
            output=output,
            manager_log_prob=gaussian_log_prob(output, mean, log_std),
            manager_value=manager_value,
            worker_log_prob=log_prob,
            worker_value=worker_value,
        )

    def losses(params: Any, batch: Any, catalogue: Catalogue) -> tuple[jax.Array, dict[str, jax.Array]]:
        view, decision, slate, clicks, advantage, target = batch
        mean, log_std, manager_value = manager.apply(params["manager"], view.state, view.time)
        manager_log_prob = gaussian_log_prob(decision.output, mean, log_std)
        scores, slots, worker_value, click = slate_scores(params, view, decision.output, catalogue)
        log_prob = slate_log_prob(scores, slate, catalogue.is_popular, slots)
        expected = jax.lax.stop_gradient(jax.nn.sigmoid(click))
        slot = normalise(slot_advantage(advantage["worker"], clicks, expected))
        manager_part = manager_loss(
            manager_log_prob,
            decision.manager_log_prob,
            normalise(advantage["manager"]),
            manager_value,
            target["manager"],
            log_std,
            config=config,
        )
        worker_part = worker_loss(
            log_prob, decision.worker_log_prob, slot, worker_value, target["worker"], config=config
        )
        click_part = jnp.mean(optax.sigmoid_binary_cross_entropy(click[:, None], clicks))
        metrics = {
            "manager_loss": manager_part,
            "worker_loss": worker_part,
            "click_loss": click_part,
            "worker_kl": approx_kl(log_prob, decision.worker_log_prob),
            "manager_kl": approx_kl(manager_log_prob, decision.manager_log_prob),
            "worker_entropy": -jnp.mean(jnp.sum(log_prob, axis=-1)),
            "manager_std": jnp.mean(jnp.exp(log_std)),
            "goal_accuracy": jnp.mean(goal_from(decision.output)[:, 0]),
            "goal_fairness": jnp.mean(goal_from(decision.output)[:, 1]),
        }
        return manager_part + worker_part + click_part, metrics

    def update(
        agent: HierarchyState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
    ) -> tuple[HierarchyState, dict[str, jax.Array]]:
        fairness = slate_fairness(agent.exposure, rollout, kind=config.fairness)
        advantage, target = level_advantages(agent.params, rollout, fairness)
        batch = (rollout.view, rollout.record, rollout.slate, rollout.clicks.astype(jnp.float32), advantage, target)
        num_samples = rollout.reward.size
        batch = jax.tree.map(lambda x: x.reshape(num_samples, *x.shape[2:]), batch)

        def minibatch(carry: Any, index: jax.Array) -> Any:
            params, opt_state = carry
            sample = jax.tree.map(lambda x: x[index], batch)
            (_, metrics), grads = jax.value_and_grad(losses, has_aux=True)(params, sample, catalogue)
            updates, opt_state = optimiser.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), metrics

        index = jnp.concatenate(
            [
                minibatch_indices(epoch_key, num_samples, config.minibatches)
                for epoch_key in jax.random.split(key, config.epochs)
            ]
        )
        (params, opt_state), metrics = jax.lax.scan(minibatch, (agent.params, agent.opt_state), index)
        metrics = jax.tree.map(jnp.mean, metrics)
        metrics["manager_explained"] = explained_variance(rollout.record.manager_value, target["manager"])
        metrics["worker_explained"] = explained_variance(rollout.record.worker_value, target["worker"])
        metrics["fairness"] = jnp.mean(fairness)
        return HierarchyState(params, opt_state, observe_slates(agent.exposure, rollout.slate)), metrics

    def values(params: Any, view: View, output: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, _, manager_value = manager.apply(params["manager"], view.state, view.time)
        _, _, worker_value, _ = worker.apply(
            params["worker"], view.state, goal_from(output), view.time, config.sharpness
        )
        return manager_value, worker_value

    def level_advantages(params: Any, rollout: Rollout, fairness: jax.Array) -> tuple[Any, Any]:
        record = rollout.record
        mean, _, _ = manager.apply(params["manager"], rollout.last_view.state, rollout.last_view.time)
        last = values(params, rollout.last_view, mean)
        final = (None, None)
        if rollout.final_view is not None:
            mean, _, _ = manager.apply(params["manager"], rollout.final_view.state, rollout.final_view.time)
            final = values(params, rollout.final_view, mean)
        reward = {"manager": rollout.reward + config.fairness_weight * fairness, "worker": rollout.reward}  # Eq. (4)
        value = {"manager": record.manager_value, "worker": record.worker_value}
        discount = {"manager": config.manager_discount, "worker": config.worker_discount}
        advantage, target = {}, {}
        for level, (last_value, final_value) in enumerate(zip(last, final, strict=True)):
            name = ("manager", "worker")[level]
            following = bootstrap_values(
                jnp.concatenate([value[name], last_value[None]]), final_value, rollout.truncated
            )
            advantage[name], target[name] = generalised_advantage(
                reward[name],
                value[name],
                following,
                rollout.terminated,
                rollout.truncated,
                discount=discount[name],
                lam=config.gae_lambda,
            )
        return advantage, target

    return Agent(init, act, update)
