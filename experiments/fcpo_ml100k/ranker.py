"""FCPO on held ratings, as its article evaluates it: train under a limit on popular items, rank the held-out likes.

Everything of a run, rollouts and constrained steps alike, is one compiled program.

Shapes: U users, J items, D factors, E = D + 2, H steps of a session, R recent items, X = 2 D features.
"""

from collections.abc import Mapping
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from dsrm_jax.agents.fcpo import fit_values
from dsrm_jax.agents.gaussian_cpo import PolicyBatch, constrained_step, next_margin
from dsrm_jax.agents.networks import MLP, lifted_vectors
from dsrm_jax.agents.ppo import gaussian_log_prob, gaussian_sample
from dsrm_jax.agents.returns import generalised_advantage
from dsrm_jax.agents.whole_slates import row_max
from dsrm_jax.config import AgentConfig, FCPOConfig
from dsrm_jax.data.log import InteractionLog
from dsrm_jax.purify.view import Catalogue
from dsrm_jax.simulator.fit import fit_factors
from dsrm_jax.types import PyTree
from experiments.fcpo_ml100k.held_ratings import HeldRatings, RatingsState, held_ratings, show_items, start_sessions

HORIZON = 10
ITERATIONS = 100
NEGATIVES = 4  # sampled per positive where the factors are fitted
FISHER_STRIDE = 8
SETTINGS = FCPOConfig(max_kl=0.15, damping=2.0, initial_std=0.1)  # 9,430 samples a step bear a wide trust region


@struct.dataclass
class RankingData:
    """What FCPO trains and is tested on.

    Attributes:
        train, test: the two decision processes over the same users and items.
        user: `(U, D)` float32, factors of the training split.
        catalogue: item factors, biases and popularity of the training split.
    """

    train: HeldRatings
    test: HeldRatings
    user: Float[Array, "U D"]
    catalogue: Catalogue


@struct.dataclass
class RankerState:
    """Arrays of a run: parameters of the policy and of both value functions, the optimiser's state, the limit's margin."""

    policy: PyTree
    values: dict[str, PyTree]
    opt_state: optax.OptState
    margin: Float[Array, ""]


class Ranker(nn.Module):
    """Gaussian over item weights: `features (..., X) -> (mean (..., E), log_std (E,))`.

    The anchor (user factors, 1, 0) / norm ranks items as the factorisation does; a learnt correction starts at zero.
    """

    hidden: int
    dim: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "... X"], initial_std: float | Float[Array, ""]
    ) -> tuple[Float[Array, "... E"], Float[Array, "E"]]:
        """Return mean and log-deviation."""
        one = jnp.ones((*x.shape[:-1], 1), x.dtype)
        anchor = jnp.concatenate([x[..., -self.dim :], one], axis=-1)
        anchor = anchor / jnp.linalg.norm(anchor, axis=-1, keepdims=True)
        anchor = jnp.concatenate([anchor, jnp.zeros_like(one)], axis=-1)
        log_factor = self.param("log_factor", nn.initializers.zeros, (self.dim + 2,))
        return anchor + MLP(self.hidden, self.dim + 2)(x), jnp.log(initial_std) + log_factor


def prepare_ranking(key: Key[Array, ""], log: InteractionLog, *, dim: int = 16) -> RankingData:
    """Turn a log into the two decision processes, and factorise its training split.

    The factors tell positive ratings from items drawn uniformly, so that they predict what a user rates well, not how well
    a rated item fares.

    Args:
        key: typed PRNG key; consumed.
        log: of ratings; clicks are positives.
        dim: D.
    """
    negative_key, fit_key = jax.random.split(key)
    rows = log.train
    user, item = rows.user[rows.click], rows.item[rows.click]
    drawn = jax.random.randint(negative_key, (NEGATIVES * len(item),), 0, log.num_items)
    factors = fit_factors(
        fit_key,
        np.concatenate([user, np.repeat(user, NEGATIVES)]),
        np.concatenate([item, np.asarray(drawn)]),
        np.arange((1 + NEGATIVES) * len(item)) < len(item),
        num_users=log.num_users,
        num_items=log.num_items,
        dim=dim,
        epochs=20,
    )
    popularity = np.log1p(log.exposure)
    catalogue = Catalogue(
        vectors=factors.item,
        bias=factors.item_bias,
        log_popularity=jnp.asarray((popularity - popularity.mean()) / popularity.std(), jnp.float32),
        is_popular=held_ratings(log, "train").is_popular,
    )
    return RankingData(held_ratings(log, "train"), held_ratings(log, "test"), factors.user, catalogue)


