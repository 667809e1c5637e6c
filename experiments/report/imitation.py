"""How often noise alone passes a claim's rule: made-up findings in which all methods are alike.

`python -m experiments.report.imitation` writes `experiments/results/noise.json`. Every number is a mean that all methods
share, plus what a data seed does to all of them, what it does to one method, and what a training seed does to it; the sizes
of these are about those of Len in the report, and since rules compare numbers with each other, only their ratios matter. Each
rule is then decided by the report's own code, by its intervals alone: Holm's correction and controls come on top.

Shapes: D data seeds, S training seeds.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsrm_jax.files import write_text
from dsrm_jax.types import Json
from experiments.report import paper
from experiments.report.claims import HOLDS, Claim, decide, load_claims, measure, rows_of
from experiments.report.findings import Findings, Measured, Row
from experiments.report.plan import CLAIMS, plans_folder
from experiments.report.pooled import METRICS, Numbers

DATA_SEEDS, TRAINING_SEEDS = 3, 2
OF_DATA, OF_METHOD, OF_TRAINING = 0.5, 0.15, 0.1  # standard deviations, steps of Len
LEVELS = {"length": 20.0, "return": 15.0, "reward": 0.8}  # means; of all others 0.3
SCALES = {"length": 1.0, "return": 1.0}  # of the deviations; of all others 0.02
COMPARED = ("margin", "share_best", "dominated_by", "diffusion_peak", "curve")
STEPS = (5, 10, 20, 30, 500)
TRIALS = 400


@dataclass(frozen=True)
class Imitation(Findings):
    """Findings whose learning curves are drawn, too."""

    seed: int = 0

    def curve_facts(self, row: Row, metric: str) -> list[dict[str, float]]:
        """Return facts of curves that differ by chance."""
        generator = np.random.default_rng([self.seed, *row["name"].encode()])
        return [
            {
                "roughness": float(generator.lognormal(0, 0.3)),
                "seed_spread": float(generator.normal(size=TRAINING_SEEDS).std(ddof=1)),
                "settled": float(generator.uniform(0.3, 0.9)),
                "largest_fall": float(generator.exponential(0.3)),
                "late_level": float(generator.normal(20, 0.2)),
            }
            for _ in range(self.seeds_of(row))
        ]

    def seeds_of(self, row: Row) -> int:
        """Return the number of data seeds."""
        return int(row["result"]["data_seeds"])


def imitate(methods: Sequence[str], seed: int, *, one_world: bool = False) -> Imitation:
    """Return findings in which no method is better than another, on both data sets at Max Len 30.

    With `one_world` what takes the place of data seeds are training seeds in one world, as the ledger once had them.
    """
    generator = np.random.default_rng(seed)
    numbers: dict[str, Numbers] = {}
    results: dict[str, list[Row]] = {"table2": [], "fig6": [], "fig7": []}
    for env in paper.ENVIRONMENTS:
        worlds = 1 if one_world else DATA_SEEDS
        of_data = {metric: generator.normal(0, OF_DATA, (worlds, 1)) for metric in METRICS}
        for method in methods:
            row = _row(f"{env} {method}", env, method, of_data, generator, numbers)
            results["table2"].append(row)
            results["fig7"].append(row)
        for schedule in ("linear", "rescaled"):
            for steps in STEPS:
                row = _row(f"{env} {schedule} {steps}", env, "dsrm_hrl", of_data, generator, numbers)
                row["values"] = {"purifier.schedule": schedule, "purifier.diffusion_steps": steps}
                results["fig6"].append(row)
    return Imitation(Path(), results, {}, numbers=numbers, seed=seed)


def _row(
    name: str, env: str, method: str, of_data: Json, generator: np.random.Generator, numbers: dict[str, Numbers]
) -> Row:
    values = {}
    for metric in METRICS:
        trained = generator.normal(0, OF_TRAINING, (DATA_SEEDS, TRAINING_SEEDS))
        drawn = of_data[metric] + generator.normal(0, OF_METHOD, of_data[metric].shape) + trained
        drawn = LEVELS.get(metric, 0.3) + SCALES.get(metric, 0.02) * drawn
        values[metric] = {(d, s): float(drawn[d, s]) for d in range(DATA_SEEDS) for s in range(TRAINING_SEEDS)}
    numbers[name] = Numbers(values, {})
    result = {
        metric: {"mean": float(np.mean(list(x.values()))), "low": np.nan, "high": np.nan}
        for metric, x in values.items()
    }
    return {"name": name, "env": env, "max_len": 30, "method": method, "result": result | {"data_seeds": DATA_SEEDS}}


def passes(claims: Sequence[Claim], trials: int, *, seed: int = 0) -> Json:
    """Return, of each claim that compares, how often its rule is passed `now` and how often the ledger's earlier rule was.

    That one had one world and training seeds in it, read of rivals the nearest by its mean, and of curves a ratio alone.
    """
    compared = [claim for claim in claims if claim.rule.measurement in COMPARED and _is_null(claim)]
    methods = sorted({name for claim in compared for name in rows_of(claim.rule)})
    now = dict.fromkeys((claim.id for claim in compared), 0)
    before = dict(now)
    for trial in range(trials):
        made, once = (imitate(methods, seed + trial, one_world=one) for one in (False, True))
        for claim in compared:
            now[claim.id] += _passes(measure(claim.rule, made)[0], claim)
            before[claim.id] += _passed(measure(claim.rule, once)[0], claim)
    return {name: {"now": now[name] / trials, "before": before[name] / trials} for name in now}


def _is_null(claim: Claim) -> bool:
    """Whether methods that are all alike are what the claim denies, and not, like a threshold of a tenth, far beyond noise."""
    arguments = claim.rule.arguments
    return claim.rule.measurement != "curve" or bool(arguments.get("against"))


def _passes(measured: Sequence[Measured], claim: Claim) -> bool:
    return decide(measured, claim.rule.relation, claim.rule.threshold) == HOLDS


def _passed(measured: Sequence[Measured], claim: Claim) -> bool:
    """Whether the earlier rule is passed: the nearest rival's interval in each cell, and no interval of what had none."""
    if claim.rule.measurement != "margin":
        exact = [Measured.exact(m.where, m.cell.value) for m in measured]
        return _passes(exact, claim)
    nearest: dict[str, Measured] = {}
    for m in measured:
        cell = m.where.partition(",")[0]
        if cell not in nearest or m.cell.value < nearest[cell].cell.value:
            nearest[cell] = m
    return _passes(list(nearest.values()), claim)


def main() -> None:
    """Write `experiments/results/noise.json`."""
    claims = load_claims(plans_folder() / CLAIMS)
    found = {
        "trials": TRIALS,
        "data_seeds": DATA_SEEDS,
        "training_seeds": TRAINING_SEEDS,
        "passes": passes(claims, TRIALS),
    }
    write_text(plans_folder().parent / "results" / "noise.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
