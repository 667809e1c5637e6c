"""What each probe decides: thresholds that stand before the run, and the controls that have to fail."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dsrm_jax.types import Json

PURIFIER = "purifier"
RAW = "identity"
# controls of P9: to be beaten on P4, P5 and P6
RIVALS = ("untrained", "pca", "erasure", "autoencoder", "noise")

MIN_CHANGE = 0.01  # P1: below, the purifier is the identity
MIN_CKA = 0.1  # P1: below, the states say nothing of what the raw ones said
MIN_LEAK = 0.2  # P2: error at k = 1 over the unconditional floor; below, the condition holds the target
MIN_SENSITIVITY = 0.1  # P3: spreads of the output that it moves by under other users' evidence
MAX_POPULARITY = 0.5  # P4: popularity's variance share over that of the raw states
MAX_INTEREST_LOSS = 0.005  # P5: of AUC on popularity-matched negatives, at the lower end of the interval
MIN_RECOVERY = 0.1  # P6: share of the squared distance to true preference that is taken away
MAX_SELECTIVITY = 0.9  # P7: response to popular clicks over that to niche clicks, relative to the raw states'
MIN_MOVE = 0.01  # P8: of NMI by popularity, down, and of silhouette by interest, up


@dataclass(frozen=True)
class Probe:
    """One decision.

    Attributes:
        name: `P1` to `P10`, but for P9 (`rivals`).
        question: what passing means, with its threshold.
        passes: `(states' numbers, raw states' numbers) -> bool`; None where the probe does not apply to the states or the data.
        must_fail: negative controls that it has to catch, or it is no instrument.
        must_pass: positive controls that it has to let through, likewise.
    """

    name: str
    question: str
    passes: Callable[[Json, Json], bool | None]
    must_fail: tuple[str, ...]
    must_pass: tuple[str, ...] = ()


def _leaks_not(row: Json, raw: Json) -> bool | None:
    return None if row.get("leak") is None else row["leak"] > MIN_LEAK


def _popularity_halved(row: Json, raw: Json) -> bool | None:
    halved = row["explained_share"] <= MAX_POPULARITY * raw["explained_share"]
    return halved and row["distance_correlation"] <= raw["distance_correlation"]


def _recovers(row: Json, raw: Json) -> bool | None:
    return None if row.get("recovery") is None else row["recovery"] >= MIN_RECOVERY


def _regrouped(row: Json, raw: Json) -> bool | None:
    # a silhouette below 0 is no grouping at all, so that it cannot fall any further
    silhouettes = [max(numbers["popularity_silhouette"], 0.0) for numbers in (row, raw)]
    down = row["popularity_nmi"] <= raw["popularity_nmi"] - MIN_MOVE and silhouettes[0] <= silhouettes[1]
    up = row["interest_silhouette"] >= raw["interest_silhouette"] + MIN_MOVE
    return down and up and row["interest_nmi"] >= raw["interest_nmi"]


def _interest_kept(row: Json, raw: Json) -> bool | None:
    return row["interest_difference"]["low"] >= -MAX_INTEREST_LOSS


def _lengthens(row: Json, raw: Json) -> bool | None:
    return None if row.get("length_gain") is None else row["length_gain"]["low"] > 0


PROBES = (
    Probe(
        "P1",
        f"moves the states (by at least {MIN_CHANGE:g} of their norm) and keeps what they say (CKA at least {MIN_CKA:g})",
        lambda row, raw: row["change"] >= MIN_CHANGE and row["cka"] >= MIN_CKA,
        ("identity", "untrained", "shuffled"),
    ),
    Probe(
        "P2",
        f"error at k = 1 above {MIN_LEAK:g} of the unconditional floor: the condition does not hold the target",
        _leaks_not,
        ("paper",),
    ),
    Probe(
        "P3",
        f"other users' evidence moves its output by {MIN_SENSITIVITY:g} of its spread or more",
        lambda row, raw: row["condition_sensitivity"] >= MIN_SENSITIVITY,
        ("identity", "untrained", "pca", "erasure", "noise", "paper"),
    ),
    Probe(
        "P4",
        f"the share of the variance that popularity explains is at most {MAX_POPULARITY:g} of the raw states', and is not "
        "hidden where only distances see it (dCor no higher)",
        _popularity_halved,
        ("identity", "pca", "paper"),
        ("erasure",),  # nothing linear is left of popularity in it
    ),
    Probe(
        "P5",
        f"interest on popularity-matched negatives does not fall (AUC, by {MAX_INTEREST_LOSS:g} at most within the interval)",
        _interest_kept,
        ("untrained", "noise", "shuffled"),
        ("oracle",),
    ),
    Probe(
        "P6",
        f"takes away {MIN_RECOVERY:g} or more of the squared distance to true preference",
        _recovers,
        ("identity", "noise", "shuffled", "paper"),
        ("oracle",),
    ),
    Probe(
        "P7",
        f"answers popular clicks at most {MAX_SELECTIVITY:g} times as much as niche ones, relative to the raw states",
        lambda row, raw: 0 < row["selectivity"] <= MAX_SELECTIVITY,
        ("identity", "untrained", "paper"),
    ),
    Probe(
        "P8",
        f"grouped less by popularity (NMI, by {MIN_MOVE:g}) and more by interest (silhouette, by {MIN_MOVE:g}, and NMI)",
        _regrouped,
        ("identity", "untrained", "noise", "shuffled", "paper"),
    ),
    Probe(
        "P10",
        "makes sessions longer than the raw states do, beyond the interval, under the same greedy half-and-half policy",
        _lengthens,
        ("identity", "shuffled"),
    ),
)


def verdicts(states: Mapping[str, Json]) -> dict[str, Json]:
    """Decide every probe for the purifier and for every control.

    Args:
        states: `measures.measure` of each, by name; holds at least `identity` and `purifier`.

    Returns:
        Probe name to `question`, `passes` (name to True, False or None where it does not apply), `must_fail`,
        `must_pass`, and `controls_behave`: whether every control fails, or passes, that has to.
    """
    raw = states[RAW]
    result: dict[str, Json] = {}
    for probe in PROBES:
        passes = {name: _plain(probe.passes(row, raw)) for name, row in states.items()}
        wanted = [name for name in probe.must_fail if passes.get(name) is not None]
        let_through = [name for name in probe.must_pass if passes.get(name) is not None]
        result[probe.name] = {
            "question": probe.question,
            "passes": passes,
            "must_fail": wanted,
            "must_pass": let_through,
            "controls_behave": not any(passes[name] for name in wanted) and all(passes[n] for n in let_through),
        }
    result["P9"] = rivals(states)
    return dict(sorted(result.items(), key=lambda entry: int(entry[0][1:])))


def rivals(states: Mapping[str, Json]) -> Json:
    """Compare the purifier with each control on P4 (explained share), P5 (interest AUC) and P6 (recovery).

    Erasure takes popularity's share to 0 by construction, so on P4 it is not a rival.

    Returns:
        As an entry of `verdicts`; `passes` holds the purifier alone, and `beats` each control to the probes where the purifier is
        better. Passes where it is better than every control on everything.
    """
    own = states[PURIFIER]
    beats: dict[str, dict[str, bool]] = {}
    for name in (name for name in RIVALS if name in states):
        row = states[name]
        better = {"P5": own["interest_auc"]["mean"] > row["interest_auc"]["mean"]}
        if name != "erasure":
            better["P4"] = own["explained_share"] < row["explained_share"]
        if own.get("recovery") is not None:
            better["P6"] = own["recovery"] > row["recovery"]
        beats[name] = dict(sorted(better.items()))
    return {
        "question": "better than every control on P4 (popularity), P5 (interest) and P6 (distance to true preference)",
        "passes": {PURIFIER: all(all(better.values()) for better in beats.values())},
        "must_fail": [],
        "must_pass": [],
        "controls_behave": True,
        "beats": beats,
    }


def claims(states: Mapping[str, Json], decided: Mapping[str, Json]) -> dict[str, bool]:
    """Return the claims that the probes decide, each true or false.

    `popularity_halved` is P4's. `popularity_axis_halved` takes all variance along the raw states' popularity axis instead; that
    axis also holds interest, so that even erasure need not halve it.
    """
    own, raw = (states[name]["variance_share"] for name in (PURIFIER, RAW))
    return {
        "popularity_halved": bool(decided["P4"]["passes"][PURIFIER]),
        "popularity_axis_halved": own <= MAX_POPULARITY * raw,
        "interest_kept": bool(decided["P5"]["passes"][PURIFIER]),
        "controls_behave": all(entry["controls_behave"] for entry in decided.values()),
        "beats_controls": bool(decided["P9"]["passes"][PURIFIER]),
    }


def misbehaving(entry: Json) -> Sequence[str]:
    """Return the controls that do not do what they have to: pass a probe that they must fail, or fail one that they must pass."""
    wrong = [name for name in entry["must_fail"] if entry["passes"][name]]
    return wrong + [name for name in entry["must_pass"] if not entry["passes"][name]]


def _plain(value: object) -> bool | None:
    return None if value is None else bool(value)
