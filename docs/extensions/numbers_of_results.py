"""The tables of the site, made from the committed `experiments/results/*.json` when it is built: a page cannot go stale."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from dsrm_jax.agents.methods import METHODS
from dsrm_jax.config import Config
from dsrm_jax.evaluation.tables import label
from dsrm_jax.evaluation.verdicts import verdicts
from dsrm_jax.purify.settings import PURIFYING

Json = Any
COLUMNS = {"length": ("Len", 2), "reward": ("R_each", 3), "return": ("R_cum", 2), "ad": ("AD", 3)}


def read(folder: Path) -> dict[str, Any]:
    """Return what pages name in double braces: tables, sentences and defaults as Markdown."""
    load = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    worlds = {name: load[name] for name in ("kuairec", "kuairand")}
    return {
        **{f"table_{name}": results_table(run["results"]) for name, run in worlds.items()},
        **{f"verdict_{name}": " ".join(verdicts(run["results"])) for name, run in worlds.items()},
        **{f"seconds_{name}": f"{run['seconds']:.0f}" for name, run in worlds.items()},
        "table_all_methods": methods_table(load["baselines"]["results"]),
        "table_methods": table(
            ["name", "what it is"], [[f"`{m.name}`", m.about] for m in METHODS.values()], rest="---"
        ),
        "table_ladder": ladder_table(load["ladder"]),
        "words_ladder": ladder_words(load["ladder"]),
        "table_sessions": sessions_table(load["headroom_sessions"]),
        "table_recovered": recovered_table(load["headroom"]),
        "table_learners": learners_table(load["worlds_learners"]),
        "learner_sizes": learner_sizes(load["worlds_learners"]),
        "table_steps": steps_table(load["ruler"]["steps"]),
        "words_sessions": sessions_words(load["headroom_sessions"]),
        "default_kind": f"`{PURIFYING}`",
        **{f"default_{name.replace('.', '_')}": f"`{value}`" for name, value in defaults(Config()).items()},
    }


def defaults(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return every field of the configuration by its dotted name."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = f"{prefix}{field.name}"
        found |= defaults(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return found


def table(header: list[str], rows: list[list[str]], *, rest: str = "---:") -> str:
    """Return a Markdown table, its first column to the left and the others to the right, or as `rest` says."""
    lines = [header, ["---", *[rest] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plus_minus(found: Json, digits: int, *, sign: bool = False) -> str:
    half = (found["high"] - found["low"]) / 2
    return f"{found['mean']:{'+' if sign else ''}.{digits}f} ± {half:.{digits}f}"


def bracket(found: Json, digits: int, *, times: float = 1) -> str:
    mean, low, high = (times * found[key] for key in ("mean", "low", "high"))
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def results_table(results: Json) -> str:
    """Return the methods of a run with Len, R_each, R_cum and AD."""
    rows = [
        [label(name), *(plus_minus(found[key], digits) for key, (_, digits) in COLUMNS.items())]
        for name, found in results.items()
    ]
    return table(["method", *(title for title, _ in COLUMNS.values())], rows)


def methods_table(points: Json) -> str:
    """Return Len and R_cum of every method on both worlds at max_len 30, best Len on kuairec first."""
    at = {(p["env"], p["method"]): p["result"] for p in points if p["max_len"] == 30}
    order = sorted({method for _, method in at}, key=lambda method: -at["kuairec", method]["length"]["mean"])
    cells = [(env, key, digits) for env in ("kuairec", "kuairand") for key, digits in (("length", 1), ("return", 1))]
    rows = [[label(m), *(plus_minus(at[env, m][key], digits) for env, key, digits in cells)] for m in order]
    rows = [[*row, f"{at['kuairec', m]['ad']['mean']:.2f}"] for row, m in zip(rows, order, strict=True)]
    return table(["method", "kuairec Len", "R_cum", "kuairand Len", "R_cum", "AD (kuairec)"], rows)


LOGS = ("KuaiRand-Pure", "signed KuaiRec", "synthetic kuairand", "synthetic kuairec")
STATES = ("raw with skips", "mixture", "guided", "conditional")


def _lengths(ladder: Json, log: str) -> list[str]:
    """Return the numbers of events at which a log had users enough."""
    return [events for events, found in ladder[log]["events"].items() if "rungs" in found]


def _over_gaussian(ladder: Json, log: str, events: str, state: str) -> Json:
    return ladder[log]["events"][events]["rungs"][state]["over_gaussian"]["log_likelihood"]


def ladder_table(ladder: Json) -> str:
    """Return the log-likelihood of later clicks over the Gaussian posterior's, in thousandths of a nat."""
    rows = [
        [f"{log}, {events}", *(bracket(_over_gaussian(ladder, log, events, s), 1, times=1000) for s in STATES)]
        for log in LOGS
        for events in _lengths(ladder, log)
    ]
    return table(["log, events", *STATES], rows)


