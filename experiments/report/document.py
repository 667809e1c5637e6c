"""The report as Markdown: every table and figure of the paper, then the ledger."""

from collections import Counter
from collections.abc import Mapping, Sequence

from dsrm_jax.config.serialise import to_json
from experiments.report import paper, tables
from experiments.report.claims import FAILS, HOLDS, OPEN, Judgement
from experiments.report.findings import Findings
from experiments.report.paper import env_name
from experiments.report.tables import markdown

TITLE = "# DSRM-HRL reproduced: ours beside the paper's\n"
HEADLINES = {  # claims of the ledger by id
    "pareto": "DSRM-HRL is on the Pareto front of R_cum and balance of slates among the paper's methods, in every cell",
    "outperforms-len": "its Len is beyond that of the seven baselines, in every cell",
    "outperforms-return": "its R_cum is beyond that of the seven baselines, in every cell",
    "purification-necessary": "its Len is beyond that of what acts on unpurified states, HRL and half-and-half greedy",
    "length-is-satisfaction": "Len is within 0.3 steps of its closed form in every measured row",
}


def report(findings: Findings, judgements: Sequence[Judgement], pictures: Mapping[str, str], *, command: str) -> str:
    """Return the whole report.

    Args:
        findings: all numbers.
        judgements: of the ledger.
        pictures: name of a figure to its alternative text; `<name>.png` lies beside the report.
        command: that made it.
    """
    sections = [
        TITLE,
        _summary(findings, judgements, command),
        _ledger(judgements),
        _tables(findings),
        _figures(findings, pictures),
        _checks(findings, pictures),
        _failures(findings),
    ]
    return "\n".join(section for section in sections if section)


def _summary(findings: Findings, judgements: Sequence[Judgement], command: str) -> str:
    rows = [r for _, r in findings.measured_rows()]
    sources = [f"* {env_name(env)}: {facts['describe']['source']}" for env, facts in findings.data.items()]
    count = Counter(j.verdict for j in judgements)
    artefacts = sum(j.artefact for j in judgements)
    minutes = sum(v for r in rows for k, v in r["timing"].items() if k.endswith("seconds")) / 60
    point = next(iter(findings.points.values()), [])
    training = to_json(point[0].config)["training"] if point else {}
    seeds = ", ".join(str(s) for s in training.get("seeds", ()))
    return f"""
What was measured, on these data:

{chr(10).join(sources)}

{len(rows)} runs, budget `{findings.budget}`: {training.get("steps", 0):,} batched steps of
{training.get("num_users", 0)} users (the paper: 20,000), seeds {seeds}; {minutes:.0f} core-minutes of compiling,
training and evaluating. Regenerate with `{command}`.

Of {len(judgements)} claims of the paper {count[HOLDS]} hold, {count[FAILS]} do not, {count[OPEN]} cannot be decided
here; {artefacts} are artefacts of the measurement, whatever the verdict. Ours is the mean with the half-width of its
95 % interval over seeds and complete held-out sessions in a test simulator; the paper's is the mean with the standard
deviation over its seeds, of ten sessions each, on its own simulators. On synthetic worlds the two are not the same
data: compare orders, not digits.

{_headlines(judgements)}"""


def _headlines(judgements: Sequence[Judgement]) -> str:
    """Say the main verdicts in words, each with its number."""
    found = {j.claim.id: j for j in judgements}
    chosen = [(text, found[name]) for name, text in HEADLINES.items() if name in found]
    return "".join(f"* {text}: **{j.verdict}**; {tables.decisive_number(j)}\n" for text, j in chosen)


def _ledger(judgements: Sequence[Judgement]) -> str:
    return f"""
## Claims ledger

Thresholds stood in `experiments/paper/claims.toml` before the run. A claim holds where every cell is on the right side
with its whole interval, does not hold where one is on the wrong side with its whole interval. Differences are paired
over seeds and users.

{markdown(tables.claims_table(judgements))}"""


def _tables(findings: Findings) -> str:
    parts = ["## Table 1: data\n", markdown(tables.table1(findings))]
    parts += ["## Table 2: methods\n", TABLE2]
    methods = (*paper.METHODS, *paper.YARDSTICKS)
    parts += [markdown(tables.methods_table(findings, env, n, methods, "table2")) for env, n in findings.cells()]
    parts.append("## Table 3: ablations\n")
    parts += [
        markdown(tables.methods_table(findings, env, n, paper.ABLATIONS, "table3"))
        for env, n in findings.cells(("table3",))
    ]
    if "table4" in findings.results:
        parts += ["## Table 4: training time\n", TABLE4, markdown(tables.table4(findings))]
    return "\n".join(parts)


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
    return "\n".join(parts)


TABLE2 = """p is the share of slates that cost extra temper; E[Len] is the length that R_each and p alone predict. Below the
eight methods stand policies that learn nothing, and the oracle, which knows every click probability. Bold: the best
of those that learn.
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
PARETO = """Lambda of Eq. (4) over its range, Max Len 30: where Eq. (6)'s scores alone decide the slate (penalty), and where
the goal splits the slate between the groups exactly (quota).
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
    lines = [f"* not finished: {p.config.data.env}, {_values(p.values)}" for p in missing]
    lines += [f"* {text}" for text in findings.failures]
    return "## What failed\n\n" + "\n".join(lines) + "\n"


def _values(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name.rsplit('.', 1)[-1]} {value}" for name, value in values.items() if name != "data.env")


def _picture(name: str, pictures: Mapping[str, str]) -> str:
    return f"![{pictures[name]}]({name}.png)\n" if name in pictures else ""