Gaussian = tuple[Float[Array, "N E"], Float[Array, "E"]]


class _Parts(NamedTuple):
    """Networks and settings of a run: static, but for the floats of `config`."""

    config: AgentConfig
    actor: Ranker
    critic: MLP
    optimiser: optax.GradientTransformation

    def policy(self, params: PyTree, x: Float[Array, "N X"]) -> Gaussian:
        """Return `(mean, log_std)`."""
        return cast(Gaussian, self.actor.apply(params, x, self.config.fcpo.initial_std))

    def value(self, params: PyTree, inputs: tuple[jax.Array, jax.Array]) -> Float[Array, "..."]:
        """Return the value of `(features, share of the session that is over)`."""
        x, clock = inputs
        found = cast(jax.Array, self.critic.apply(params, jnp.concatenate([x, clock[..., None]], axis=-1)))
        return found[..., 0]


def _make_parts(config: AgentConfig, data: RankingData) -> _Parts:
    optimiser = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(config.learning_rate, eps=1e-5))
    return _Parts(config, Ranker(config.hidden, data.user.shape[1]), MLP(config.hidden, 1), optimiser)


def _features(data: RankingData, recent: Int[Array, "... U R"]) -> Float[Array, "... U X"]:
    """Return the recent items' mean vector, zeros where there is none, and the user's factors."""
    there = (recent >= 0)[..., None]
    mean = jnp.sum(jnp.where(there, data.catalogue.vectors[recent], 0.0), axis=-2)
    mean = mean / jnp.maximum(jnp.sum(there, axis=-2), 1)
    return jnp.concatenate([mean, jnp.broadcast_to(data.user, mean.shape)], axis=-1)


class _Session(NamedTuple):
    """One session of all users, `(H, U, ...)`."""

    recent: Int[Array, "H U R"]
    w: Float[Array, "H U E"]
    log_prob: Float[Array, "H U"]
    item: Int[Array, "H U"]
    reward: Float[Array, "H U"]
    cost: Float[Array, "H U"]


def _run_sessions(
    parts: _Parts,
    params: PyTree,
    key: jax.Array,
    data: RankingData,
    world: HeldRatings,
    *,
    steps: int,
    greedy: bool = False,
) -> _Session:
    items = lifted_vectors(data.catalogue).T

    def step(state: RatingsState, key: jax.Array) -> tuple[RatingsState, _Session]:
        mean, log_std = parts.policy(params, _features(data, state.recent))
        w = mean if greedy else gaussian_sample(key, mean, log_std)
        item = row_argmax(jnp.where(state.unavailable, -jnp.inf, w @ items))
        following, reward, cost = show_items(world, state, item)
        log_prob = gaussian_log_prob(w, mean, log_std)
        return following, _Session(state.recent, w, log_prob, item, reward, cost)

    return jax.lax.scan(step, start_sessions(world), jax.random.split(key, steps))[1]


def row_argmax(x: Float[Array, "U I"]) -> Int[Array, "U"]:
    """Return where each row's maximum first stands, as a CPU computes it fast; x holds no NaN."""
    position = jnp.arange(x.shape[-1], dtype=jnp.int32)
    return -row_max(jnp.where(x == row_max(x)[..., None], -position, -x.shape[-1]))


def train_ranker(
    key: Key[Array, ""],
    data: RankingData,
    *,
    popular_limit: float | Float[Array, ""],
    config: AgentConfig,
    horizon: int = HORIZON,
    iterations: int = ITERATIONS,
) -> tuple[RankerState, dict[str, Float[Array, "iterations"]]]:
    """Train FCPO: each iteration is one session of all users and one constrained step. Pure: jit, vmap or map it.

    The constraint is E[sum of the session's costs] <= popular_limit x horizon, undiscounted; divided by the horizon it is the
    mean cost of a step, so that c and the cost surrogate are both per step.

    Args:
        key: typed PRNG key; consumed.
        data: what to train on.
        popular_limit: alpha', in [0, 1]; 1: no constraint.
        config: `fcpo` without its `popular_limit`, and what `agents.fcpo.make_fcpo` reads of the shared settings.
        horizon: H, steps of a session.
        iterations: constrained steps.

    Returns:
        The policy, and per iteration: `reward` and `cost`, means over users of a session's sums; and what
        `agents.gaussian_cpo.constrained_step` reports.
    """
    parts = _make_parts(config, data)
    init_key, train_key = jax.random.split(key)
    agent = _init(parts, init_key, data)
    limit = jnp.asarray(popular_limit, jnp.float32)

    def iterate(agent: RankerState, key: jax.Array) -> tuple[RankerState, dict[str, jax.Array]]:
        return _iterate(parts, agent, key, data, limit, horizon=horizon)

    return jax.lax.scan(iterate, agent, jax.random.split(train_key, iterations))


