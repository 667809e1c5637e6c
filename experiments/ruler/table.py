"""The ruler for people: a table a truth of every method by events, and one of errors by diffusion steps."""

from collections.abc import Iterator

from rich.console import RenderableType

from dsrm_jax.evaluation.wide_table import WideTable
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
        table = WideTable("method", *MEASURES, title=f"{truth}: {', '.join(lengths)} events")
        for method, by_length in methods.items():
            table.add_row(method, *(_cells(by_length, lengths, *of) for of in MEASURES.values()))
        yield table
    for truth, kinds in results["steps"].items():
        for kind, samplers in kinds.items():
            rows = [(f"{sampler}, {n} events", at) for sampler, by in samplers.items() for n, at in by.items()]
            steps = WideTable(
                "", *rows[0][1]["over_exact"], "enough", title=f"{truth}, {kind}: error over exact by steps"
            )
            for name, at in rows:
                steps.add_row(name, *(f"{x:.3f}" for x in at["over_exact"].values()), str(at["enough"]))
            yield steps
    headings = "truth, events", "difference of means", "by noise", "effective sample"
    table = WideTable(*headings, title="the two ways of exact inference")
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
