"""The report as Markdown: a first page, what the gain is made of, the ledger; then every table and figure of the paper."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dsrm_jax.types import Json
from experiments.report import ledger, paper, tables
from experiments.report.claims import Judgement
from experiments.report.findings import Findings
from experiments.report.first_page import first_page
from experiments.report.paper import cell_name
from experiments.report.tables import markdown
from experiments.report.variants import WORDS
from experiments.report.waterfall import LADDER, LEARNERS

TITLE = "# DSRM-HRL reproduced: ours beside the paper's\n"
HEADED = [f"{name}+half" for name in paper.METHODS[:-1]]


def report(
    findings: Findings,
    judgements: Sequence[Judgement],
    pictures: Mapping[str, str],
    *,
    command: str,
    controls: Mapping[str, Json] | None = None,
) -> str:
    """Return the whole report.

    Args:
        findings: all numbers.
        judgements: of the ledger.
        pictures: name of a figure to its alternative text; `<name>.png` lies beside the report.
        command: that made it.
        controls: name of a negative control to the verdicts under it (`negative.verdicts_of`), of those that were run.
    """
    sections = [
        TITLE,
        _first_page(findings, judgements, pictures, command),
        _gains(findings),
        _ledger(judgements),
        _controls(controls or {}),
        _decided(findings, judgements),
        _tables(findings),
        _figures(findings, pictures),
        _checks(findings, pictures),
        _failures(findings),
    ]
    return "\n".join(section for section in sections if section)


def _first_page(findings: Findings, judgements: Sequence[Judgement], pictures: Mapping[str, str], command: str) -> str:
    said = "\n".join(f"{number}. {text}" for number, text in enumerate(first_page(findings, judgements), 1))
    table = replace(tables.ladder_table(findings), said=())
    return f"""
{said}

{_picture("waterfall", pictures)}
{markdown(table) if table.rows else ""}
Max Len 30. Numbers are means with the half-width of a 95 % interval over data seeds, training seeds and users: the wider of a
nested bootstrap's and Student's t over data seeds. Regenerate with `{command}`.
"""


def _gains(findings: Findings) -> str:
    parts = []
    chain, heads = tables.waterfall_table(findings), tables.heads_table(findings)
    if chain.rows:
        parts += ["## What each part is worth\n", WATERFALL, markdown(chain)]
    if heads.rows:
        parts += ["## Equal heads\n", markdown(heads)]
    return "\n".join(parts)


def _ledger(judgements: Sequence[Judgement]) -> str:
    return f"""
## Claims

Rules and thresholds stood in `experiments/paper/claims.toml` before the run. A claim holds where every number is on
the right side with its whole interval, still after Holm's correction over its section, and where every other
explanation is excluded; it does not hold where one number is on the wrong side with its whole interval, after the same
correction. Three data seeds are the least.

{markdown(ledger.verdicts_table(judgements))}"""


def _controls(controls: Mapping[str, Json]) -> str:
    if not controls:
        return ""
    lines = []
    for name, verdicts in controls.items():
        kept = [claim for claim, verdict in verdicts.items() if verdict == "holds"]
        lost = f"{len(verdicts) - len(kept)} of the {len(verdicts)} claims about it are lost"
        survives = f"; SURVIVING, and so not evidence: {', '.join(kept)}" if kept else ""
        lines.append(f"* {WORDS[name]}: {lost}{survives}.")
    return "## Negative controls of this ledger\n\n" + "\n".join(lines) + "\n"


def _decided(findings: Findings, judgements: Sequence[Judgement]) -> str:
    table = ledger.claims_table(judgements, findings.studies.get("noise", {}).get("passes", {}))
    return f"""
## Appendix: how each claim is decided

{NOISE}
{markdown(table)}"""


def _tables(findings: Findings) -> str:
    parts = ["## Table 1: data\n", markdown(tables.table1(findings))]
    parts += ["## Table 2: methods\n", TABLE2]
    parts += [
        markdown(tables.methods_table(findings, env, n, _shown(findings, env, n), "table2"))
        for env, n in findings.cells()
    ]
    parts.append("## Table 3: ablations\n")
    parts += [
        markdown(tables.methods_table(findings, env, n, paper.ABLATIONS, "table3"))
        for env, n in findings.cells(("table3",))
    ]
    if "table4" in findings.results:
        parts += ["## Table 4: training time\n", TABLE4, markdown(tables.table4(findings))]
    return "\n".join(parts)


def _shown(findings: Findings, env: str, max_len: int) -> list[str]:
    """Return the rows of Table 2: the paper's methods, those of heads, ladder and learners that were run at this length."""
    more = (*HEADED, *LADDER, *(name for name in LEARNERS if "+" in name))
    return [*paper.METHODS, *(name for name in more if findings.row(env, max_len, name) is not None)]


