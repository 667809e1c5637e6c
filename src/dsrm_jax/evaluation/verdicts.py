"""A table in words: what beats what, what is level, what got worse, and what should worry its reader.

Every sentence is made from the intervals of the table's own numbers; nothing here looks at a paper.
"""

import math
from collections.abc import Mapping

from dsrm_jax.agents.methods import METHODS
from dsrm_jax.evaluation.tables import label
from dsrm_jax.types import Json

# what any learner has to beat, from the observed and from the purified state, and what nobody can
RIVALS = [method for method in METHODS.values() if method.rival]
RAW, PURIFIED = (next(m.name for m in RIVALS if (m.state == "identity") is raw) for raw in (True, False))
CHANCE = [method.name for method in METHODS.values() if method.draws and not method.learns]  # what knows nobody
ORACLE = next(method.name for method in METHODS.values() if method.make is None)
ENOUGH_SESSIONS = 1_000  # a seed, `EvaluationConfig.num_sessions`' default: steps to a tenth
ENOUGH_USERS = 200
ENOUGH_ROWS = 20  # of an item or a user on average; below, vectors are mostly their prior
BALANCED = 0.05  # an AD that nobody would call unfair
AUC_OF_CHANCE = 0.55


def verdicts(results: Mapping[str, Json]) -> list[str]:
    """Say what the first method's results mean, for somebody who has read no paper.

    Args:
        results: method to `metrics.summarise`'s result, as `tables.results_table` takes them: the first holds `difference` to
            the others, in which the sentences' intervals are.

    Returns:
        Sentences: against random slates where these are not clearly behind, against ranking by the observed state, against
        ranking by the purified state, about balance; fewer where a yardstick is absent or the spread is not known.
    """
    method, first = next(iter(results.items()))
    gaps = first.get("difference", {})
    said = _against_chance(method, results)
    if RAW in gaps and method != RAW:
        said.append(_against_raw(label(method), first, results, gaps[RAW]["length"]))
    if PURIFIED in gaps and method not in (RAW, PURIFIED) and _differ(results, RAW, PURIFIED):
        said.append(_against_purified(gaps[PURIFIED]["length"]))
    unfair = first["ad"]["mean"]
    rival = min((results[name]["ad"]["mean"] for name in (RAW, PURIFIED) if name in results), default=unfair)
    if unfair > max(BALANCED, rival + BALANCED):
        said.append(f"It is less balanced for it: AD {unfair:.2f} against {rival:.2f}.")
    return said


def warnings(facts: Json, results: Mapping[str, Json]) -> list[str]:
    """Say what of a run should worry its reader, and what to do about it.

    Args:
        facts: of the summary: `data` (`statistics.describe`), `worlds` (`make_worlds`' report), `probes`, `choice`
            (`choice.climb`); any may be absent.
        results: as of `verdicts`.
    """
    said = []
    recovery = [x for x in facts.get("probes", {}).get("recovery", []) if isinstance(x, float) and math.isfinite(x)]
    chosen = facts.get("choice", {}).get("chosen", "observed")
    if recovery and sum(recovery) < 0 and chosen == "observed":  # else later clicks spoke for it, which weighs more
        worse = -sum(recovery) / len(recovery)
        said.append(
            f"the purifier moves held-out states {worse:.0%} FURTHER from what the rest of their users' log tells: give it more "
            "iterations or rows, or act on the observed state (--purifier.kind identity)"
        )
    if "choice" in facts and chosen == "observed":
        said.append(
            "left-out users' later clicks do not speak for the purifier, so policies were given the observed state: give it more "
            "rows or iterations, or ask for it by name (--purifier.kind)"
        )
    gain = facts.get("choice", {}).get("over_popularity") or {}
    if gain.get("low") is not None and gain["low"] <= 0:
        said.append(
            f"what a user clicked tells of later clicks no more than how well each item does with everybody (log-likelihood "
            f"{gain['mean']:+.4f}, interval {gain['low']:+.4f} to {gain['high']:+.4f}): do not expect more of a ranking by it "
            "than of popularity; give it more rows of each user, or recommend what is popular"
        )
    few = min((r["sessions"] / max(len(r["seeds"]), 1) for r in results.values()), default=ENOUGH_SESSIONS)
    if few < ENOUGH_SESSIONS:
        said.append(f"{few:,.0f} sessions a seed are few: evaluate with --evaluation.num-sessions {ENOUGH_SESSIONS:,}")
    rows = facts.get("data", {}).get("train", {})
    if rows.get("rows"):
        each = {"item": rows["rows"] / rows["items"], "user": rows["rows"] / rows["users"]}
        if rows["users"] < ENOUGH_USERS:
            said.append(f"the training log has {rows['users']:,} users: too few to tell a taste from an accident")
        for of, count in each.items():
            if count < ENOUGH_ROWS:
                said.append(
                    f"the training log holds {count:.1f} rows per {of}: what is learnt of one is mostly what is true of all"
                )
    for name, world in facts.get("worlds", {}).items():
        auc = world.get("auc") if isinstance(world, Mapping) else None
        if isinstance(auc, float) and auc < AUC_OF_CHANCE:
            said.append(
                f"the users of the {name} simulator were fitted to rows whose clicks they hardly predict (AUC {auc:.2f}): "
                "no result in it says much"
            )
    return said


