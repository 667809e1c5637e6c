"""The ruler for people: a table a truth of every method by events, and one of errors by diffusion steps."""

from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table

from dsrm_jax.types import Json

MEASURES = {
    "error over exact": ("over_exact", 3),
    "log-likelihood": ("log_likelihood", 4),
    "region 50 %": ("region_50", 3),
    "region 90 %": ("region_90", 3),
    "regret": ("regret", 3),
}


def ruler_tables(results: Json) -> Iterator[RenderableType]:
    """Lay out the results of `study.run_ruler`, as returned or read back from JSON."""
    for truth, methods in results["truths"].items():
        lengths = list(next(iter(methods.values())))
        table = _table(f"{truth}: {', '.join(lengths)} events", "method", *MEASURES)
        for method, by_length in methods.items():
            table.add_row(method, *(_cells(by_length, lengths, *of) for of in MEASURES.values()))
        yield table
    for truth, kinds in results["steps"].items():
        for kind, samplers in kinds.items():
            rows = [(f"{sampler}, {n} events", at) for sampler, by in samplers.items() for n, at in by.items()]
            steps = _table(f"{truth}, {kind}: error over exact by steps", "", *rows[0][1]["over_exact"], "enough")
            for name, at in rows:
                steps.add_row(name, *(f"{x:.3f}" for x in at["over_exact"].values()), str(at["enough"]))
            yield steps
    table = _table(
        "the two ways of exact inference", "truth, events", "difference of means", "by noise", "effective sample"
    )
    for truth, by_length in results["references"].items():
        for length, found in by_length.items():
            table.add_row(
                f"{truth}, {length}",
                f"{max(found['difference']):.4f}",
                f"{max(found['expected']):.4f}",
                f"{min(found['effective_least']):.0f} of {found['draws'][0]:.0f}",
            )
    yield table


def _cells(by_length: Json, lengths: list[str], measure: str, digits: int) -> str:
    found = [by_length[n].get(measure) for n in lengths]
    if any(x is None for x in found):
        return "-"
    text = " ".join(f"{x['mean']:.{digits}f}" for x in found if x)
    if measure != "over_exact":
        return text
    return f"{text}  " + " ".join(f"[{x['low']:.2f}, {x['high']:.2f}]" for x in found if x)


def _table(title: str, *headings: str) -> Table:
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", overflow="fold")
    return table
