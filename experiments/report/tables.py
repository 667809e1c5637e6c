"""The report's tables: ours beside the paper's, as Markdown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.report import paper, sentences
from experiments.report.comparisons import LOWER_IS_BETTER
from experiments.report.curves import mean_facts
from experiments.report.findings import Findings, Row
from experiments.report.intervals import Cell
from experiments.report.measures import closed_form_errors, figure2_sources, training_seconds
from experiments.report.paper import env_name
from experiments.report.variants import variant_name
from experiments.report.waterfall import LADDER, LEARNERS, ladder_rows, waterfall

EQUITY = {
    "slate_ad": ("AD of slates", 3),
    "broken": ("p", 3),
    "gini": ("item Gini", 3),
    "coverage": ("coverage", 3),
    "tail": ("long tail", 3),
    "spread": ("Len, deviation over users", 2),
    "worst_tenth": ("Len, worst tenth", 2),
}
METRIC_HEADINGS = {"length": ("Len", 2), "reward": ("R_each", 3), "return": ("R_cum", 2), "ad": ("AD", 3)}
CLOSED_FORM_BOUND = 0.3  # steps
ABSENT = "not finished"
MOST_COLUMNS = 9  # beside each other on a page


@dataclass(frozen=True)
class ReportTable:
    """A table of texts.

    Attributes:
        title: one line; empty: none.
        header: of the columns; the first is left-aligned, the others right, or all left where `prose`.
        rows: of the table, as long as the header.
        prose: cells are sentences.
        said: what the table says, in sentences; they stand above it.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    prose: bool = False
    said: Sequence[str] = ()


def markdown(table: ReportTable) -> str:
    """Return a table as Markdown, below its title and what it says; one too wide for a page is split, its rows named again."""
    title = [f"**{table.title}**", ""] if table.title else []
    said = [*(f"* {sentence}" for sentence in table.said), ""] if table.said else []
    step = MOST_COLUMNS - 1
    parts = [range(first, min(first + step, len(table.header))) for first in range(1, max(len(table.header), 2), step)]
    lines = ["\n".join(_lines(table, [0, *part])) for part in parts]
    return "\n".join([*title, *said]) + ("\n" if title or said else "") + "\n\n".join(lines) + "\n"


def _lines(table: ReportTable, columns: Sequence[int]) -> list[str]:
    align = [":--" if table.prose or i == 0 else "--:" for i in columns]
    cells = (table.header, *table.rows)
    header, *rows = (_line([row[i] for i in columns]) for row in cells)
    return [header, _line(align), *rows]


def ours(cell: Cell, digits: int) -> str:
    """Return `mean ± half-width`, the mean alone where its spread is not known."""
    return f"{cell.value:.{digits}f}" + (f" ± {cell.half:.{digits}f}" if cell.half > 0 else "")


def theirs(env: str, max_len: int, method: str, metric: str) -> str:
    """Return the paper's cell, `mean ± deviation`, empty where it prints none."""
    cell = paper.printed(env, max_len, method, metric)
    digits = METRIC_HEADINGS[metric][1]
    return "" if cell is None else f"{cell.mean:.{digits}f} ± {cell.deviation:.{digits}f}"


def table1(findings: Findings) -> ReportTable:
    """Return the statistics of the logs beside the paper's."""
    rows = []
    for env, facts in findings.data.items():
        described = facts["describe"]
        for split in ("train", "test"):
            numbers = described[split]
            printed = paper.TABLE1.get((paper.family(env), split), ("", "", ""))
            for name, value, theirs_ in zip(("users", "items", "rows"), _counts(numbers), printed, strict=True):
                rows.append([f"{env_name(env)}, {split}: {name}", value, theirs_])
            if "click_rate" in numbers:
                rows.append([f"{env_name(env)}, {split}: click rate", f"{numbers['click_rate']:.3f}", ""])
        rows.append([f"{env_name(env)}: items recommended from", f"{described['catalogue']:,}", ""])
        rows.append([f"{env_name(env)}: exposure Gini", f"{described['popularity']['gini']:.3f}", ""])
        rows.append([f"{env_name(env)}: share of the top 20 %", f"{described['popularity']['top_share']:.3f}", ""])
    return ReportTable("", ("statistic", "ours", "paper"), rows, said=list(sentences.data_said(findings)))


