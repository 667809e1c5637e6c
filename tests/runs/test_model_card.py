"""The card says what the run is, in numbers that are the summary's."""

import dataclasses
import math

from dsrm_jax.config import Config
from dsrm_jax.config.tree import TrainingConfig
from dsrm_jax.evaluation.tables import label
from dsrm_jax.runs.model_card import model_card

METRICS = ("length", "reward", "return", "ad", "slate_ad", "broken", "gini", "coverage")


def result(offset):
    values = {
        m: {"mean": 1 + offset + i / 100, "low": 1 + offset, "high": 1 + offset + i / 50} for i, m in enumerate(METRICS)
    }
    return values | {"sessions": 3_000, "confidence": 0.9, "seeds": [{}] * 3}


def summary(**changes):
    split = {"rows": 12_345, "users": 678, "items": 90, "click_rate": 0.25}
    return {
        "source": "clicks.csv",
        "data": {"notes": ["7 rows dropped: no item"], "train": split, "test": {"rows": 0}, "catalogue": 80}
        | {"popularity": {"top_share": 0.66}, "span": {"first": "2020-07-05", "last": "2020-09-06"}},
        "worlds": {"users": "a model fitted to rows, AUC 0.71"},
        "choice": {"chosen": "observed"},
        "results": {"dsrm_hrl": result(0), "quota_greedy_purified": result(3)},
        "verdicts": ["It is better.", "Learning adds nothing."],
        "warnings": ["the log is small"],
    } | changes


def test_a_card_holds_data_numbers_verdicts_warnings_limits_and_commands():
    config = Config(training=TrainingConfig(steps=77))
    text = model_card(config, summary(), folder="runs/mine")
    assert text.startswith("# DSRM-HRL on clicks.csv\n")
    for words in (
        "It acts on observed states: left-out users' later clicks chose `observed`",
        "train: 12,345 rows of 678 users and 90 items, click rate 0.250",
        "* 7 rows dropped: no item",
        "from 2020-07-05 to 2020-09-06",
        "It is better. Learning adds nothing.",
        "| DSRM-HRL | 1.00 | 1.010±0.010 | 1.02±0.02 | 1.030±0.030 |".replace("| 1.00 |", "| 1.00±0.00 |"),
        f"| {label('quota_greedy_purified')} | 4.00±0.00 | 4.010±0.010 |",
        "half of the 90 % interval over seeds and sessions",
        "* the log is small",
        "simulated sessions (a model fitted to rows, AUC 0.71)",
        "recommends from 80 items",
        "* `training.steps` 77 (default 3200)",
        "dsrm-jax evaluate runs/mine\ndsrm-jax export runs/mine",
        "dsrm-jax recommend runs/mine --log",
    ):
        assert words in text, words
    assert "test:" not in text  # no rows, no line
    assert "`agent.clip`" not in text  # a default is not told


def test_what_is_not_known_is_left_out_and_a_method_that_draws_is_not_exported():
    unknown = {**result(0), "length": {"mean": 5.0, "low": math.nan, "high": math.nan}}
    config = dataclasses.replace(
        Config(training=TrainingConfig(seeds=(11,))), agent=dataclasses.replace(Config().agent, method="quota_random")
    )
    text = model_card(config, {"results": {"quota_random": unknown}}, folder="r")
    assert "| 5.00 |" in text
    assert "one seed says nothing of others" in text
    assert "dsrm-jax evaluate r\n```" in text
    assert "## Warnings\n\nNone." in text
    assert "nan" not in text.lower()
