"""FCPO on held ratings, as its article evaluates it: train under a limit on popular items, rank the held-out likes.

Everything of a run, rollouts and constrained steps alike, is one compiled program.

Shapes: U users, J items, D factors, E = D + 2, H steps of a session, R recent items, X = 2 D features.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int, Key
from rich import box
from rich.table import Table

from dsrm_jax.agents.fcpo import Experience, constrained_step, fit_values, next_margin
from dsrm_jax.agents.networks import MLP, lifted_vectors
from dsrm_jax.agents.ppo import gaussian_log_prob, gaussian_sample
from dsrm_jax.agents.returns import generalised_advantage
from dsrm_jax.config import AgentConfig, Config
from dsrm_jax.config.agent import FCPOConfig
from dsrm_jax.data.log import InteractionLog
from dsrm_jax.data.sources import load_log
from dsrm_jax.evaluation.ranking import RANKING_METRICS, ranking_metrics
from dsrm_jax.simulator.fit import fit_factors
from dsrm_jax.simulator.held_ratings import HeldRatings, held_ratings, show_items, start_sessions
from dsrm_jax.state.view import Catalogue

HORIZON = 10
ITERATIONS = 100
CUTS = (5, 10, 20)
LIMITS = (1.0, 0.8, 0.4)
SEEDS = (11, 15, 19)
NEGATIVES = 4  # sampled per positive where the factors are fitted
FISHER_STRIDE = 8
SETTINGS = FCPOConfig(
    max_kl=0.15, damping=2.0, initial_std=0.1
)  # 9,430 samples a step bear a wide trust region


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
class RankingPolicy:
    """Arrays of a run: parameters of the policy and of both value functions, the optimiser's state, the limit's margin."""

    policy: Any
    values: dict[str, Any]
    opt_state: Any
    margin: Float[Array, ""]


class RankingActor(nn.Module):
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


class _Parts(NamedTuple):
    """Networks and settings of a run: static, but for the floats of `config`."""

    config: AgentConfig
    actor: RankingActor
    critic: MLP
    optimiser: optax.GradientTransformation

    def policy(self, params: Any, x: Float[Array, "N X"]) -> Any:
        """Return `(mean, log_std)`."""
        return self.actor.apply(params, x, self.config.fcpo.initial_std)

    def value(self, params: Any, inputs: tuple[Any, Any]) -> Float[Array, "..."]:
        """Return the value of `(features, share of the session that is over)`."""
        x, clock = inputs
        found: Any = self.critic.apply(params, jnp.concatenate([x, clock[..., None]], axis=-1))
        return found[..., 0]


def _make_parts(config: AgentConfig, data: RankingData) -> _Parts:
    optimiser = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm), optax.adam(config.learning_rate, eps=1e-5)
    )
    return _Parts(config, RankingActor(config.hidden, data.user.shape[1]), MLP(config.hidden, 1), optimiser)


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
    params: Any,
    key: jax.Array,
    data: RankingData,
    world: HeldRatings,
    *,
    steps: int,
    greedy: bool = False,
) -> _Session:
    items = lifted_vectors(data.catalogue).T

    def step(state, key):
        mean, log_std = parts.policy(params, _features(data, state.recent))
        w = mean if greedy else gaussian_sample(key, mean, log_std)
        item = jnp.argmax(jnp.where(state.unavailable, -jnp.inf, w @ items), axis=1).astype(jnp.int32)
        following, reward, cost = show_items(world, state, item)
        log_prob = gaussian_log_prob(w, mean, log_std)
        return following, _Session(state.recent, w, log_prob, item, reward, cost)

    return jax.lax.scan(step, start_sessions(world), jax.random.split(key, steps))[1]


def train_fcpo_ranking(
    key: Key[Array, ""],
    data: RankingData,
    *,
    popular_limit: float | Float[Array, ""],
    config: AgentConfig,
    horizon: int = HORIZON,
    iterations: int = ITERATIONS,
) -> tuple[RankingPolicy, dict[str, Float[Array, "iterations"]]]:
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
        `agents.fcpo.constrained_step` reports.
    """
    parts = _make_parts(config, data)
    init_key, train_key = jax.random.split(key)
    agent = _init(parts, init_key, data)
    limit = jnp.asarray(popular_limit, jnp.float32)

    def iterate(agent, key):
        return _iterate(parts, agent, key, data, limit, horizon=horizon)

    return jax.lax.scan(iterate, agent, jax.random.split(train_key, iterations))