def methods_table(findings: Findings, env: str, max_len: int, methods: Sequence[str], plan: str) -> ReportTable:
    """Return methods against the paper's four metrics, p and the closed form of Len, for one cell of Table 2 or 3."""
    header = ["method"]
    for heading, _ in METRIC_HEADINGS.values():
        header += [heading, f"paper's {heading}"]
    best = best_methods(findings, env, max_len, [m for m in methods if m not in (*paper.YARDSTICKS, *LADDER)])
    rows = [_method_row(findings, env, max_len, method, best) for method in methods]
    sessions = next((r["result"]["sessions"] for r in findings.results[plan] if r["env"] == env), 0)
    title = f"{env_name(env)}, Max Len {max_len}; {sessions:,} held-out sessions over all seeds"
    said = list(sentences.methods_said(findings, env, max_len, methods))
    return ReportTable(title, [*header, *(heading for heading, _ in EQUITY.values()), "E[Len]"], rows, said=said)


def best_methods(findings: Findings, env: str, max_len: int, methods: Sequence[str]) -> dict[str, str]:
    """Return the method with the best mean of each metric in one cell."""
    rows = {m: row for m in methods if (row := findings.row(env, max_len, m)) is not None}
    if not rows:
        return {}
    signs = {metric: -1 if metric in LOWER_IS_BETTER else 1 for metric in METRIC_HEADINGS}
    return {metric: max(rows, key=lambda m: sign * rows[m]["result"][metric]["mean"]) for metric, sign in signs.items()}


def _method_row(findings: Findings, env: str, max_len: int, method: str, best: Mapping[str, str]) -> list[str]:
    row = findings.row(env, max_len, method)
    cells = [variant_name(method)]
    for metric, (_, digits) in METRIC_HEADINGS.items():
        text = ABSENT if row is None else ours(Cell.of(row["result"][metric]), digits)
        cells.append(f"**{text}**" if best.get(metric) == method else text)
        cells.append(theirs(env, max_len, method, metric))
    if row is None:
        return [*cells, *[""] * len(EQUITY), ""]
    result = row["result"]
    cells[0] += " (diverged)" if row.get("diverged") else ""
    return [*cells, *_cells(row, EQUITY), f"{result['closed_form']:.2f}"]


def ladder_table(findings: Findings) -> ReportTable:
    """Return the ladder and the learners on it: Len of each data set, item Gini and the users who leave first beside it."""
    envs = findings.environments
    found = {env: ladder_rows(findings, env) for env in envs}
    names = [name for name in (LADDER | LEARNERS) if any(name in rows for rows in found.values())]
    shown = {"length": ("Len", 2), "gini": ("item Gini", 2), "worst_tenth": ("worst tenth", 1)}
    header = ["greedy, half and half, by"]
    header += [f"{heading}, {env_name(env)}" for env in envs for heading, _ in shown.values()]
    rows = []
    for name in names:
        cells = [_cells(found[env][name], shown) if name in found[env] else [""] * len(shown) for env in envs]
        rows.append([(LADDER | LEARNERS)[name], *(text for of_env in cells for text in of_env)])
    return ReportTable("", header, rows, said=list(sentences.ladder_said(findings)))


def waterfall_table(findings: Findings) -> ReportTable:
    """Return what each step from random slates to DSRM-HRL is worth, in steps of Len, on each data set."""
    chains = {env: steps for env in findings.environments if (steps := waterfall(findings, env))}
    names = list(dict.fromkeys(step.name for steps in chains.values() for step in steps))
    rows = []
    for name in names:
        gains = {env: step.gain for env, steps in chains.items() for step in steps if step.name == name}
        rows.append([name, *(with_interval(gains[env], 2) if env in gains else "" for env in chains)])
    header = ("Len gained by", *(env_name(env) for env in chains))
    return ReportTable("", header, rows, said=list(sentences.waterfall_said(findings)))


def heads_table(findings: Findings) -> ReportTable:
    """Return every baseline with its own and with the half-and-half head, and how far DSRM-HRL is beyond each, paired."""
    rows = []
    max_len = paper.MAX_LENS[0]
    for env in findings.environments:
        own = findings.row(env, max_len, "dsrm_hrl")
        for method in paper.METHODS[:-1]:
            pair = [findings.row(env, max_len, name) for name in (method, f"{method}+half")]
            if pair == [None, None]:
                continue
            lengths = ["" if row is None else ours(Cell.of(row["result"]["length"]), 2) for row in pair]
            gaps = [None if row is None or own is None else findings.difference(own, row, "length") for row in pair]
            texts = ["" if gap is None else with_interval(gap, 2) for gap in gaps]
            rows.append([f"{env_name(env)}, {variant_name(method)}", *lengths, *texts])
    header = ("baseline", "Len, own head", "Len, half and half", "DSRM-HRL less it", "less it, same head")
    return ReportTable("", header, rows, said=list(sentences.heads_said(findings)))


