"""Tables for people: methods against metrics, the paper's numbers beside ours."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

# (env, max_len) -> Len, R_each, R_cum, AD of the row "Ours" of the paper's Table 2, mean and deviation over its seeds
PAPER = {
    ("kuairec", 30): ("26.60±0.82", "0.917±0.010", "23.75±1.04", "0.008±0.003"),
    ("kuairec", 50): ("34.85±0.35", "0.870±0.001", "30.42±0.49", "0.044±0.011"),
    ("kuairand", 30): ("24.07±1.40", "0.849±0.007", "19.75±1.39", "0.011±0.003"),
    ("kuairand", 50): ("35.13±0.86", "0.848±0.001", "29.09±0.51", "0.024±0.009"),
}

# metric, heading, digits
COLUMNS = (
    ("length", "Len", 2),
    ("reward", "R_each", 3),
    ("return", "R_cum", 2),
    ("ad", "AD", 3),
    ("slate_ad", "AD per slate", 3),
    ("broken", "p", 3),
    ("gini", "item Gini", 3),
    ("coverage", "coverage", 3),
)


def results_table(
    results: Mapping[str, Mapping[str, Any]], *, source: str, env: str, max_len: int, num_seeds: int
) -> Table:
    """Lay out methods against metrics, each cell the mean and the half-width of its confidence interval.

    Args:
        results: method to `metrics.summarise_seeds`'s result, in the order of the rows.
        source: what the data are; stands in the title, so that no table can be mistaken for one of real data.
        env: data set, for the paper's row.
        max_len: T0, for the paper's row.
        num_seeds: seeds behind each row.

    Returns:
        A Rich table; `closed form` is (T0 - 1) / (2 - R_each + p) + 1/2, which the measured Len should be near.
    """
    sessions = next(iter(results.values()))["sessions"]
    table = Table(
        title=f"{source}; max_len {max_len}; {num_seeds} seed(s), {sessions:,} held-out sessions in all",
        title_justify="left",
    )
    table.add_column("method", no_wrap=True)
    for _, heading, _ in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("closed form", justify="right", no_wrap=True)
    for method, result in results.items():
        cells = [cell(result[name], digits) for name, _, digits in COLUMNS]
        table.add_row(method, *cells, f"{result['closed_form']:.2f}")
    paper = PAPER.get((env, max_len))
    if paper:
        table.add_section()
        empty = [""] * (len(COLUMNS) - 4)
        table.add_row("paper, real data", *paper, *empty, "")
    return table


def cell(value: Mapping[str, float], digits: int) -> str:
    """Return `mean±half-width` with so many digits after the point."""
    half = (value["high"] - value["low"]) / 2
    return f"{value['mean']:.{digits}f}±{half:.{digits}f}"


def data_table(facts: Mapping[str, Any]) -> Table:
    """Lay out the statistics of a log (`data.sources.describe`) as the paper's Table 1, and more."""
    table = Table(title=str(facts["source"]), title_justify="left")
    table.add_column("statistic")
    for split in ("train", "test"):
        table.add_column(split, justify="right")
    for name in facts["train"]:
        table.add_row(name.replace("_", " "), *(_show(facts[split].get(name)) for split in ("train", "test")))
    return table


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_show(v)}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