def recommend(
    key: Key[Array, ""],
    data: RankingData,
    agent: RankerState,
    *,
    config: AgentConfig,
    length: int,
    greedy: bool = False,
) -> tuple[Int[Array, "U L"], Float[Array, "U"]]:
    """Recommend `length` items to every user, one at a time, starting from the end of the training split.

    Args:
        key: typed PRNG key; consumed.
        data: what to test on.
        agent: a trained policy.
        config: that it was trained with.
        length: L.
        greedy: the Gaussian's mode instead of samples; the limit binds the samples.

    Returns:
        `(lists, cost)`: `(U, L)` int32 items in the order shown; `(U,)` float32, popular items among them.
    """
    session = _run_sessions(_make_parts(config, data), agent.policy, key, data, data.test, steps=length, greedy=greedy)
    return session.item.T, jnp.sum(session.cost, axis=0)


def _init(parts: _Parts, key: jax.Array, data: RankingData) -> RankerState:
    actor_key, reward_key, cost_key = jax.random.split(key, 3)
    x = _features(data, data.train.start)[:1]
    policy = parts.actor.init(actor_key, x, parts.config.fcpo.initial_std)
    clocked = jnp.concatenate([x, jnp.zeros((1, 1))], axis=-1)
    values = {"reward": parts.critic.init(reward_key, clocked), "cost": parts.critic.init(cost_key, clocked)}
    return RankerState(policy, values, parts.optimiser.init(values), jnp.zeros(()))


def _advantages(
    parts: _Parts,
    values: Mapping[str, PyTree],
    signals: Mapping[str, tuple[Float[Array, "H U"], float | Float[Array, ""]]],
    inputs: tuple[Float[Array, "H U X"], Float[Array, "H U"]],
    over: Bool[Array, "H U"],
) -> tuple[dict[str, Float[Array, "H U"]], dict[str, Float[Array, "H U"]]]:
    """Return advantage and target of each signal, given with its discount; nothing follows a session's last step."""
    advantage, target = {}, {}
    for name, (signal, discount) in signals.items():
        value = parts.value(values[name], inputs)
        following = jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])
        advantage[name], target[name] = generalised_advantage(
            signal, value, following, over, jnp.zeros_like(over), discount=discount, lam=parts.config.gae_lambda
        )
    return advantage, target


def _iterate(
    parts: _Parts, agent: RankerState, key: jax.Array, data: RankingData, limit: Float[Array, ""], *, horizon: int
) -> tuple[RankerState, dict[str, jax.Array]]:
    config = parts.config
    session_key, fit_key = jax.random.split(key)
    session = _run_sessions(parts, agent.policy, session_key, data, data.train, steps=horizon)
    x = _features(data, session.recent)
    clock = jnp.broadcast_to(jnp.arange(horizon)[:, None] / horizon, session.reward.shape)
    over = jnp.broadcast_to(jnp.arange(horizon)[:, None] == horizon - 1, session.reward.shape)
    signals = {"reward": (session.reward, config.fcpo.discount), "cost": (session.cost - limit, 1.0)}
    advantage, target = _advantages(parts, agent.values, signals, (x, clock), over)

    def flat(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tree)

    excess = jnp.mean(session.cost) - limit
    batch = PolicyBatch(
        inputs=flat(x),
        action=flat(session.w),
        log_prob=flat(session.log_prob),
        advantage=flat(advantage["reward"]),
        cost_advantage=flat(advantage["cost"]),
        excess=excess + agent.margin,
    )
    policy, metrics = constrained_step(
        parts.policy,
        agent.policy,
        batch,
        max_kl=config.fcpo.max_kl,
        damping=config.fcpo.damping,
        solver_iterations=config.fcpo.solver_iterations,
        backtracks=config.fcpo.backtracks,
        fisher_stride=FISHER_STRIDE,
    )
    margin = next_margin(agent.margin, excess, metrics["case"], rate=config.fcpo.margin_rate)
    values, opt_state = fit_values(
        fit_key,
        parts.value,
        agent.values,
        agent.opt_state,
        flat((x, clock)),
        flat(target),
        optimiser=parts.optimiser,
        epochs=config.epochs,
        minibatches=config.minibatches,
    )
    metrics["reward"] = jnp.mean(jnp.sum(session.reward, axis=0))
    metrics["cost"] = jnp.mean(jnp.sum(session.cost, axis=0))
    metrics["margin"] = margin
    return RankerState(policy, values, opt_state, margin), metrics
