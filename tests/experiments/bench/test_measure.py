"""Bad arguments, and the numbers of one small size."""

import pytest
from rich.console import Console

from dsrm_jax.errors import InputError
from experiments import bench
from experiments.bench.work import budget_numbers


@pytest.mark.parametrize(("size", "repeats", "word"), [("papr", 1, "paper"), ("tiny", 0, "repeats")])
def test_bad_arguments_are_refused(size, repeats, word):
    with pytest.raises(InputError, match=word):
        bench.run(size, repeats=repeats)
    if repeats < 1:
        with pytest.raises(InputError, match=word):
            bench.run_scaling(repeats=repeats)


def test_a_budget_is_extrapolated_from_what_was_run_and_compiled_once():
    found = budget_numbers(
        updates=1250, updates_run=50, steps_per_update=16, users=64, train_seconds=4.0, compile_seconds=30.0
    )
    assert found["steps"] == 20_000
    assert found["seconds"] == 30.0 + 100.0
    assert found["user_steps_per_second"] == 50 * 16 * 64 / 4.0
    assert found["extrapolated"]


@pytest.mark.slow
def test_fcpos_loop_is_measured_per_update(capsys):
    numbers = bench.run("fcpo", repeats=1, console=Console())
    loop = numbers["parts"]["loop"]
    assert loop["user_steps_per_second"] == pytest.approx(9430 / loop["milliseconds"] * 1e3)
    assert loop["ratio"] > 1, "the loop cannot be faster than its own matrix products"
    assert loop["milliseconds"] > numbers["parts"]["sessions"]["milliseconds"]
    assert numbers["budget"]["steps"] == 1000
    assert "fcpo: 943 users" in capsys.readouterr().out