def with_interval(cell: Cell, digits: int) -> str:
    """Return `+value [low, high]`, the value alone where its spread is not known."""
    interval = f" [{cell.low:.{digits}f}, {cell.high:.{digits}f}]" if cell.half > 0 else ""
    return f"{cell.value:+.{digits}f}{interval}"


def table4(findings: Findings) -> ReportTable:
    """Return training times and their ratios to DNaIR's, ours and the paper's."""
    rows: list[list[str]] = []
    found = {r["method"]: r for r in findings.results.get("table4", [])}
    base = training_seconds(found["dnair"]) if "dnair" in found else math.nan
    for method, printed in paper.TABLE4.items():
        cells = [variant_name(method)]
        if method in found:
            row = found[method]
            total = training_seconds(row)
            timing = row["timing"]
            cells += [f"{timing['train_seconds']:.1f}", f"{total:.1f}", _ratio(total, base)]
            cells += [f"{timing['compile_seconds']:.1f}", _speed(timing["user_steps_per_second"])]
        else:
            cells += [ABSENT, "", "", "", ""]
        rows.append([*cells, f"{printed:,.0f}", f"{printed / paper.TABLE4['dnair']:.2f}"])
    header = ("method", "Stage II, s", "with Stage I, s", "over DNaIR", "compiling, s", "user-steps/s")
    columns = (*header, "paper's s", "paper's over DNaIR")
    return ReportTable("", columns, rows, said=list(sentences.times_said(findings)))


def figure2_table(findings: Findings) -> ReportTable:
    """Return Figure 2's squared correlations with the control."""
    rows = []
    for env in findings.environments:
        for label, facts in figure2_sources(findings, env):
            values = [f"{facts[k]:.3f}" for k in ("counts", "rates", "log_rates")]
            shuffled = f"{facts['shuffled']:.3f} ± {facts['shuffled_deviation']:.3f}"
            rows.append([label, f"{facts['items']:,}", *values, shuffled])
    header = ("items of", "items", "R² of counts", "R² of rates", "R² of rates, log popularity")
    said = list(sentences.figure2_said(findings))
    return ReportTable("", (*header, "R² of counts, rates shuffled"), rows, said=said)


def figure3_table(findings: Findings) -> ReportTable:
    """Return what purifying the state of one policy changes, paired over seeds and users."""
    rows = []
    for env, max_len in findings.cells(("fig3",)):
        raw, purified = (findings.row(env, max_len, m) for m in ("dnair", "dnair_dsrm"))
        if raw is None or purified is None:
            continue
        cells = [f"{env_name(env)}, Max Len {max_len}"]
        for metric, (_, digits) in METRIC_HEADINGS.items():
            cells.append(with_interval(findings.difference(purified, raw, metric), digits))
        rows.append([*cells, *(_change(purified, raw, metric) for metric in ("length", "ad"))])
    header = ("purified minus raw", *(heading for heading, _ in METRIC_HEADINGS.values()))
    said = list(sentences.figure3_said(findings))
    return ReportTable("", (*header, "Len, relative", "AD, relative"), rows, said=said)


def figure4_table(findings: Findings) -> ReportTable:
    """Return silhouette and normalised mutual information of raw, purified and oracle states, by popularity and by interest."""
    keys = ("popularity_silhouette", "popularity_nmi", "interest_silhouette", "interest_nmi")
    rows = []
    for env, report in findings.probes.items():
        for state, label in (("identity", "raw"), ("purifier", "purified"), ("oracle", "oracle")):
            numbers = report["states"].get(state)
            if numbers is not None:
                rows.append([f"{env_name(env)}, {label}", *(f"{numbers[key]:+.3f}" for key in keys)])
    header = ("states", "silhouette by popularity", "NMI with popularity", "silhouette by interest")
    return ReportTable("", (*header, "NMI with interest"), rows, said=list(sentences.figure4_said(findings)))


