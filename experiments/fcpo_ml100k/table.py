"""The article's table of FCPO on ratings: accuracy against popularity under several limits on popular items."""

import time
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from dsrm_jax.config import AgentConfig, Config
from dsrm_jax.evaluation.sessions import of_each
from dsrm_jax.runs.pieces import log_of
from dsrm_jax.types import Json, PyTree
from experiments.fcpo_ml100k.metrics import RANKING_METRICS, ranking_metrics
from experiments.fcpo_ml100k.ranker import HORIZON, ITERATIONS, RankingData, prepare_ranking, recommend, train_ranker

CUTS = (5, 10, 20)
LIMITS = (1.0, 0.8, 0.4)
SEEDS = (11, 15, 19)


def fcpo_table(
    config: Config,
    limits: Sequence[float] = LIMITS,
    seeds: Sequence[int] = SEEDS,
    *,
    horizon: int = HORIZON,
    iterations: int = ITERATIONS,
) -> Json:
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
        InputError: as `log_of` and `held_ratings` do.
    """
    log = log_of(config)
    data = prepare_ranking(jax.random.key(config.data.seed), log)

    def run(inputs: tuple[jax.Array, jax.Array], data: RankingData, agent_config: AgentConfig) -> PyTree:
        seed, limit = inputs
        train_key, test_key = jax.random.split(jax.random.key(seed))
        agent, history = train_ranker(
            train_key, data, popular_limit=limit, config=agent_config, horizon=horizon, iterations=iterations
        )
        lists, _ = recommend(test_key, data, agent, config=agent_config, length=max(*CUTS, horizon))
        return lists, {name: history[name] for name in ("cost", "reward")}

    def run_all(grid: tuple[jax.Array, jax.Array], data: RankingData, agent_config: AgentConfig) -> PyTree:
        return jax.lax.map(lambda inputs: run(inputs, data, agent_config), grid)

    grid = [(limit, seed) for limit in limits for seed in seeds]
    inputs = (jnp.array([seed for _, seed in grid], jnp.uint32), jnp.array([limit for limit, _ in grid], jnp.float32))
    compiled = jax.jit(run_all).lower(inputs, data, config.agent).compile()
    start = time.perf_counter()
    lists, history = jax.tree.map(np.asarray, jax.block_until_ready(compiled(inputs, data, config.agent)))
    seconds = time.perf_counter() - start
    by_limit = jax.tree.map(lambda x: x.reshape(len(limits), len(seeds), *x.shape[1:]), {"lists": lists, **history})
    return {
        "source": log.source,
        "users": log.num_users,
        "items": log.num_items,
        "popular_items": int(np.sum(data.train.is_popular)),
        "horizon": horizon,
        "iterations": iterations,
        "seeds": list(seeds),
        "user_steps_per_second": len(grid) * iterations * horizon * log.num_users / seconds,
        "rows": [_row(limit, runs, data, horizon) for limit, runs in zip(limits, of_each(by_limit), strict=True)],
    }


def _row(limit: float, runs: Mapping[str, np.ndarray], data: RankingData, horizon: int) -> Json:
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
        "metrics": {cut: {name: [found[cut][name] for found in per_seed] for name in RANKING_METRICS} for cut in CUTS},
    }


def render_fcpo_table(results: Json) -> RenderableType:
    """Lay out `fcpo_table`'s numbers, means over seeds and their standard deviations, metrics in per cent.

    Args:
        results: what `fcpo_table` gives.

    Returns:
        What `rich.console.Console.print` takes: lists' metrics in one table and sessions in another, each within 80 columns.
    """
    title = f"{results['source']}; {len(results['seeds'])} seeds"
    lists = _table("limit", "k", "Recall", "F1", "NDCG", "Gini", "popular", title=title)
    sessions = _table("limit", "cost of a session", "at most", "reward of a session")
    for row in results["rows"]:
        limit = f"{row['limit']:g}"
        for number, (cut, metrics) in enumerate(row["metrics"].items()):
            cells = [_cell(100 * np.asarray(metrics[name])) for name in RANKING_METRICS]
            lists.add_row("" if number else limit, str(cut), *cells)
        lists.add_section()
        sessions.add_row(limit, _cell(row["cost"]), f"{row['cost_limit']:g}", _cell(row["reward"]))
    return Group(lists, sessions)


def _table(*headings: str, title: str | None = None) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", show_edge=False, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _cell(values: Sequence[float] | np.ndarray) -> str:
    """Return `mean±deviation` over seeds, the mean alone of one."""
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean}±{np.std(values, ddof=1):.2f}"
