"""The ladder for people: a table a number of events, rungs by measures, with what each gains over the Gaussian posterior."""

from collections.abc import Iterator

from rich.console import RenderableType

from dsrm_jax.evaluation.wide_table import WideTable
from dsrm_jax.types import Json

MEASURES = {
    "log-lik.": ("log_likelihood", 4),
    "calib. error": ("calibration_error", 3),
    "rate": ("click_rate_error", 3),
    "AUC": ("auc", 3),
    "AUC, match": ("matched_auc", 3),
}


def ladder_tables(result: Json) -> Iterator[RenderableType]:
    """Lay out what `study.run_ladder` returns; differences are to the Gaussian posterior, with 95 % intervals over users."""
    for events, found in result["events"].items():
        if "skipped" in found:
            yield f"{events} events: skipped, {found['skipped']}"
            continue
        title = f"{result['source']}: {events} events, {found['users']:,} users, {found['later']:,} later events"
        table = WideTable("rung", *MEASURES, "log-lik. over gaussian", title=title)
        for name, rung in found["rungs"].items():
            cells = (f"{rung[measure]['mean']:.{digits}f}" for measure, digits in MEASURES.values())
            gap = rung["over_gaussian"]["log_likelihood"]
            table.add_row(name, *cells, f"{gap['mean']:+.4f} [{gap['low']:.3f}, {gap['high']:.3f}]")
        yield table