def figure6_table(findings: Findings, env: str) -> ReportTable:
    """Return the metrics of every number of diffusion steps under both schedules."""
    rows = []
    for row in findings.results["fig6"]:
        if row["env"] == env:
            values = row["values"]
            label = f"{values['purifier.schedule']}, S = {values['purifier.diffusion_steps']}"
            rows.append([label, *_metric_cells(row), _seconds(row)])
    header = ("schedule, diffusion steps", *(heading for heading, _ in METRIC_HEADINGS.values()), "p")
    said = list(sentences.grid_said([r for r in findings.results["fig6"] if r["env"] == env], [row[0] for row in rows]))
    return ReportTable(env_name(env), (*header, "training, s"), rows, said=said)


def ruler_table(findings: Findings, events: Sequence[int] = (5, 20, 100)) -> ReportTable:
    """Return the squared error over that of exact inference by the number of diffusion steps, each kind where tastes cluster."""
    kinds = findings.studies.get("ruler", {}).get("steps", {}).get("clusters", {})
    steps = list(next(iter(kinds.values()))["ddpm"][str(events[0])]["over_exact"]) if kinds else []
    rows = [
        [f"{kind}, {n} events", *(f"{at['over_exact'][s]:.3f}" for s in steps)]
        for kind, samplers in kinds.items()
        for n in events
        if (at := samplers["ddpm"].get(str(n)))
    ]
    said = ["1 is exact; one truth of the ruler (clusters), its first seed, no interval; `rescaled` schedule."]
    return ReportTable("Error against exact inference", ["S =", *steps], rows, said=said)


def pareto_table(findings: Findings, env: str) -> ReportTable:
    """Return the metrics over lambda, where only scores decide the slate."""
    rows, shown = [], []
    for row in findings.results.get("pareto_penalty", []):
        if row["env"] == env:
            weight = row["values"]["agent.fairness_weight"]
            rows.append([f"penalty, λ = {weight:g}", *_metric_cells(row)])
            shown.append(row)
    header = ("slate, weight of fairness", *(heading for heading, _ in METRIC_HEADINGS.values()), "p")
    said = list(sentences.grid_said(shown, [row[0] for row in rows]))
    return ReportTable(env_name(env), header, rows, said=said)


def curves_table(findings: Findings, env: str) -> ReportTable:
    """Return the numbers behind Figure 7."""
    rows: list[list[str]] = []
    for row in findings.results.get("fig7", []):
        if row["env"] != env:
            continue
        length, ad = (mean_facts(findings.curve_facts(row, metric)) for metric in ("length", "ad"))
        if length and ad:
            digits = [length[k] for k in ("late_level", "seed_spread", "roughness", "largest_fall", "settled")]
            label = variant_name(row["method"])
            rows.append([label, *("" if math.isnan(v) else f"{v:.2f}" for v in digits), f"{ad['late_level']:.3f}"])
    header = ("method", "late Len", "seed spread", "roughness", "largest fall", "settled after", "late AD")
    return ReportTable(env_name(env), header, rows, said=list(sentences.curves_said(findings, env)))


def closed_form_table(findings: Findings, most: int = 8) -> ReportTable:
    """Return the rows furthest from the closed form of Len, those beyond its bound all and marked."""
    errors = closed_form_errors(findings)
    shown = [pair for i, pair in enumerate(errors) if i < most or pair[1] > CLOSED_FORM_BOUND]
    rows = [
        [where, f"{error:.3f}", "OFF by more than 0.3" if error > CLOSED_FORM_BOUND else "agrees"]
        for where, error, _ in shown
    ]
    said = list(sentences.closed_form_said(findings, CLOSED_FORM_BOUND))
    return ReportTable("", ("row", "abs(E[Len] - Len), steps", ""), rows, said=said)


def _cells(row: Row, headings: Mapping[str, tuple[str, int]]) -> list[str]:
    """Return some metrics of a row, empty where a run kept none of them."""
    result = row["result"]
    return [ours(Cell.of(result[name]), digits) if name in result else "" for name, (_, digits) in headings.items()]


def _metric_cells(row: Row) -> list[str]:
    return _cells(row, METRIC_HEADINGS | {"broken": ("p", 3)})


def _change(row: Row, base: Row, metric: str) -> str:
    value, reference = (r["result"][metric]["mean"] for r in (row, base))
    return f"{value / reference - 1:+.1%}" if reference > 0 else ""


def _counts(numbers: dict[str, int]) -> list[str]:
    return [f"{numbers[name]:,}" for name in ("users", "items", "rows")]


def _seconds(row: Row) -> str:
    return f"{training_seconds(row):.0f}"


def _ratio(value: float, base: float) -> str:
    return f"{value / base:.2f}" if base > 0 else ""


def _speed(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else ""


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return "| " + " | ".join(escaped) + " |"
