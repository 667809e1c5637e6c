"""The report's tables: ours beside the paper's, as Markdown."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.report import paper, sentences
from experiments.report.claims import FAILS, HOLDS, OPEN, Judgement, worst
from experiments.report.comparisons import LOWER_IS_BETTER
from experiments.report.findings import Cell, Findings, Row
from experiments.report.measures import closed_form_errors, figure2_sources, training_seconds
from experiments.report.paper import env_name, method_name

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
    best = best_methods(findings, env, max_len, [m for m in methods if m not in paper.YARDSTICKS])
    rows = [_method_row(findings, env, max_len, method, best) for method in methods]
    sessions = next((r["result"]["sessions"] for r in findings.results[plan] if r["env"] == env), 0)
    title = f"{env_name(env)}, Max Len {max_len}; {sessions:,} held-out sessions over all seeds"
    said = list(sentences.methods_said(findings, env, max_len, methods))
    return ReportTable(title, [*header, "AD of slates", "p", "E[Len]"], rows, said=said)


def best_methods(findings: Findings, env: str, max_len: int, methods: Sequence[str]) -> dict[str, str]:
    """Return the method with the best mean of each metric in one cell."""
    rows = {m: row for m in methods if (row := findings.row(env, max_len, m)) is not None}
    if not rows:
        return {}
    signs = {metric: -1 if metric in LOWER_IS_BETTER else 1 for metric in METRIC_HEADINGS}
    return {metric: max(rows, key=lambda m: sign * rows[m]["result"][metric]["mean"]) for metric, sign in signs.items()}


def _method_row(findings: Findings, env: str, max_len: int, method: str, best: Mapping[str, str]) -> list[str]:
    row = findings.row(env, max_len, method)
    cells = [method_name(method)]
    for metric, (_, digits) in METRIC_HEADINGS.items():
        text = ABSENT if row is None else ours(Cell.of(row["result"][metric]), digits)
        cells.append(f"**{text}**" if best.get(metric) == method else text)
        cells.append(theirs(env, max_len, method, metric))
    if row is None:
        return [*cells, "", "", ""]
    result = row["result"]
    name = " (diverged)" if row.get("diverged") else ""
    cells[0] += name
    return [*cells, *(ours(Cell.of(result[k]), 3) for k in ("slate_ad", "broken")), f"{result['closed_form']:.2f}"]


def table4(findings: Findings) -> ReportTable:
    """Return training times and their ratios to DNaIR's, ours and the paper's."""
    rows: list[list[str]] = []
    found = {r["method"]: r for r in findings.results.get("table4", [])}
    base = training_seconds(found["dnair"]) if "dnair" in found else math.nan
    for method, printed in paper.TABLE4.items():
        cells = [method_name(method)]
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
            cell = findings.difference(purified, raw, metric)
            cells.append(f"{cell.value:+.{digits}f} [{cell.low:.{digits}f}, {cell.high:.{digits}f}]")
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


def pareto_table(findings: Findings, env: str) -> ReportTable:
    """Return the metrics over lambda, where only scores decide the slate and where the goal splits it."""
    rows, shown = [], []
    for plan, label in (("pareto_penalty", "penalty"), ("pareto_quota", "quota")):
        for row in findings.results.get(plan, []):
            if row["env"] == env:
                weight = row["values"]["agent.fairness_weight"]
                rows.append([f"{label}, λ = {weight:g}", *_metric_cells(row)])
                shown.append(row)
    header = ("slate, weight of fairness", *(heading for heading, _ in METRIC_HEADINGS.values()), "p")
    said = list(sentences.grid_said(shown, [row[0] for row in rows]))
    return ReportTable(env_name(env), header, rows, said=said)


def curves_table(findings: Findings, env: str) -> ReportTable:
    """Return the numbers behind Figure 7."""
    rows: list[list[str]] = []
    for row in findings.results.get("fig7", []):
        facts = findings.curve_facts(row) if row["env"] == env else {}
        if "length" in facts:
            length, ad = facts["length"], facts["ad"]
            digits = [length[k] for k in ("late_level", "seed_spread", "roughness", "largest_fall", "settled")]
            label = method_name(row["method"])
            rows.append([label, *("" if math.isnan(v) else f"{v:.2f}" for v in digits), f"{ad['late_level']:.3f}"])
    header = ("method", "late Len", "seed spread", "roughness", "largest fall", "settled after", "late AD")
    return ReportTable(env_name(env), header, rows, said=list(sentences.curves_said(findings, env)))


def closed_form_table(findings: Findings, most: int = 8) -> ReportTable:
    """Return the rows furthest from the closed form of Len, those beyond its bound all and marked."""
    errors = closed_form_errors(findings)
    shown = [pair for i, pair in enumerate(errors) if i < most or pair[1] > CLOSED_FORM_BOUND]
    rows = [
        [where, f"{error:.3f}", "OFF by more than 0.3" if error > CLOSED_FORM_BOUND else "agrees"]
        for where, error in shown
    ]
    said = list(sentences.closed_form_said(findings, CLOSED_FORM_BOUND))
    return ReportTable("", ("row", "abs(E[Len] - Len), steps", ""), rows, said=said)


def claims_table(judgements: Sequence[Judgement]) -> ReportTable:
    """Return the ledger."""
    rows = []
    for j in judgements:
        rule = j.claim.rule
        threshold = f"{rule.relation} {rule.threshold:g}"
        number = decisive_number(j) if j.measured else "-"
        verdict = f"**{j.verdict}**" + (f": {j.why}" if j.verdict == OPEN else "")
        if j.artefact:
            found = worst(j.control_measured, j.claim.control.relation) if j.claim.control else None
            value = f" ({found.where}: {found.cell.value:.3g})" if found else ""
            verdict += f"; ARTEFACT of the measurement: {j.claim.control_text}{value}"
        if j.claim.note:
            verdict += f". {j.claim.note}"
        rows.append([j.claim.section, f"“{j.claim.quote}”", j.claim.reads, threshold, number, verdict])
    header = ("section", "claim", "measured", "threshold", "ours", "verdict")
    counts = Counter(j.verdict for j in judgements)
    said = f"Of {len(judgements)} claims {counts[HOLDS]} hold, {counts[FAILS]} do not, {counts[OPEN]} cannot be decided here."
    return ReportTable("", header, rows, prose=True, said=[said])


def decisive_number(judgement: Judgement) -> str:
    """Return the number of a claim that is furthest to the wrong side, with its interval, and of how many it is."""
    if not judgement.measured:
        return judgement.why
    found = worst(judgement.measured, judgement.claim.rule.relation)
    cell = found.cell
    interval = f" [{cell.low:.3g}, {cell.high:.3g}]" if cell.half > 0 else ""
    of = f"; the worst of {len(judgement.measured)}" if len(judgement.measured) > 1 else ""
    return f"{cell.value:.3g}{interval} ({found.where}{of})"


def _metric_cells(row: Row) -> list[str]:
    result = row["result"]
    cells = [ours(Cell.of(result[metric]), digits) for metric, (_, digits) in METRIC_HEADINGS.items()]
    return [*cells, ours(Cell.of(result["broken"]), 3)]


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
