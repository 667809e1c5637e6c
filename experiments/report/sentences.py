"""What each table of the report says, in words that need no paper, made from its numbers and their intervals."""

import math
from collections.abc import Iterator, Sequence

from dsrm_jax.evaluation.verdicts import RIVALS, verdicts
from experiments.report import paper
from experiments.report.curves import mean_facts
from experiments.report.findings import Findings, Row
from experiments.report.intervals import Cell, difference_of_means
from experiments.report.measures import closed_form_errors, figure2_sources, training_seconds
from experiments.report.paper import MAX_LENS, cell_name, env_name
from experiments.report.variants import variant_name
from experiments.report.waterfall import LADDER, PURIFIED, waterfall

OWN = "dsrm_hrl"


def data_said(findings: Findings) -> Iterator[str]:
    """Say of each data set what it is and how popular its popular items are."""
    for env, facts in findings.data.items():
        popularity, clicks = facts["describe"]["popularity"], facts["describe"]["train"].get("click_rate")
        rate = "" if clicks is None else f", and {clicks:.0%} of what was shown was clicked"
        share = f"a fifth of the items is {popularity['top_share']:.0%} of what was shown"
        yield f"{env_name(env)} ({facts['describe']['source']}): {share}{rate}."


def methods_said(findings: Findings, env: str, max_len: int, methods: Sequence[str]) -> Iterator[str]:
    """Say what DSRM-HRL's results mean in one cell, and which of the other methods it is beyond, level with or behind."""
    rows = {
        name: row for name in dict.fromkeys([OWN, *methods]) if (row := findings.row(env, max_len, name)) is not None
    }
    if OWN not in rows:
        return
    own = rows[OWN]
    gaps = {name: findings.difference(own, row, "length") for name, row in rows.items() if name != OWN}
    rivals = [method.name for method in RIVALS]
    for name in rivals:
        row = findings.row(env, max_len, name)
        if row is not None:
            gaps.setdefault(name, findings.difference(own, row, "length"))
            rows.setdefault(name, row)
    known = {name: {"length": {"mean": gap.value, **_bounds(gap)}} for name, gap in gaps.items()}
    yield from verdicts(
        {OWN: own["result"] | {"difference": known}} | {n: r["result"] for n, r in rows.items() if n != OWN}
    )
    learners = [name for name in methods if name not in (OWN, *paper.YARDSTICKS, *LADDER) and name in gaps]
    sides: dict[str, list[str]] = {"longer than": [], "as long as": [], "LESS long than": []}
    for name in learners:
        side = "as long as" if _is_level(gaps[name]) else "longer than" if gaps[name].value > 0 else "LESS long than"
        sides[side].append(variant_name(name))
    parts = [f"{side} {', '.join(names)}" for side, names in sides.items() if names]
    if parts:
        yield f"{variant_name(OWN)} keeps users {'; '.join(parts)}."


def ladder_said(findings: Findings) -> Iterator[str]:
    """Say on each data set which rungs gain beyond the one below, with paired intervals."""
    names = {f"{PURIFIED}+gaussian": "the Gaussian posterior", "quota_greedy+skips": "a raw state that sees skips"}
    for env in findings.environments:
        best = findings.row(env, MAX_LENS[0], PURIFIED)
        for name, words in names.items():
            row = findings.row(env, MAX_LENS[0], name)
            if best is not None and row is not None:
                gap = findings.difference(best, row, "length")
                yield f"{env_name(env)}: {_kept('the purifier', f'{words}, both greedy', gap)}"


def waterfall_said(findings: Findings) -> Iterator[str]:
    """Say on each data set what most of the gain is."""
    for env in findings.environments:
        steps = waterfall(findings, env)
        if steps:
            whole = sum(step.gain.value for step in steps)
            largest = sorted(steps, key=lambda step: -step.gain.value)[:2]
            parts = " and ".join(
                f"{step.name} ({step.gain.value:.2f} steps, {step.gain.value / whole:.0%})" for step in largest
            )
            level = [step.name for step in steps if _is_level(step.gain)]
            nothing = f"; nothing beyond its interval: {', '.join(level)}" if level else ""
            yield f"{env_name(env)}: of the {whole:.2f} steps beyond random slates most are {parts}{nothing}."


def heads_said(findings: Findings) -> Iterator[str]:
    """Say how many baselines DSRM-HRL is beyond, with their own head and with the same one."""
    words = {"": "under their own head", "+half": "under the half-and-half head, which it has itself"}
    for env in findings.environments:
        own = findings.row(env, MAX_LENS[0], OWN)
        counts = []
        for suffix, head in words.items():
            rows = [findings.row(env, MAX_LENS[0], f"{name}{suffix}") for name in paper.METHODS if name != OWN]
            gaps = [findings.difference(own, row, "length") for row in rows if row is not None and own is not None]
            if gaps:
                counts.append(f"than {sum(gap.low > 0 for gap in gaps)} of {len(gaps)} baselines {head}")
        if counts:
            yield f"{env_name(env)}: DSRM-HRL keeps users longer {', '.join(counts)}."


