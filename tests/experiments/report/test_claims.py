"""Verdicts: they flip with the threshold, ask for the whole interval, and name artefacts."""

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from dsrm_jax.errors import InputError
from experiments.report.claims import FAILS, HOLDS, OPEN, decide, judge, load_claims
from experiments.report.findings import Cell, Measured
from experiments.report.plan import CLAIMS, plans_folder


@pytest.fixture(scope="module")
def claims():
    return {claim.id: claim for claim in load_claims(plans_folder() / CLAIMS)}


def number(value, half=0.0):
    return Measured("here", Cell(value, value - half, value + half))


@pytest.mark.parametrize(
    ("relation", "threshold", "verdict"),
    [
        (">", 0.9, HOLDS), (">", 1.0, FAILS), (">", 1.1, FAILS), (">=", 1.0, HOLDS), (">=", 1.01, FAILS),
        ("<", 1.1, HOLDS), ("<", 1.0, FAILS), ("<=", 1.0, HOLDS), ("<=", 0.99, FAILS),
    ],
)  # fmt: skip
def test_an_exact_number_flips_at_the_threshold(relation, threshold, verdict):
    assert decide([number(1.0)], relation, threshold) == verdict


@pytest.mark.parametrize(("threshold", "verdict"), [(0.7, HOLDS), (0.9, OPEN), (1.1, OPEN), (1.3, FAILS)])
def test_an_interval_decides_only_where_it_is_whole_on_one_side(threshold, verdict):
    assert decide([number(1.0, 0.2)], ">", threshold) == verdict
    mirrored = {HOLDS: FAILS, FAILS: HOLDS, OPEN: OPEN}[verdict]
    assert decide([number(1.0, 0.2)], "<", threshold) == mirrored


def test_every_cell_has_to_hold_and_one_refutes():
    assert decide([number(1), number(2)], ">", 0.5) == HOLDS
    assert decide([number(1), number(0)], ">", 0.5) == FAILS
    assert decide([number(1), number(0.5, 0.1)], ">", 0.5) == OPEN
    assert decide([number(0), number(0.5, 0.1)], ">", 0.5) == FAILS
    assert decide([number(float("nan"))], ">", 0.5) == OPEN
    assert decide([], ">", 0.5) == OPEN


def test_the_ledger_covers_sections_3_and_5(claims):
    sections = {claim.section for claim in claims.values()}
    assert {"3.1", "3.2", "3.3", "5.1.1", "5.1.2", "5.1.3", "5.2", "5.3", "5.4", "5.5", "5.6"} <= sections


def test_every_quote_is_the_papers(claims):
    shared = Path(__file__).resolve().parents[3].parent / "shared" / "paper" / "dsrm_hrl.txt"
    if not shared.exists():
        pytest.skip("the paper's text is not beside this checkout")

    def letters(text):
        plain = unicodedata.normalize("NFKC", text).lower()  # the paper's italics are letters of their own
        return "".join(c for c in plain if c.isascii() and c.isalnum())

    text = letters(shared.read_text(encoding="utf-8"))
    for claim in claims.values():
        for part in claim.quote.replace("[BCQ]", "[...]").removesuffix("(Fig. 2)").split("[...]"):
            assert letters(part) in text, (claim.id, part)


def test_every_claim_gets_a_verdict_on_full_evidence(claims, findings):
    judged = {name: judge(claim, findings) for name, claim in claims.items()}
    assert all(j.measured for j in judged.values()), [n for n, j in judged.items() if not j.measured]
    assert judged["outperforms-len"].verdict == HOLDS
    assert judged["average-reward-follows-popularity"].verdict == FAILS
    assert judged["time-dnair-printed"].verdict == FAILS
    assert judged["three-seeds"].measured[0].cell.value == 1
    assert judged["time-dnair"].measured[0].cell.value == pytest.approx(50 / 20)  # Stage I of the one that has it
    assert judged["held-out-unseen"].verdict == FAILS
    assert judged["pareto"].verdict == HOLDS


def test_a_verdict_on_evidence_flips_with_the_threshold(claims, findings):
    claim = claims["avoids-abandonment"]
    assert judge(claim, findings).verdict == HOLDS
    stricter = replace(claim, rule=replace(claim.rule, threshold=-0.1))
    assert judge(stricter, findings).verdict == FAILS
    between = replace(claim, rule=replace(claim.rule, threshold=0.015))
    assert judge(between, findings).verdict == OPEN


def test_an_artefact_needs_its_control_to_hold(claims, findings):
    claim = claims["reward-follows-popularity"]
    found = judge(claim, findings)
    assert (found.verdict, found.artefact) == (HOLDS, True)
    silent = replace(claim, control=replace(claim.control, threshold=0.99))
    assert not judge(silent, findings).artefact


def test_what_was_not_run_cannot_be_decided(claims, findings):
    nothing = replace(findings, results={}, points={}, data={}, probes={})
    judged = {name: judge(claim, nothing) for name, claim in claims.items()}
    decided = {name for name, j in judged.items() if j.verdict != OPEN}
    assert decided == {"time-dnair-printed", "three-seeds"}  # the paper's own numbers
    assert all(j.why for name, j in judged.items() if name not in decided)


def test_a_rival_that_did_not_finish_leaves_the_claim_open(claims, findings):
    results = {
        plan: [r for r in rows if (r["method"], r["env"], r["max_len"]) != ("bcq", "kuairand", 50)]
        for plan, rows in findings.results.items()
    }
    for name in ("outperforms-len", "pareto"):
        found = judge(claims[name], replace(findings, results=results))
        assert found.verdict == OPEN
        assert "KuaiRand-Pure 50, bcq did not finish" in found.why


GOOD = """
[[claim]]
id = "a"
section = "5.2"
quote = "q"
reads = "r"
measurement = "level"
metric = "ad"
methods = ["a2c"]
relation = "<="
threshold = 1
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('measurement = "level"', 'measurement = "levle"', "levle"),
        ('relation = "<="', 'relation = "=="', "=="),
        ('metric = "ad"', 'metrix = "ad"', "metrix|metric"),
        ("threshold = 1", 'threshold = "1"', "no number"),
        ('quote = "q"', "", "quote"),
    ],
)
def test_a_faulty_ledger_names_the_claim_and_the_fault(tmp_path, old, new, message):
    path = tmp_path / "claims.toml"
    path.write_text(GOOD)
    assert len(load_claims(path)) == 1
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        load_claims(path)
    assert "'a'" in str(caught.value)


def test_two_claims_of_one_id_are_refused(tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text(GOOD + GOOD)
    with pytest.raises(InputError, match="two claims"):
        load_claims(path)