def _figures(findings: Findings, pictures: Mapping[str, str]) -> str:
    parts = [
        "## Figure 2: popularity against reward\n",
        FIGURE2,
        _picture("fig2", pictures),
        markdown(tables.figure2_table(findings)),
    ]
    if "fig3" in findings.results:
        parts += ["## Figure 3: DNaIR on raw and on purified states\n", _picture("fig3", pictures)]
        parts.append(markdown(tables.figure3_table(findings)))
        parts.append("The paper, on KuaiRec: Len +18.4 %, AD -88 %.\n")
    if findings.probes:
        parts += ["## Figure 4: states by popularity and by interest\n", FIGURE4]
        parts += [_picture(name, pictures) for name in pictures if name.startswith("fig4")]
        parts.append(markdown(tables.figure4_table(findings)))
    for plan, build, title, text in (
        ("fig6", tables.figure6_table, "Figure 6: diffusion steps", FIGURE6),
        ("fig7", tables.curves_table, "Figure 7: learning curves, Max Len 30", FIGURE7),
        ("pareto_penalty", tables.pareto_table, "Utility against equity over lambda", PARETO),
    ):
        if findings.results.get(plan):
            name = "pareto" if plan == "pareto_penalty" else plan
            parts += [f"## {title}\n", text, _picture(name, pictures)]
            envs = [env for env in findings.environments if any(r["env"] == env for r in findings.results[plan])]
            parts += [markdown(build(findings, env)) for env in envs]
        if plan == "fig6" and (exact := tables.ruler_table(findings)).rows:
            parts.append(markdown(exact))
    return "\n".join(parts)


WATERFALL = """Each step is the paired difference of two rows on the same users, in the order given; what a step is
worth depends on those before it. The head comes first, and the hierarchy is credited with what no greedy rule on the
same state has.
"""
NOISE = """Rules that read a minimum over several rivals, or thresholds made up here, can be passed by luck. In made-up
findings all methods are alike, three data seeds and two training seeds; the table says how often the rule is passed by
the ledger of November 22 and by this one, before Holm's correction and controls (`python -m
experiments.report.imitation`).
"""
TABLE2 = """p is the share of slates that cost extra temper; E[Len] is the length that R_each and p alone predict.
Below the eight methods stand the baselines under the half-and-half head, the ladder of greedy rules that learn
nothing, up to the oracle, which knows every click probability, and the learner on other states. Bold: the best of
those that learn. Max Len 50 is of one data seed and decides nothing.
"""
TABLE4 = """KuaiRec, Max Len 30, all seeds in one program on one core, compiled with LLVM at level 1; the paper's are of its own
budget and machine, so compare the ratios. The paper's text says "about 2.1x that of DNaIR"; its own table says 2.68 (2.1 is the
ratio to A2C).
"""
FIGURE2 = """The paper correlates two counts, users shown and users who played. A count of plays is bounded by the count of
impressions, so that R² is high whatever users like: the control shuffles the play rates over items and counts again.
Rates are the average reward that the paper's words are about.
"""
FIGURE4 = """Distances are those between what states make of the catalogue, item-centred scores, and not between coordinates that
no policy sees. The oracle state predicts the true click chances best: what purification could reach.
"""
FIGURE6 = """The fixed schedule runs from 1e-4 to 2e-2 whatever S is, so that S also decides how much noise there is: at S = 20
almost none, at S = 500 nearly all. The rescaled schedule noises as much for every S, so that only the number of steps
changes. Max Len 30.
"""
FIGURE7 = """Lines are means over seeds, bands their range, both smoothed over 15 updates, in the training simulator with
exploration on. In the table, late is the second half of training: mean Len, its standard deviation over seeds, its
deviation from a straight line, the largest fall of the mean curve, the share of training after which it has settled,
and mean AD. Methods that learn from the log alone have a flat curve.
"""
PARETO = """Lambda of Eq. (4) over its range where Eq. (6)'s scores alone decide the slate, one policy each, Max Len
30. Where the goal splits the slate exactly, lambda moved nothing (Len 27.77 to 27.79 on KuaiRec for 0 to 2, on one
data seed).
"""


def _checks(findings: Findings, pictures: Mapping[str, str]) -> str:
    table = tables.closed_form_table(findings)
    off = sum(not row[2].startswith("agrees") for row in table.rows)
    total = sum(1 for _ in findings.measured_rows())
    return f"""
## Check: the closed form of Len

Len = (T0 - 1) / (2 - R_each + p) + 1/2 within 0.3 steps in {total - off} of {total} rows; those furthest away:

{_picture("closed_form", pictures)}
{markdown(table)}"""


def _failures(findings: Findings) -> str:
    missing = findings.missing()
    if not missing and not findings.failures:
        return ""
    lines = [
        f"* not finished: {cell_name(p.config.data.env, p.config.environment.max_len)}, {_values(p.values)}"
        for p in missing
    ]
    lines += [f"* {text}" for text in findings.failures]
    return "## What failed\n\n" + "\n".join(lines) + "\n"


def _values(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name.rsplit('.', 1)[-1]} {value}" for name, value in values.items() if name != "data.env")


def _picture(name: str, pictures: Mapping[str, str]) -> str:
    return f"![{pictures[name]}]({name}.png)\n" if name in pictures else ""
