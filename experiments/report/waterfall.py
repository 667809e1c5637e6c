"""The ladder, and what each of its rungs and levels of the hierarchy is worth: a chain of paired differences of Len.

The chain begins with items drawn at random and ends with DSRM-HRL; the steps add up to the whole gain. What a step is
worth depends on those before it: here the head comes first, and the hierarchy is credited with what no greedy rule on
the same state has.
"""

from typing import NamedTuple

from experiments.report.findings import Findings, Row
from experiments.report.intervals import Cell
from experiments.report.paper import MAX_LENS

PURIFIED = "quota_greedy_purified"
# greedy rules under the same head, from nobody's state to the truth; the first has no head
LADDER = {
    "random": "random",
    "quota_random": "random, half and half",
    f"{PURIFIED}+nobody": "popularity: items' own appeal",
    "quota_greedy": "raw state",
    "quota_greedy+skips": "raw state that sees skips",
    f"{PURIFIED}+paper": "purifier, Eq. (7) as printed",
    f"{PURIFIED}+gaussian": "Gaussian posterior",
    f"{PURIFIED}+mixture": "mixture posterior",
    f"{PURIFIED}+untrained": "purifier, untrained",
    PURIFIED: "purifier, trained",
    "oracle": "oracle",
}
# the learner on states of the ladder, with Eq. (6) as printed, and without its manager
LEARNERS = {
    "hrl": "the learner on raw states",
    "hrl+skips": "... on raw states that see skips",
    "dsrm_hrl+paper": "... on Eq. (7) as printed",
    "dsrm_hrl+gaussian": "... on the Gaussian posterior",
    "dsrm_hrl+penalty": "DSRM-HRL, Eq. (6) as printed: penalty alone",
    "dsrm_hrl+worker_alone": "DSRM-HRL without its manager",
    "dsrm_hrl": "DSRM-HRL",
}
CHAIN = (
    ("quota head", "quota_random"),
    ("items' own appeal", f"{PURIFIED}+nobody"),
    ("the user's clicks", "quota_greedy"),
    ("seeing skips", "quota_greedy+skips"),
    ("inference", f"{PURIFIED}+gaussian"),
    ("learnt prior", PURIFIED),
    ("worker's PPO", "dsrm_hrl+worker_alone"),
    ("manager", "dsrm_hrl"),
)


class Step(NamedTuple):
    """One part of the gain."""

    name: str
    start: Cell  # the level that it begins at
    gain: Cell


def waterfall(findings: Findings, env: str, metric: str = "length") -> list[Step]:
    """Return the steps from random slates to DSRM-HRL at the shorter session length, empty where an end is missing.

    A rung that did not finish is passed over: its step is part of the next one's.
    """
    rows = {name: findings.row(env, MAX_LENS[0], name) for name in ("random", *(rung for _, rung in CHAIN))}
    before, steps = rows["random"], []
    if before is None or rows["dsrm_hrl"] is None:
        return []
    for name, rung in CHAIN:
        row = rows[rung]
        if row is not None:
            steps.append(Step(name, Cell.of(before["result"][metric]), findings.difference(row, before, metric)))
            before = row
    return steps


def ladder_rows(findings: Findings, env: str) -> dict[str, Row]:
    """Return the rows of ladder and learners that finished, by name, at the shorter session length."""
    found = {name: findings.row(env, MAX_LENS[0], name) for name in (*LADDER, *LEARNERS)}
    return {name: row for name, row in found.items() if row is not None}
