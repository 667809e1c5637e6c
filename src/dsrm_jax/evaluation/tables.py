"""Tables for people: methods against metrics, the paper's numbers beside ours, legible from 80 columns on."""

import math
from collections.abc import Mapping, Sequence

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from dsrm_jax.agents.methods import METHODS, AgentConfig
from dsrm_jax.evaluation.wide_table import WideTable
from dsrm_jax.types import Json

# (env, max_len) -> Len, R_each, R_cum, AD of the row "Ours" of the paper's Table 2, mean and deviation over its seeds
PAPER = {
    ("kuairec", 30): ("26.60±0.82", "0.917±0.010", "23.75±1.04", "0.008±0.003"),
    ("kuairec", 50): ("34.85±0.35", "0.870±0.001", "30.42±0.49", "0.044±0.011"),
    ("kuairand", 30): ("24.07±1.40", "0.849±0.007", "19.75±1.39", "0.011±0.003"),
    ("kuairand", 50): ("35.13±0.86", "0.848±0.001", "29.09±0.51", "0.024±0.009"),
}
PAPER_METHOD = AgentConfig.method  # its row
# what any learner has to beat: exact balance and the encoder's ranking, unlearnt
RIVALS = tuple(method.name for method in METHODS.values() if method.rival)

# metric, heading, digits
PAPER_COLUMNS = (("length", "Len", 2), ("reward", "R_each", 3), ("return", "R_cum", 2), ("ad", "AD", 3))
OTHER_COLUMNS = (
    ("slate_ad", "AD of slates", 3),
    ("broken", "p", 3),
    ("gini", "item Gini", 3),
    ("coverage", "coverage", 3),
)
OPTIONAL_COLUMNS = (("own_return", "own return", 3), ("visits", "sessions", 2))
SPREAD = {"mean": "mean", "q05": "5 %", "q25": "25 %", "q50": "50 %", "q75": "75 %", "q95": "95 %", "max": "max"}
LABELS = {"rows_per_user": "rows", "user_click_rate": "click rate", "catalogue": "recommended items"}


def results_table(
    results: Mapping[str, Json], *, source: str, env: str, max_len: int, num_seeds: int
) -> RenderableType:
    """Lay out methods against metrics, each cell the mean and the half-width of its confidence interval.

    Args:
        results: method to `metrics.summarise`'s result, in the order of the rows. The first may hold
            `difference` (`metrics.difference` by method); those to `RIVALS` stand below the table.
        source: what the data are; stands in the first line, so that no table can be mistaken for one of real data.
        env: data set, for the paper's row.
        max_len: T0, for the paper's row.
        num_seeds: seeds behind each row.

    Returns:
        What `rich.console.Console.print` takes: two tables side by side, or one above the other where the console is too narrow.
    """
    first, *_ = results.values()
    title = (
        f"{source}; max_len {max_len}; {num_seeds} seed{'s'[: num_seeds != 1]}, {first['sessions']:,} held-out sessions"
    )
    paper = PAPER.get((env, max_len))
    main = WideTable("method", *(heading for _, heading, _ in PAPER_COLUMNS), "E[Len]")
    columns = (*OTHER_COLUMNS, *(column for column in OPTIONAL_COLUMNS if column[0] in first))
    other = WideTable("method", *(heading for _, heading, _ in columns))
    for method, result in results.items():
        expected = result.get("closed_form")
        name = label(method)
        main.add_row(name, *_cells(result, PAPER_COLUMNS), "" if expected is None else f"{expected:.2f}")
        other.add_row(name, *_cells(result, columns))
        if paper and method == PAPER_METHOD:
            main.add_row("  paper's", *paper, "", style="dim")
    notes = _notes(results, num_seeds=num_seeds, paper=bool(paper))
    return Group(Text(title, style="bold"), _side_by_side(main, other), *(Text(note) for note in notes))


def cell(value: Mapping[str, float], digits: int) -> str:
    """Return `mean±half-width` with so many digits after the point; the mean alone where its spread is not known."""
    half = (value["high"] - value["low"]) / 2
    return f"{value['mean']:.{digits}f}" + ("" if math.isnan(half) else f"±{half:.{digits}f}")


def data_table(facts: Json) -> RenderableType:
    """Lay out the statistics of a log, `facts` of `data.statistics.describe`: the paper's Table 1, and more."""
    counts = WideTable("statistic", "train", "test")
    spreads = WideTable("per user", "split", *SPREAD.values(), keys=2)
    for name, train in facts["train"].items():
        label, test = LABELS.get(name, name.replace("_", " ")), facts["test"].get(name)
        if not isinstance(train, Mapping):
            counts.add_row(label, _number(train), _number(test))
            continue
        for split, spread in (("train", train), ("test", test)):
            if spread is not None:
                digits = 3 if spread["max"] <= 1 else 0
                spreads.add_row(label, split, *(f"{spread[key]:,.{digits}f}" for key in SPREAD))
    whole = WideTable("whole log", "")
    for name in ("rows", "users", "items", "categories", "catalogue", "click_rate"):
        whole.add_row(LABELS.get(name, name.replace("_", " ")), _number(facts[name]))
    for name, moment in (facts["span"] or {}).items():
        whole.add_row(f"{name} time", moment.removesuffix(".000Z").removesuffix("Z").replace("T", " "))
    for scope, prefix in (("all items", ""), ("recommended", "catalogue_")):
        whole.add_row(f"exposure Gini, {scope}", _number(facts["popularity"][f"{prefix}gini"]))
        whole.add_row(f"share of the top 20 %, {scope}", _number(facts["popularity"][f"{prefix}top_share"]))
    curve = WideTable("most shown items", *facts["popularity"]["curve"])
    curve.add_row("share of what is shown", *map(_number, facts["popularity"]["curve"].values()))
    notes = (Text(note) for note in facts["notes"])
    return Group(Text(str(facts["source"]), style="bold"), *notes, _side_by_side(counts, whole), spreads, Text(), curve)


def _notes(results: Mapping[str, Json], *, num_seeds: int, paper: bool) -> list[str]:
    method, first = next(iter(results.items()))
    notes = []
    for other in RIVALS:
        gap = first.get("difference", {}).get(other)
        if gap:
            length = gap["length"]
            notes.append(
                f"{label(method)} - {label(other)}: Len {length['mean']:+.2f} [{length['low']:.2f}, {length['high']:.2f}], "
                "same users"
            )
    over = "seeds and sessions" if num_seeds > 1 else "sessions; one seed says nothing about others"
    notes.append("E[Len]: the length to be expected of R_each and p alone, in closed form")
    notes.append(f"± and [ ]: {100 * first['confidence']:g} % confidence over {over}")
    if paper and PAPER_METHOD in results:
        notes.append("paper's: real data, ± its standard deviation over 3 seeds")
    return notes


def label(method: str) -> str:
    """Return what tables and pictures call a method; one from outside the package is called by its name."""
    return METHODS[method].label if method in METHODS else method


def _side_by_side(*tables: WideTable) -> Columns:
    """Lay tables out beside each other, or below where the console is too narrow, a blank line after each."""
    return Columns([Padding(table, (0, 0, 1, 0), expand=False) for table in tables], padding=(0, 4, 0, 0))


def _cells(result: Json, columns: Sequence[tuple[str, str, int]]) -> list[str]:
    return [cell(result[name], digits) for name, _, digits in columns]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.3f}"