def evaluate(
    key: Key[Array, ""],
    data: RankingData,
    agent: RankingPolicy,
    *,
    config: AgentConfig,
    length: int = max(CUTS),
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
    session = _run_sessions(
        _make_parts(config, data), agent.policy, key, data, data.test, steps=length, greedy=greedy
    )
    return session.item.T, jnp.sum(session.cost, axis=0)


def _init(parts: _Parts, key: jax.Array, data: RankingData) -> RankingPolicy:
    actor_key, reward_key, cost_key = jax.random.split(key, 3)
    x = _features(data, data.train.start)[:1]
    policy = parts.actor.init(actor_key, x, parts.config.fcpo.initial_std)
    clocked = jnp.concatenate([x, jnp.zeros((1, 1))], axis=-1)
    values = {
        "reward": parts.critic.init(reward_key, clocked),
        "cost": parts.critic.init(cost_key, clocked),
    }
    return RankingPolicy(policy, values, parts.optimiser.init(values), jnp.zeros(()))


def _iterate(
    parts: _Parts,
    agent: RankingPolicy,
    key: jax.Array,
    data: RankingData,
    limit: Float[Array, ""],
    *,
    horizon: int,
) -> tuple[RankingPolicy, dict[str, jax.Array]]:
    config = parts.config
    session_key, fit_key = jax.random.split(key)
    session = _run_sessions(parts, agent.policy, session_key, data, data.train, steps=horizon)
    x = _features(data, session.recent)
    clock = jnp.broadcast_to(jnp.arange(horizon)[:, None] / horizon, session.reward.shape)
    over = jnp.broadcast_to(jnp.arange(horizon)[:, None] == horizon - 1, session.reward.shape)
    signals = {"reward": (session.reward, config.fcpo.discount), "cost": (session.cost - limit, 1.0)}
    advantage, target = {}, {}
    for name, (signal, discount) in signals.items():
        value = parts.value(agent.values[name], (x, clock))
        following = jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])
        advantage[name], target[name] = generalised_advantage(
            signal, value, following, over, jnp.zeros_like(over), discount=discount, lam=config.gae_lambda
        )

    def flat(tree: Any) -> Any:
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tree)

    excess = jnp.mean(session.cost) - limit
    experience = Experience(
        inputs=flat(x),
        action=flat(session.w),
        log_prob=flat(session.log_prob),
        advantage=flat(advantage["reward"]),
        cost_advantage=flat(advantage["cost"]),
        excess=excess + agent.margin,
    )
    policy, metrics = constrained_step(
        parts.policy, agent.policy, experience, config=config.fcpo, fisher_stride=FISHER_STRIDE
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
    return RankingPolicy(policy, values, opt_state, margin), metrics


def fcpo_table(
    config: Config,
    limits: Sequence[float] = LIMITS,
    seeds: Sequence[int] = SEEDS,
    *,
    horizon: int = HORIZON,
    iterations: int = ITERATIONS,
) -> dict[str, Any]:
    """Train FCPO under every limit and with every seed in one compiled program, and test it: the article's table.

    The runs follow one another inside the program (`lax.map`): on a CPU nine runs at once would only push each other's scores of
    users x items out of the cache.

    Args:
        config: `data` (and `synthetic`) name the log, `agent` the method's settings (`SETTINGS` for its `fcpo`);
            `agent.fcpo.popular_limit` is not read.
        limits: alpha', each in [0, 1].
        seeds: of training and testing; the factors of the items are the same for all.
        horizon: H, steps of a training session.
        iterations: constrained steps of a run.

    Returns:
        Plain numbers, ready for JSON: `source`, `users`, `items`, `popular_items`, `horizon`, `iterations`, `seeds`,
        `user_steps_per_second` (of all runs, rollouts and updates, without compilation), and `rows`, one per limit: `limit`,
        `cost_limit`, and, each a list over seeds, `cost` and `reward` (per session on the training process, over the last tenth
        of the iterations), `test_cost` (popular items among the first H of the test), and `metrics`: cut to metric to list.

    Raises:
        InputError: as `load_log` and `held_ratings` do.
    """
    log = load_log(config.data, config.synthetic)
    data = prepare_ranking(jax.random.key(config.data.seed), log)

    def run(inputs: tuple[jax.Array, jax.Array], data: RankingData, agent_config: AgentConfig) -> Any:
        seed, limit = inputs
        train_key, test_key = jax.random.split(jax.random.key(seed))
        agent, history = train_fcpo_ranking(
            train_key, data, popular_limit=limit, config=agent_config, horizon=horizon, iterations=iterations
        )
        lists, _ = evaluate(test_key, data, agent, config=agent_config, length=max(*CUTS, horizon))
        return lists, {name: history[name] for name in ("cost", "reward")}

    def run_all(grid: tuple[jax.Array, jax.Array], data: RankingData, agent_config: AgentConfig) -> Any:
        return jax.lax.map(lambda inputs: run(inputs, data, agent_config), grid)

    grid = [(limit, seed) for limit in limits for seed in seeds]
    inputs = (
        jnp.array([seed for _, seed in grid], jnp.uint32),
        jnp.array([limit for limit, _ in grid], jnp.float32),
    )
    compiled = jax.jit(run_all).lower(inputs, data, config.agent).compile()
    start = time.perf_counter()
    lists, history = jax.tree.map(np.asarray, jax.block_until_ready(compiled(inputs, data, config.agent)))
    seconds = time.perf_counter() - start
    by_limit = jax.tree.map(
        lambda x: x.reshape(len(limits), len(seeds), *x.shape[1:]), {"lists": lists, **history}
    )
    return {
        "source": log.source,
        "users": log.num_users,
        "items": log.num_items,
        "popular_items": int(np.sum(data.train.is_popular)),
        "horizon": horizon,
        "iterations": iterations,
        "seeds": list(seeds),
        "user_steps_per_second": len(grid) * iterations * horizon * log.num_users / seconds,
        "rows": [
            _row(limit, jax.tree.map(lambda x, n=n: x[n], by_limit), data, horizon)
            for n, limit in enumerate(limits)
        ],
    }


def _row(limit: float, runs: Mapping[str, np.ndarray], data: RankingData, horizon: int) -> dict[str, Any]:
    """Summarise the runs of one limit, `(seeds, ...)` each."""
    liked, popular = np.asarray(data.test.liked), np.asarray(data.test.is_popular)
    per_seed = [ranking_metrics(lists, liked, popular, cuts=CUTS) for lists in runs["lists"]]
    last = -max(1, runs["cost"].shape[1] // 10)
    return {
        "limit": float(limit),
        "cost_limit": float(limit) * horizon,
        "cost": runs["cost"][:, last:].mean(1).tolist(),
        "reward": runs["reward"][:, last:].mean(1).tolist(),
        "test_cost": popular[runs["lists"][:, :, :horizon]].sum(2).mean(1).tolist(),
        "metrics": {
            cut: {name: [found[cut][name] for found in per_seed] for name in RANKING_METRICS} for cut in CUTS
        },
    }


def render_fcpo_table(results: Mapping[str, Any]) -> Table:
    """Lay out `fcpo_table`'s numbers, means over seeds and their standard deviations, metrics in per cent.

    Args:
        results: what `fcpo_table` gives.

    Returns:
        What `rich.console.Console.print` takes.
    """
    table = Table(
        title=f"{results['source']}; {len(results['seeds'])} seeds", box=box.SIMPLE_HEAD, title_justify="left"
    )
    headings = ("limit", "k", "Recall", "F1", "NDCG", "Gini", "popular", "cost / limit", "reward")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in results["rows"]:
        for number, (cut, metrics) in enumerate(row["metrics"].items()):
            cells = [_cell(100 * np.asarray(metrics[name])) for name in RANKING_METRICS]
            session = (f"{_cell(row['cost'])} / {row['cost_limit']:g}", _cell(row["reward"]))
            first = number == 0
            table.add_row(f"{row['limit']:g}" if first else "", str(cut), *cells, *(session if first else ()))
        table.add_section()
    return table


def _cell(values: Sequence[float] | np.ndarray) -> str:
    """Return `mean±deviation` over seeds, the mean alone of one."""
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean}±{np.std(values, ddof=1):.2f}"