def held_out_states(facts: Json) -> str:
    """Say whether purifying brought held-out users' states nearer to what the rest of their logs tells, or further from it.

    Args:
        facts: of the summary: `probes` (`purification.probe_perception`, a list per seed each), and `choice` where one was made.
    """
    moved, nearer = (sum(facts["probes"][name]) / len(facts["probes"][name]) for name in ("change", "recovery"))
    way = "nearer to" if nearer > 0 else "further from"
    apart = f"{way} it than the observed state, by {abs(nearer):.0%} of the squared distance"
    apart = apart if abs(nearer) >= 0.005 else "as far from it as the observed state"
    said = f"held-out users, each beside an estimate from the rest of their log: the purified state is {apart}"
    but = "; the choice above goes by clicks, not by this distance" if "choice" in facts and nearer <= -0.005 else ""
    return f"{said} (purifying moves a state by {moved:.1f} of its lengths){but}"


def _against_raw(method: str, first: Json, results: Mapping[str, Json], gap: Json) -> str:
    rival = results[RAW]["length"]["mean"]
    lengths = f"{first['length']['mean']:.1f} against {rival:.1f} steps, {_interval(gap)}"
    if _is_level(gap):
        return f"{method} keeps users no longer than ranking by what they clicked, half and half ({lengths})."
    more = "longer" if gap["mean"] > 0 else "LESS long"
    steps = f"{abs(gap['mean']):.1f} steps {more}"
    said = f"{method} keeps users {steps} than ranking by what they clicked, half and half ({lengths})"
    if ORACLE in results and gap["mean"] > 0:
        lead = results[ORACLE]["length"]["mean"] - rival
        if lead > 0:
            said += f", {gap['mean'] / lead:.0%} of what knowing them perfectly would add"
    return said + "."


def _against_chance(method: str, results: Mapping[str, Json]) -> list[str]:
    """Say that the best of the random slates reach into the method's interval, where they do."""
    drawn = max(
        (name for name in CHANCE if name in results), key=lambda name: results[name]["length"]["mean"], default=method
    )
    if drawn == method or not results[drawn]["length"]["high"] >= results[method]["length"]["low"]:
        return []
    kept = f"{results[drawn]['length']['mean']:.1f} steps against {results[method]['length']['mean']:.1f}"
    return [
        f"Slates that know nobody ({label(drawn)}) keep users as long ({kept}): what was learnt of users is worth nothing here."
    ]


def _against_purified(gap: Json) -> str:
    found = f"Len {gap['mean']:+.2f}, {_interval(gap)}"
    if _is_level(gap):
        return f"Reinforcement learning adds nothing over ranking by the purified state here ({found})."
    if gap["mean"] > 0:
        return f"Learning to act adds {gap['mean']:.2f} steps on top of ranking by the purified state ({found})."
    return f"Learning to act COSTS {-gap['mean']:.2f} steps against ranking by the purified state ({found})."


def _is_level(gap: Json) -> bool:
    """Return whether an interval holds 0; one that is not known is never apart from it."""
    return not (gap["low"] > 0 or gap["high"] < 0)


def _interval(gap: Json) -> str:
    if math.isnan(gap["high"] - gap["low"]):
        return "interval unknown"
    return f"interval {gap['low']:+.2f} to {gap['high']:+.2f}"


def _differ(results: Mapping[str, Json], one: str, other: str) -> bool:
    """Return whether two methods of a table did anything else: under `identity` both states are the same."""
    return any(results[one]["length"][k] != results[other]["length"][k] for k in ("mean", "low", "high"))
