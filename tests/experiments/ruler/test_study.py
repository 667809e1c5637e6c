"""The command: cells are kept, a second run measures nothing anew, and the library's states arrive in the truth's own units."""

import numpy as np
import pytest

from dsrm_jax.errors import InputError
from experiments.ruler import purifiers, study
from experiments.ruler.study import Cell, collect, methods_of, run_ruler
from experiments.ruler.table import ruler_tables
from experiments.ruler.worlds import QUICK, make_world


def test_a_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(purifiers, "OF_STEPS", ())
    said = []
    options = {"truths": ("gaussian",), "seeds": (1,), "methods": ("prior",), "quick": True, "say": said.append}
    (first,) = run_ruler(tmp_path, **options)
    assert [line.split(": ")[1].split(" (")[0] for line in said[:4]] == [
        "prior",
        "fair_gaussian",
        "fair_mixture",
        "exact",
    ]
    number = len(said)
    (second,) = run_ruler(tmp_path, **options)
    assert (len(said), second) == (number, first)
    at = first["truths"]["gaussian"]["fair_gaussian"]["20"]
    assert at["over_fair_gaussian"]["mean"] == 1.0
    assert at["over_exact_by_seed"] == pytest.approx([at["over_exact"]["mean"]])
    # the prior's own mean is the worst there is, exact inference about as good as the fit of its own family
    assert first["truths"]["gaussian"]["prior"]["20"]["over_exact"]["mean"] > 1.3
    assert at["over_exact"]["mean"] == pytest.approx(1.0, abs=0.15)
    assert len(list(ruler_tables(first))) == 3


def test_names_that_are_unknown_are_refused(tmp_path):
    for options in ({"truths": ("flat",)}, {"methods": ("guess",)}):
        with pytest.raises(InputError, match="unknown: expected one of"):
            next(run_ruler(tmp_path, **options))


def test_every_purifier_is_measured():
    from dsrm_jax.purify.kinds import PURIFIERS

    assert set(PURIFIERS) - {"identity"} <= set(methods_of(known=False))
    assert {"guided, untrained", "guided, shuffled users"} <= set(methods_of(known=False))


def test_histories_are_the_events_right_aligned():
    world = make_world("sheet", 1, QUICK)
    history = purifiers.histories(world, QUICK)
    users = QUICK.test_users
    assert list(history.length[::users]) == list(QUICK.lengths)
    short = np.asarray(history.item[3])
    np.testing.assert_array_equal(short[-5:], world.test_item[3, :5])
    assert not short[:-5].any()
    np.testing.assert_array_equal(history.click[users + 3], world.test_click[3, :20])


def test_guided_from_known_gaussian_tastes_is_near_the_gaussian_posterior(tmp_path):
    """Through Stage I, the library's units and back: an untrained denoiser is exactly a Gaussian prior."""
    cell = Cell(tmp_path, "gaussian", 2, True, True)
    stage = cell.stage()
    params = purifiers.fit(stage, QUICK, 2, "guided, untrained", quick=True)
    scale, history = purifiers.units(QUICK.dim), purifiers.histories(cell.world, QUICK)
    run = purifiers._purify("guided, untrained", "clicked", QUICK.dim, True)
    found = np.asarray(run(params, None, stage.encoder, history)).reshape(2, QUICK.test_users, QUICK.dim) / scale
    expected = cell.estimate("fair_gaussian_mode").mean
    between = np.mean((found - expected) ** 2, axis=(1, 2))
    assert np.all(between < 0.05 * np.mean((expected - cell.world.test) ** 2, axis=(1, 2)))


def test_steps_are_enough_within_a_per_cent_of_the_least(tmp_path, monkeypatch):
    monkeypatch.setattr(purifiers, "STEPS", (1, 2, 5))
    monkeypatch.setattr(purifiers, "SAMPLERS", ("ddim",))
    errors = {"ddim 1": 2.0, "ddim 2": 1.009, "ddim 5": 1.0}
    own = {7: {name: np.full((1, 4), x) for name, x in errors.items()}}
    found = study._steps(own, {7: {"squared_error": np.full((1, 4), 0.5)}}, (20,))
    assert found["ddim"]["20"] == {"over_exact": {"1": 4.0, "2": 2.018, "5": 2.0}, "enough": 2}
    assert collect(tmp_path, ("sheet",), (1,), quick=True)["truths"] == {}