def times_said(findings: Findings) -> Iterator[str]:
    """Say how much longer DSRM-HRL trains than DNaIR; one timing of each has no interval."""
    found = {r["method"]: training_seconds(r) for r in findings.results.get("table4", [])}
    if OWN in found and found.get("dnair", 0) > 0:
        theirs = paper.TABLE4[OWN] / paper.TABLE4["dnair"]
        ratio = found[OWN] / found["dnair"]
        yield f"{variant_name(OWN)} trains {ratio:.1f} times as long as DNaIR ({theirs:.1f} in the paper); each was timed once."


def figure2_said(findings: Findings) -> Iterator[str]:
    """Say whether the correlation of counts tells anything of what users like."""
    for env in findings.environments:
        for label, facts in figure2_sources(findings, env):
            beyond = facts["counts"] - facts["shuffled"] > 2 * facts["shuffled_deviation"]
            word = "less, so a little of it is liking" if beyond else "as much, so it says nothing of what users like"
            shuffled = f"with rates dealt out at random it is {facts['shuffled']:.2f}, {word}"
            yield f"{label}: shown and clicked counts have R² {facts['counts']:.2f}; {shuffled}."


def figure3_said(findings: Findings) -> Iterator[str]:
    """Say what purifying the state of one policy does, cell by cell."""
    for env, max_len in findings.cells(("fig3",)):
        raw, purified = (findings.row(env, max_len, m) for m in ("dnair", "dnair_dsrm"))
        if raw is not None and purified is not None:
            gap = findings.difference(purified, raw, "length")
            yield f"{cell_name(env, max_len)}: {_kept('DNaIR on purified states', 'on raw ones', gap)}"


def figure4_said(findings: Findings) -> Iterator[str]:
    """Say whether purifying leaves less of popularity, and more of interest, in the states' clusters."""
    for env, report in findings.probes.items():
        raw, purified = (report["states"].get(name) for name in ("identity", "purifier"))
        if raw and purified:
            moves = (
                f"by {of} from {raw[f'{of}_silhouette']:+.3f} to {purified[f'{of}_silhouette']:+.3f}"
                for of in ("popularity", "interest")
            )
            yield f"{env_name(env)}: purifying takes the silhouette {' and '.join(moves)} (one draw, no interval)."


def grid_said(rows: Sequence[Row], names: Sequence[str]) -> Iterator[str]:
    """Say which point of a grid has the longest sessions, and which are level with it, by independent intervals."""
    cells = {name: Cell.of(row["result"]["length"]) for name, row in zip(names, rows, strict=True)}
    if not cells:
        return
    best = max(cells, key=lambda name: cells[name].value)
    level = [n for n, cell in cells.items() if n != best and _is_level(difference_of_means(cells[best], cell))]
    others = len(cells) - 1
    word = (
        "every other"
        if len(level) == others
        else "none of the others"
        if not level
        else f"{len(level)} of the {others} others"
    )
    yield f"Sessions are longest at {best} ({_cell(cells[best])} steps), and level with {word}."


def curves_said(findings: Findings, env: str) -> Iterator[str]:
    """Say whose sessions are longest late in training, and whether the seeds' spread lets it be told."""
    rows = [r for r in findings.results.get("fig7", []) if r["env"] == env]
    facts = {r["method"]: found for r in rows if (found := mean_facts(findings.curve_facts(r, "length")))}
    late = {name: found for name, found in facts.items() if math.isfinite(found["late_level"])}
    if len(late) < 2:
        return
    best, second = sorted(late, key=lambda name: -late[name]["late_level"])[:2]
    gap = late[best]["late_level"] - late[second]["late_level"]
    spread = math.hypot(late[best]["seed_spread"], late[second]["seed_spread"])
    word = f"{'more' if gap > 2 * spread else 'not more'} than two deviations over seeds"
    told = word if math.isfinite(spread) else "one seed tells no spread"
    first, next_best = variant_name(best), variant_name(second)
    yield f"Late in training {first} has the longest sessions, {gap:.1f} steps beyond {next_best}: {told}."


def closed_form_said(findings: Findings, bound: float) -> Iterator[str]:
    """Say whether Len is what R_each and p alone predict."""
    errors = closed_form_errors(findings)
    off = sum(error > bound for _, error, _ in errors)
    if errors:
        where, error, _ = errors[0]
        found = f"all {len(errors)}" if not off else f"{len(errors) - off} of {len(errors)}"
        yield f"Len is within {bound:g} steps of its closed form in {found} rows; furthest off, by {error:.2f}, is {where}."


def _kept(subject: str, other: str, gap: Cell) -> str:
    interval = (
        f"{gap.value:+.2f} steps [{gap.low:+.2f}, {gap.high:+.2f}]" if gap.half > 0 else f"{gap.value:+.2f} steps"
    )
    if _is_level(gap):
        return f"{subject} keeps users no longer than {other} ({interval})."
    return f"{subject} keeps users {'longer' if gap.value > 0 else 'LESS long'} than {other} ({interval})."


def _is_level(gap: Cell) -> bool:
    """Whether an interval holds 0; one that is not known is never apart from it."""
    return gap.half == 0 or gap.low <= 0 <= gap.high


def _bounds(gap: Cell) -> dict[str, float]:
    return {"low": gap.low, "high": gap.high} if gap.half > 0 else {"low": math.nan, "high": math.nan}


def _cell(cell: Cell) -> str:
    return f"{cell.value:.2f}" + (f" ± {cell.half:.2f}" if cell.half > 0 else "")
