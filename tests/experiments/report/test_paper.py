"""The printed numbers against the paper's text, row by row where it is at hand, else spot-checked."""

import re
from pathlib import Path

import pytest

from experiments.report import paper

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "paper" / "dsrm_hrl.txt"
NAMES = {
    "SAC4IF": "sac4ir",
    "Ours": "dsrm_hrl",
    "+DSRM": "dsrm_hrl",
    "+RCE": "hrl_rce",
    "+TCE": "hrl_tce",
    "+BOD": "hrl_bod",
}


@pytest.mark.parametrize(
    ("env", "max_len", "method", "metric", "mean", "deviation"),
    [
        ("kuairec", 30, "dsrm_hrl", "length", 26.6, 0.816),
        ("kuairec", 50, "dsrm_hrl", "length", 34.85, 0.35),
        ("kuairand", 50, "dnair", "ad", 0.443, 0.286),
        ("kuairec", 30, "bcq", "return", 15.036, 0.314),
        ("kuairand", 30, "hrl_bod", "ad", 0.747, 0.055),
        ("kuairand", 30, "sac4ir", "length", 14.0, 0.0),
        ("kuairec", 50, "hrl", "reward", 0.863, 0.005),
    ],
)
def test_printed_cells(env, max_len, method, metric, mean, deviation):
    assert paper.printed(env, max_len, method, metric) == (mean, deviation)


def test_every_row_is_the_papers_text():
    if not SHARED.exists():
        pytest.skip("the paper's text is not beside this checkout")
    text = SHARED.read_text(encoding="utf-8")
    cell = r"\d+\.\d+±\d+\.\d+"
    env, seen = "", {}
    for line in text[text.index("Table 2: Overall") :].splitlines():
        env = {"KuaiRec": "kuairec", "KuaiRand-Pure": "kuairand"}.get(line.strip(), env)
        match = re.fullmatch(rf"(\S+)((?: {cell}){{8}})", line.strip())
        if match:
            method = NAMES.get(match[1], match[1].lower())
            seen[env, method] = match[2].split()
    assert len(seen) == 2 * (len(paper.METHODS) + len(paper.ABLATIONS) - 1)
    for (env, method), cells in seen.items():
        ours = [paper.printed(env, max_len, method, metric) for max_len in paper.MAX_LENS for metric in paper.METRICS]
        assert [f"{c.mean:.3f}±{c.deviation:.3f}" for c in ours] == cells, (env, method)
    for method, seconds in paper.TABLE4.items():
        assert f"{seconds:.3f}" in text, method
    for numbers in paper.TABLE1.values():
        assert " ".join(numbers) in text


def test_a_method_or_length_that_the_paper_does_not_print_is_none():
    assert paper.printed("kuairec", 30, "quota_greedy", "length") is None
    assert paper.printed("kuairec", 20, "dsrm_hrl", "length") is None
    assert paper.printed("kuairec-signed", 30, "a2c", "length") == (13.433, 0.236)
