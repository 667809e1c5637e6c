"""The table of `dsrm-jax probe`."""

from collections.abc import Mapping

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dsrm_jax.evaluation.wide_table import WideTable
from dsrm_jax.types import Json
from experiments.probes.verdicts import PURIFIER, RAW, misbehaving

# probe, name in `states`, heading, digits
COLUMNS = (
    (("P1", "change", "moved by", 2), ("P1", "cka", "CKA", 2), ("P2", "leak", "leak", 2)),
    (
        ("P3", "condition_sensitivity", "P3 asks", 2),
        ("P6", "recovery", "P6 truth", 2),
        ("P7", "selectivity", "P7 put in", 2),
        ("P7", "removal_selectivity", "P7 left out", 2),
    ),
    (
        ("P4", "variance_share", "axis share", 3),
        ("P4", "explained_share", "share", 3),
        ("P4", "ridge_r2", "ridge R2", 2),
        ("P4", "mlp_r2", "MLP R2", 2),
        ("P4", "distance_correlation", "dCor", 2),
    ),
    (
        ("P5", "interest_auc", "AUC", 3),
        ("P5", "interest_difference", "vs raw", 3),
        ("P5", "long_tail_recall", "tail recall", 3),
        ("P5", "reidentification_auc", "re-id", 3),
        ("P5", "effective_rank", "rank", 1),
    ),
    (
        ("P8", "popularity_silhouette", "pop. silh.", 3),
        ("P8", "popularity_nmi", "pop. NMI", 3),
        ("P8", "interest_silhouette", "int. silh.", 3),
        ("P8", "interest_nmi", "int. NMI", 3),
    ),
)
HEADINGS = (
    "what moved (P1, P2)",
    "evidence it hears, truth it recovers, popular over niche clicks (P3, P6, P7)",
    "popularity left in the state (P4)",
    "interest in the state (P5)",
    "clusters (P8)",
)


def probe_table(report: Json) -> RenderableType:
    """Lay out a report: a table per question with a row per control, next clicks, and the verdicts with the claims.

    Args:
        report: of `report.probe_report`.

    Returns:
        What `rich.console.Console.print` takes.
    """
    truth = (
        "true preference known" if report["true_preference"] else "true preference not known: later clicks stand for it"
    )
    title = f"{report['source']}; {report['purifier']} purifier; {report['users']:,} held-out users; {truth}"
    parts: list[RenderableType] = [Text(title, style="bold")]
    for heading, columns in zip(HEADINGS, COLUMNS, strict=True):
        table = WideTable("state", *(name for _, _, name, _ in columns), title=heading)
        for name, row in report["states"].items():
            table.add_row(name, *(_cell(row[key], digits) for _, key, _, digits in columns), style=_style(name))
        parts += [table, Text()]
    if report["next_click"]:
        parts += [_next_click(report["next_click"]), Text()]
    parts += [_downstream(report["downstream"]), Text()]
    parts += [_verdicts(report["verdicts"]), Text()]
    parts += [Text(f"{name.replace('_', ' ')}: {'yes' if held else 'NO'}") for name, held in report["claims"].items()]
    return Group(*parts)


def _next_click(later: Json) -> WideTable:
    table = WideTable(
        "state", "AUC", "AUC vs raw", "NDCG", "NDCG vs raw", title="clicks of later days, popularity-matched negatives"
    )
    for name, row in later.items():
        cells = (_cell(row[key], 3) for key in ("auc", "auc_difference", "ndcg", "ndcg_difference"))
        table.add_row(name, *cells, style=_style(name))
    return table


def _downstream(conditions: Mapping[str, Json]) -> WideTable:
    table = WideTable(
        "state",
        "Len",
        "R_each",
        "p",
        "Len vs raw",
        "by R_each",
        "by p",
        title="sessions of greedy half-and-half slates (P10)",
    )
    for name, row in conditions.items():
        measured = (_cell(row[key], 3) for key in ("length", "reward", "broken", "length_gain"))
        parts = (_cell(row["decomposition"][key], 3) for key in ("reward", "broken"))
        table.add_row(name, *measured, *parts, style=_style(name))
    return table


def _verdicts(decided: Mapping[str, Json]) -> Table:
    table = _table("probe", "passes where it", "purifier", "controls do as they should", title="verdicts")
    for column in table.columns[1:]:
        column.justify = "left"
    for name, entry in decided.items():
        own = entry["passes"][PURIFIER]
        wrong = misbehaving(entry)
        number = len(entry["must_fail"]) + len(entry["must_pass"])
        caught = f"{number - len(wrong)} of {number} do" if number else ""
        caught += f"; NOT {', '.join(wrong)}" if wrong else ""
        word = {True: "passes", False: "FAILS", None: "does not apply"}[own]
        table.add_row(name, entry["question"], word, caught)
    return table


def _table(*headings: str, title: str) -> Table:
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", overflow="fold")
    return table


def _style(name: str) -> str | None:
    return "bold" if name in (PURIFIER, RAW) else None


def _cell(value: float | Json | None, digits: int) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        half = (value["high"] - value["low"]) / 2
        return f"{value['mean']:.{digits}f}±{half:.{digits}f}"
    return f"{value:.{digits}f}"
