"""Tables as their reader sees them: nothing cut at any width, the data named first."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dsrm_jax.evaluation.tables import cell, data_table, label, results_table
from dsrm_jax.evaluation.wide_table import WideTable

METRICS = ("length", "reward", "return", "ad", "slate_ad", "broken", "gini", "coverage")
METHODS = ("dsrm_hrl", "random", "quota_greedy", "quota_greedy_purified", "oracle")
SOURCE = "synthetic kuairec world (seed 0)"


def result(offset):
    """Numbers that all differ once rounded, so that each can be found in the text."""
    scale = {"length": 20.0, "return": 10.0}
    return {
        name: {"mean": mean, "low": mean - half, "high": mean + half}
        for i, name in enumerate(METRICS)
        for mean, half in [(scale.get(name, 0.1) + 0.01 * (10 * offset + i), 0.001 * (10 * offset + i))]
    } | {"closed_form": 25.0 + offset, "sessions": 3000, "confidence": 0.95, "seeds": []}


@pytest.fixture
def results():
    found = {method: result(i) for i, method in enumerate(METHODS)}
    gap = {"length": {"mean": 1.19, "low": 1.05, "high": 1.33}}
    found["dsrm_hrl"]["difference"] = {"quota_greedy": gap}
    return found


def printed(renderable, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


def print_results(results, width, env="kuairec", max_len=30, num_seeds=3):
    return printed(results_table(results, source=SOURCE, env=env, max_len=max_len, num_seeds=num_seeds), width)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_every_number_and_name_stands_uncut_on_its_line(results, width):
    text = print_results(results, width)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    lines = text.splitlines()
    for method, found in results.items():
        own = " ".join(line for line in lines if re.search(rf"(^| ){re.escape(label(method))} ", line))
        for name in METRICS:
            assert cell(found[name], 2 if name in ("length", "return") else 3) in own.split()
        assert f"{found['closed_form']:.2f}" in own.split()


def test_narrow_consoles_get_two_tables_and_wide_ones_a_single_row_of_them(results):
    for width, blocks in [(80, 2), (200, 1)]:
        heads = [line for line in print_results(results, width).splitlines() if line.startswith("method")]
        assert len(heads) == blocks
        assert " ".join(heads).split()[:6] == ["method", "Len", "R_each", "R_cum", "AD", "E[Len]"]


def numbers(text):
    return re.findall(r"\d+\.\d+(?:±\d+\.\d+)?", text)


def test_below_eighty_columns_tables_are_split_and_nothing_is_lost(results):
    for width in (60, 40):
        text = print_results(results, width)
        assert "…" not in text
        assert max(len(line) for line in text.splitlines()) <= width
        assert sorted(numbers(text)) == sorted(numbers(print_results(results, 80)))


def test_an_own_reward_and_visits_fit_eighty_columns(results):
    for found in results.values():
        found["own_return"] = {"mean": 123.456, "low": 120.0, "high": 127.0}
        found["visits"] = {"mean": 12.34, "low": 11.0, "high": 13.5}
    text = print_results(results, 80)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text.count("123.456±3.500") == text.count("12.34±1.25") == len(METHODS)  # each whole, on one line
    heads = [line.split() for line in text.splitlines() if line.startswith("method")]
    assert [head[1] for head in heads] == ["Len", "AD", "own"]


def test_the_first_line_says_what_the_numbers_are_of(results):
    first = print_results(results, 80).splitlines()[0]
    for part in (SOURCE, "max_len 30", "3 seeds", "3,000 held-out sessions"):
        assert part in first
    assert "1 seed," in print_results(results, 80, num_seeds=1).splitlines()[0]


def test_the_papers_numbers_stand_below_ours_and_nowhere_else(results):
    lines = print_results(results, 80).splitlines()
    ours = next(i for i, line in enumerate(lines) if line.startswith("DSRM-HRL "))
    paper = lines[ours + 1].split()
    assert paper == ["paper's", "26.60±0.82", "0.917±0.010", "23.75±1.04", "0.008±0.003"]
    assert "35.13±0.86" in print_results(results, 80, env="kuairand", max_len=50)
    for env, max_len in [("ml-1m", 30), ("kuairec", 20)]:
        assert "paper" not in print_results(results, 80, env=env, max_len=max_len)
    del results["dsrm_hrl"]
    assert "paper" not in print_results(results, 80)


def test_the_difference_to_the_free_lunch_has_a_line(results):
    assert "DSRM-HRL - greedy, half and half: Len +1.19 [1.05, 1.33]" in print_results(results, 80)
    del results["dsrm_hrl"]["difference"]
    assert "DSRM-HRL -" not in print_results(results, 80)


def test_notes_say_what_the_interval_is_of(results):
    assert "95 % confidence over seeds and sessions" in print_results(results, 80)
    assert "one seed says nothing about others" in print_results(results, 80, num_seeds=1)


def test_a_cell_is_mean_and_half_width_or_the_mean_alone():
    assert cell({"mean": 24.126, "low": 23.986, "high": 24.266}, 2) == "24.13±0.14"
    assert cell({"mean": 0.5, "low": float("nan"), "high": float("nan")}, 3) == "0.500"


@pytest.fixture
def facts():
    def split(rows, users):
        spread = dict(zip(("mean", "q05", "q25", "q50", "q75", "q95", "max"), range(11, 18), strict=True))
        rates = {name: value / 20 for name, value in spread.items()}
        return {"rows": rows, "users": users, "items": 3327, "click_rate": 0.505} | {
            "rows_per_user": {name: 1000 * value for name, value in spread.items()},
            "user_click_rate": rates,
        }

    return {
        "name": "kuairec",
        "source": SOURCE,
        "users": 7176,
        "items": 10728,
        "categories": 31,
        "catalogue": 3327,
        "rows": 17_207_376,
        "click_rate": 0.505,
        "span": {"first": "2020-07-05T00:00:00.000Z", "last": "2020-09-06T12:30:00.250Z"},
        "notes": ["users (user_id): whole numbers", "3 of 17,207,379 rows dropped"],
        "train": split(12_530_806, 7176),
        "test": split(4_676_570, 1411),
        "popularity": {"gini": 0.623, "top_share": 0.659, "catalogue_gini": 0.596, "catalogue_top_share": 0.627}
        | {"curve": {"1 %": 0.125, "50 %": 0.875}},
    }


@pytest.mark.parametrize("width", [80, 120, 200])
def test_data_statistics_are_all_there_and_uncut(facts, width):
    text = printed(data_table(facts), width)
    assert text.splitlines()[0].strip() == SOURCE
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    lines = [re.sub(r"\s+", " ", line) for line in text.splitlines()]
    spread = " ".join(f"{1000 * n:,}" for n in range(11, 18))
    rates = " ".join(f"{n / 20:.3f}" for n in range(11, 18))
    rows = ["rows 12,530,806 4,676,570", "users 7,176 1,411", "click rate 0.505 0.505", "users 7,176"]
    rows += ["recommended items 3,327", "exposure Gini, recommended 0.596", "categories 31"]
    rows += [f"rows train {spread}", f"rows test {spread}", f"click rate test {rates}"]
    rows += ["rows 17,207,376", "first time 2020-07-05 00:00:00", "last time 2020-09-06 12:30:00.250"]
    rows += ["most shown items 1 % 50 %", "share of what is shown 0.125 0.875", *facts["notes"]]
    for row in rows:
        assert any(row in line for line in lines), row


def test_an_empty_split_leaves_blanks(facts):
    facts["test"] = {"rows": 0, "users": 0, "items": 0}
    text = printed(data_table(facts), 80)
    assert re.search(r"click rate +0\.505 *\n", text) or re.search(r"click rate +0\.505 {3}", text)
    assert not re.search(r"rows +test", text)


def test_numbers_from_numpy_are_printed_like_plain_ones(facts):
    facts["train"]["rows"] = np.int64(12_530_806)
    assert "12,530,806" in printed(data_table(facts), 80)


@given(st.lists(st.integers(1, 12), min_size=2, max_size=9), st.integers(1, 3), st.integers(1, 4), st.integers(30, 120))
def test_a_wide_table_is_split_between_columns_and_keeps_every_cell_once(sizes, keys, rows, width):
    keys = min(keys, len(sizes) - 1)
    table = WideTable(*(chr(97 + i) * size for i, size in enumerate(sizes)), keys=keys)
    for row in range(rows):
        table.add_row(*(f"{row}{chr(97 + i)}"[:size] for i, size in enumerate(sizes)))
    parts = table.parts(width)
    assert [column for part in parts for column in part] == list(range(keys, len(sizes)))
    widths = table.widths()
    for part in parts:
        whole = sum(widths[i] + 2 for i in [*range(keys), *part]) - 2
        assert whole <= width or len(part) == 1
    for part, after in itertools.pairwise(parts):  # the next column would not have fitted
        assert sum(widths[i] + 2 for i in [*range(keys), *part, after[0]]) - 2 > width
    if all(sum(widths[i] + 2 for i in [*range(keys), *part]) - 2 <= width for part in parts):
        text = printed(table, width)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width
        assert text.count("a" * sizes[0]) >= len(parts)