def ladder_words(ladder: Json) -> str:
    """Say on real logs where a purifier is apart from the Gaussian posterior, and where not."""
    said = []
    for log in LOGS[:2]:
        ahead, behind, level = [], [], 0
        for state in STATES[1:]:
            for events in _lengths(ladder, log):
                found = _over_gaussian(ladder, log, events, state)
                name = f"`{state}` at {events} events"
                level += found["low"] <= 0 <= found["high"]
                (ahead if found["low"] > 0 else behind if found["high"] < 0 else []).append(name)
        apart = [f"ahead: {', '.join(ahead)}"] * bool(ahead) + [f"behind: {', '.join(behind)}"] * bool(behind)
        said.append(
            f"On {log} {level} of {3 * len(_lengths(ladder, log))} are level; {'; '.join(apart) or 'none is apart'}."
        )
    return " ".join(said)


def sessions_table(sessions: Json) -> str:
    """Return steps of Len over those on the Gaussian posterior, of greedy half-and-half slates."""
    states = ("conditional", "guided")
    rows = [
        [f"{world}, {events} events", *(bracket(found["ahead"][s][events]["length"], 2) for s in states)]
        for world, found in sessions.items()
        for events in found["ahead"][states[0]]
    ]
    return table(["world, data seed", *(f"`{s}`" for s in states)], rows)


def sessions_words(sessions: Json) -> str:
    """Say in how many rows of `sessions_table` each purifier is beyond its interval."""
    rows = [(found["ahead"], events) for found in sessions.values() for events in found["ahead"]["guided"]]
    said = []
    for state in ("conditional", "guided"):
        gaps = [ahead[state][events]["length"] for ahead, events in rows]
        ahead, behind = sum(gap["low"] > 0 for gap in gaps), sum(gap["high"] < 0 for gap in gaps)
        said.append(
            f"`{state}` is ahead of the Gaussian posterior beyond its interval in {ahead} of {len(rows)} rows, behind in {behind}"
        )
    return "; ".join(said) + "."


def recovered_table(headroom: Json) -> str:
    """Return which share of the oracle state's lead each purifier recovers, in per cent."""
    rows = []
    for world, found in headroom.items():
        for kind, by_length in found["recovered"].items():
            cells = [by_length[str(events)]["reward"] for events in found["lengths"]]
            texts = [f"{100 * c['mean']:.0f} [{100 * c['low']:.0f}, {100 * c['high']:.0f}]" for c in cells]
            rows.append([f"{world}: `{kind}`", *texts])
    lengths = next(iter(headroom.values()))["lengths"]
    return table(["world: purifier", *(f"{events} events" for events in lengths)], rows)


def learner_sizes(learners: Json) -> str:
    seeds = [len(found["data_seeds"]) for found in learners["worlds"].values()]
    return f"up to {max(seeds)} data seeds with {len(learners['training_seeds'])} training seeds each"


def learners_table(learners: Json) -> str:
    """Return what DSRM-HRL earns in worlds with memory beside three rules on the same state."""
    rows = []
    for world, found in learners["worlds"].items():
        earned = found["rows"]
        means = [f"{earned[name]['return']['mean']:.2f}" for name in ("half", "constant", "aware", "dsrm_hrl")]
        gaps = [plus_minus(found["less"]["dsrm_hrl"][name], 2, sign=True) for name in ("half", "constant", "aware")]
        rows.append([f"`{world}`", str(len(found["data_seeds"])), *means, *gaps])
    header = [
        "world",
        "data seeds",
        "half",
        "constant",
        "aware",
        "DSRM-HRL",
        "less half",
        "less constant",
        "less aware",
    ]
    return table(header, rows)


def steps_table(steps: Json) -> str:
    """Return `guided`'s squared error over that of exact inference at 100 events, by the number of diffusion steps."""
    by_truth = {
        truth: found["guided"]["ddpm"]["100"]["over_exact"] for truth, found in steps.items() if "guided" in found
    }
    counts = list(next(iter(by_truth.values())))
    rows = [[truth, *(f"{found[n]:.2f}" if n in found else "" for n in counts)] for truth, found in by_truth.items()]
    return table(["tastes", *(f"S = {n}" for n in counts)], rows)
