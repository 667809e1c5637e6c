"""The surface: every world and variant reaches the ruler as it was asked for, and bad ones do not."""

import dataclasses
import io

import pytest
from rich.console import Console

from dsrm_jax.config import Config
from dsrm_jax.config.serialise import merge
from dsrm_jax.errors import InputError
from dsrm_jax.runs.pieces import purifier_of
from experiments.headroom import surface as room
from experiments.headroom.surface import VARIANTS, Surface, headroom_surface
from experiments.headroom.table import surface_table

CONFIG = merge(Config(), {"data": {"seed": 202}, "synthetic": {"popularity_lift": 0.7}}, "test")


@pytest.fixture
def asked(monkeypatch):
    calls = []
    monkeypatch.setattr(room, "headroom", lambda config, **options: calls.append((config, options)) or {})
    return calls


def test_worlds_differ_in_contamination_alone(asked):
    assert list(headroom_surface(CONFIG, Surface(worlds=("own", "strong", "mild", "own")))) == ["own", "strong", "mild"]
    found = [(c.synthetic.popularity_lift, c.synthetic.popularity_bend, c.data.seed) for c, _ in asked]
    assert found == [(0.7, -1.0, 202), (1.0, 0.5, 202), (0.5, 0.0, 202)]
    assert all(options["purifiers"] is None for _, options in asked)


def test_every_variant_is_a_purifier_that_can_be_built(asked):
    headroom_surface(CONFIG, Surface(purifiers=tuple(VARIANTS), policy="greedy", lengths=(3,)))
    ((config, options),) = asked
    assert (options["policy"], options["lengths"]) == ("greedy", (3,))
    assert options["purifiers"].keys() == VARIANTS.keys()
    assert len(set(options["purifiers"].values())) == len(VARIANTS)
    for settings in options["purifiers"].values():
        purifier_of(merge(config, {"purifier": dataclasses.asdict(settings)}, "test"))


@pytest.mark.parametrize(
    ("surface", "complaint"),
    [
        (Surface(purifiers=("guidde",)), "guided"),
        (Surface(lengths=(10, 500)), "environment.history_length, 256"),
        (Surface(lengths=()), "at least one"),
    ],
)
def test_what_does_not_exist_or_fit_is_refused_before_any_work(asked, surface, complaint):
    with pytest.raises(InputError, match=complaint):
        headroom_surface(CONFIG, surface)
    assert not asked


def test_the_table_has_a_row_for_every_world_and_length():
    def result(share):
        cells = {str(n): {"reward": {"mean": share + n / 1000, "low": None, "high": None}} for n in (10, 50)}
        return {"lengths": [10, 50], "recovered": {"guided": cells}}

    console = Console(file=io.StringIO(), width=120)
    console.print(surface_table({"strong": result(0.6), "mild": result(0.3)}))
    heading, _, *rows = console.file.getvalue().splitlines()
    assert heading.split()[3:] == ["guided"]
    assert [" ".join(row.split()) for row in rows] == [
        "strong, 10 events 61 %",
        "strong, 50 events 65 %",
        "mild, 10 events 31 %",
        "mild, 50 events 35 %",
    ]
