"""What is kept of Stage I between runs: the same bits under the same name, and under no other."""

import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.config import Config
from dsrm_jax.purify.perception import Perception
from dsrm_jax.runs import kept
from dsrm_jax.runs.kept import can_be_kept, share_kept
from dsrm_jax.runs.prepare import StageOne


def made(value: float = 1.5) -> StageOne:
    return StageOne(Perception({"w": jnp.full(2, value)}, {}), {"mode": jnp.full((4, 3), value)}, {"loss": [value]})


LIKE = jax.eval_shape(lambda: made().replace(facts={}))


def never() -> StageOne:
    raise AssertionError("it was kept")


def weight(found: StageOne) -> float:
    return float(found.perception.encoder["w"][0])


def test_a_later_run_reads_what_an_earlier_one_left(tmp_path: Path):
    said: list[str] = []
    first = share_kept(Config(), said.append, tmp_path)
    assert weight(first("a", LIKE, made)) == 1.5
    assert said == []
    again = share_kept(Config(), said.append, tmp_path)("a", LIKE, never)
    jax.tree.map(np.testing.assert_array_equal, again.posterior, made().posterior)
    assert again.facts == {"loss": [1.5]}
    assert "as an earlier run left it" in said[0]


def test_another_log_and_another_program_have_another_name(tmp_path: Path, monkeypatch):
    share = share_kept(Config(), print, tmp_path)
    share("a", LIKE, made)
    assert weight(share("b", LIKE, lambda: made(2.5))) == 2.5
    monkeypatch.setattr(kept, "_program", lambda: "changed")
    assert weight(share("a", LIKE, lambda: made(3.5))) == 3.5


def test_the_least_recently_used_go(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(kept, "MOST", 2)
    share = share_kept(Config(), print, tmp_path)
    for age, name in enumerate("ab"):
        share(name, LIKE, made)
        newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (1_000 + age, 1_000 + age))
    share("a", LIKE, never)  # used now, so that b is the oldest
    share("c", LIKE, made)
    assert len(list(tmp_path.iterdir())) == 2
    share("a", LIKE, never)
    assert weight(share("b", LIKE, lambda: made(2.5))) == 2.5


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("data", "cache", False),
        ("data", "env", "lab:log"),
        ("purifier", "kind", "lab:purifier"),
        ("environment", "response", "lab:response"),
        ("environment", "train_response", "lab:response"),
    ],
)
def test_what_could_change_unseen_is_never_kept(section, field, value):
    assert can_be_kept(Config())
    changed = dataclasses.replace(getattr(Config(), section), **{field: value})
    config = dataclasses.replace(Config(), **{section: changed})
    assert not can_be_kept(config)
    assert share_kept(config, print) is None
