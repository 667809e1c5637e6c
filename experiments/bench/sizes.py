"""The named sizes: what runs, in which world."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from dsrm_jax.config import Config
from dsrm_jax.config.budgets import BUDGETS
from dsrm_jax.config.serialise import merge
from dsrm_jax.runs.prepare import Prepared, prepare
from dsrm_jax.simulator.presets import PRESETS
from dsrm_jax.types import Json
from experiments.bench.worlds import factor_world, held_ratings_world, table_world, transformer_world
from experiments.fcpo_ml100k.ranker import SETTINGS, RankingData


@dataclass(frozen=True)
class Size:
    """What a named size runs.

    Attributes:
        config: of one seed.
        updates: updates of the full loop to run; 0: all of them. The budget's time is extrapolated from fewer.
        prepare: makes what the loop runs in, `(config, say)` to `Prepared`, or to the `RankingData` of FCPO's own loop.
    """

    config: Config
    updates: int = 0
    prepare: Callable[[Config, Callable[[str], None]], Prepared | RankingData] = prepare


def _size(
    budget: str, updates: int = 0, prepare: Callable[..., Prepared | RankingData] = prepare, **sections: Json
) -> Size:
    config = merge(Config(), BUDGETS[budget], budget)
    config = merge(config, {"training": {"seeds": [config.training.seeds[0]]}}, budget)
    return Size(merge(config, sections, budget), updates, prepare)


SIZES = {
    "paper": _size("paper"),
    "paper-quick": _size("paper", updates=100),
    "easyrl4rec": _size(
        "paper",
        100,
        table_world,
        agent={"method": "a2c"},
        environment={"slate_size": 1, "ad_penalty": 0, "history_length": 50},
        training={"num_users": 100},
    ),
    "kuaisim": _size(
        "paper",
        20,
        transformer_world,
        agent={"method": "a2c"},
        environment={**PRESETS["kuaisim"], "history_length": 100, "arrival_length": 100},
        training={"num_users": 32},
    ),
    **{
        name: _size("paper", 100, table_world, world={"name": name}, training={"num_users": 100})
        for name in ("satisfaction", "mood", "platform", "tolerance", "retention")
    },
    "fcpo": _size("paper", 0, held_ratings_world, agent={"method": "fcpo", "fcpo": dataclasses.asdict(SETTINGS)}),
    "large": _size("paper", 2, factor_world(1_000_000, 1_000_000), training={"chunk_updates": 1}),
    "tiny": _size("tiny"),
}
"""Sizes by name. `paper`: 20,000 steps of 64 users, slate 6, 3,327 items, 20 diffusion steps, all of them run;
`paper-quick`: the same, extrapolated from 100 updates; `easyrl4rec`: A2C, one item a step to 100 users out of a random table of
1,411 x 3,327 answers; `kuaisim`: A2C, slates of 6 of 5,637 items to 32 users who answer by a transformer over 100 events;
`satisfaction`, `mood`, `platform`, `tolerance`, `retention`: DSRM-HRL in these worlds, slates of 6 to 100 users of that table;
`fcpo`: one run of `dsrm-jax fcpo`, 100 sessions of 10 steps of all 943 users over 1,682 items; `large`: `paper` with a million
users, 64 at a time, and a million items, extrapolated from 2 updates; `tiny`: seconds, to try the command."""
