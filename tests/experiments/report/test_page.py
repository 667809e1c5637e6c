"""The page: what it holds equals the results, it needs no other file, and a browser reads it at any width."""

import base64
import copy
import html.parser
import io
import re

import pytest
from PIL import Image

from dsrm_jax.errors import InputError
from experiments.report import paper, tables
from experiments.report.claims import judge_all, load_claims
from experiments.report.page import page
from experiments.report.plan import CLAIMS, plans_folder
from experiments.report.reproduce import write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Structure(html.parser.HTMLParser):
    """Check that every element is closed in order, and keep all that is referred to."""

    def __init__(self):
        super().__init__()
        self.open, self.references, self.images, self.ids, self.tags = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.references += [attrs[name] for name in ("src", "href", "srcset", "action", "data") if name in attrs]
        if tag == "img":
            self.images.append(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(findings, tmp_path_factory):
    """Write the whole report of the made-up results; return its folder."""
    folder = tmp_path_factory.mktemp("report")
    judgements = judge_all(load_claims(plans_folder() / CLAIMS), findings)
    write_report(findings, judgements, folder, command="make reproduce ENV=all BUDGET=tiny")
    return folder


def parse(text):
    structure = Structure()
    structure.feed(text)
    assert structure.open == []
    return structure


def test_the_page_is_one_valid_file_with_all_pictures_inside(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    structure = parse(text)
    assert text.startswith("<!DOCTYPE html>")
    for tag in ("html", "head", "title", "body", "h1", "main"):
        assert structure.tags.count(tag) == 1, tag
    assert "script" not in structure.tags
    assert len(structure.ids) == len(set(structure.ids))
    for reference in structure.references:
        assert reference.startswith(("data:", "#")), reference
        assert not reference.startswith("#") or reference[1:] in structure.ids
    assert not re.search(r"url\(|@import", text)
    pictures = sorted(written.glob("*.png"))
    assert len(structure.images) == len(pictures) >= 7
    shapes = []
    for image in structure.images:
        assert image["alt"]
        with Image.open(io.BytesIO(base64.b64decode(image["src"].removeprefix("data:image/webp;base64,")))) as shown:
            shapes.append(shown.width / shown.height)
    drawn = [Image.open(picture).size for picture in pictures]
    assert sorted(shapes) == pytest.approx(sorted(width / height for width, height in drawn), rel=0.02)
    assert sum(p.stat().st_size for p in written.iterdir()) < 5 << 20


def test_every_section_of_the_paper_stands_in_the_report(written):
    headings = re.findall(r"^## (.*)$", (written / "report.md").read_text(encoding="utf-8"), re.M)
    for start in ("Claims", *(f"Table {n}" for n in range(1, 5)), *(f"Figure {n}" for n in (2, 3, 4, 6, 7))):
        assert any(h.startswith(start) for h in headings), start
    assert "What failed" not in headings


def test_the_numbers_are_the_results(written, findings):
    text = (written / "report.md").read_text(encoding="utf-8")
    for env, max_len in findings.cells():
        block = text[text.index(f"**{paper.env_name(env)}, Max Len {max_len};") :]
        for method in ("bcq", "dsrm_hrl", "quota_greedy"):
            result = findings.row(env, max_len, method)["result"]
            starts = f"| {tables.variant_name(method)} |"
            rows = [line for line in block.splitlines() if line.startswith(starts)][:2]
            cells, more = ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)
            assert (cells[1].startswith("**")) == (method == "dsrm_hrl")  # the best of those that learn
            cells = [cell.strip("*") for cell in cells]
            for place, (metric, digits) in {1: ("length", 2), 3: ("reward", 3)}.items():
                mean, half = result[metric]["mean"], (result[metric]["high"] - result[metric]["low"]) / 2
                assert cells[place] == f"{mean:.{digits}f} ± {half:.{digits}f}"
            assert more[3].startswith(f"{result['gini']['mean']:.3f}")
            assert (cells[2] == "") == (method == "quota_greedy")
    assert "| 26.60 ± 0.82 |" in text
    assert "98,765" in text
    assert "| DSRM-HRL | 40.0 | 50.0 | 2.50 |" in text


def test_the_first_page_is_ten_sentences_a_picture_and_a_table(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    first = text[: text.index("\n## ")]
    assert len(re.findall(r"^\d+\. .*\.$", first, re.M)) == 10
    assert first.count("![") == 1
    assert len({line.count("|") for line in first.splitlines() if line.startswith("|")}) == 1  # one table, not split
    assert "nan" not in first
    assert text[: text.index("\n## Appendix")].count("\n") <= 300
    assert (written / "report.html").stat().st_size < 400_000


def test_every_claim_stands_with_its_verdict_before_and_now(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    block = text[text.index("\n## Claims") : text.index("\n## Appendix")]
    rows = [line for line in block.splitlines() if line.startswith("| ")][2:]
    claims = load_claims(plans_folder() / CLAIMS)
    assert len(rows) == len(claims)
    for row, claim in zip(rows, claims, strict=True):
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert cells[2] == (claim.before or "new")
        assert cells[3].startswith("**")


def test_csvs_hold_the_unrounded_numbers(written, findings):
    lines = (written / "results.csv").read_text().splitlines()
    header = lines[0].split(",")
    rows = [dict(zip(header, line.split(","), strict=True)) for line in lines[1:]]
    expected = findings.row("kuairand", 50, "mofir")["result"]["return"]
    (row,) = [
        r
        for r in rows
        if (r["env"], r["max_len"], r["method"], r["metric"], r["plan"])
        == ("kuairand", "50", "mofir", "return", "table2")
    ]
    assert float(row["mean"]) == expected["mean"]
    assert (float(row["paper_mean"]), float(row["paper_deviation"])) == (18.486, 0.487)
    claims = (written / "claims.csv").read_text()
    assert all(claim.id in claims for claim in load_claims(plans_folder() / CLAIMS))


def test_a_wrong_row_is_marked_in_the_report(findings):
    findings = copy.deepcopy(findings)
    row = findings.results["table2"][3]
    row["result"]["closed_form"] += 0.5
    table = tables.closed_form_table(findings)
    assert [r[2] for r in table.rows][:2] == ["OFF by more than 0.3", "agrees"]


def test_text_that_looks_like_markup_stays_text(tmp_path):
    text = page("# a <b> & c\n\n## <script>alert(1)</script>\n\n| x | y |\n| -- | -- |\n| a\\|b | <i> |\n", tmp_path)
    structure = parse(text)
    assert "script" not in structure.tags
    assert "i" not in structure.tags
    assert "<td>a|b" in text


def test_wide_tables_scroll_in_a_box_of_their_own(tmp_path):
    text = page("# t\n\n| x |\n| -- |\n| 1 |\n", tmp_path)
    assert re.search(r'<div class="scroll" tabindex="0"[^>]*><table[^>]*>.*</table></div>', text, re.S)


def test_a_missing_or_false_picture_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png"):
        page("# t\n\n![x](gone.png)\n", tmp_path)
    (tmp_path / "false.png").write_text("no picture")
    with pytest.raises(InputError, match=r"false\.png is no PNG"):
        page("# t\n\n![x](false.png)\n", tmp_path)
