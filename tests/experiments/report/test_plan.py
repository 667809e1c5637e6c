"""The grid: small enough for the time it has, united, and narrowed to what is asked for."""

import pytest

from dsrm_jax.errors import InputError
from dsrm_jax.sweep.plan import group
from experiments.report.paper import ABLATIONS, METHODS
from experiments.report.plan import load_agenda, plans_folder, wanted_environments

LEARNT_POINTS = 100  # at 1 to 1.5 minutes of a core each, on two cores within 100 minutes


def test_the_grid_holds_each_configuration_once_and_fits_the_time(agenda):
    points = [*agenda.first, *agenda.then]
    names = [p.name for p in points]
    assert len(names) == len(set(names)) < sum(map(len, agenda.points.values()))
    assert {p.name for members in agenda.points.values() for p in members} == set(names)
    learnt = [p for p in points if p.config.agent.method in (*METHODS, *ABLATIONS, "dnair_dsrm")]
    assert len(learnt) <= LEARNT_POINTS


def test_every_method_stands_in_its_table_at_both_lengths(agenda):
    for plan, methods in (("table2", METHODS), ("table3", ABLATIONS)):
        found = {(p.config.data.env, p.config.environment.max_len, p.config.agent.method) for p in agenda.points[plan]}
        expected = {(e, n, m) for e in ("kuairec", "kuairand") for n in (30, 50) for m in methods}
        assert expected <= found


def test_timed_points_share_no_program(agenda):
    timed = {p.name for p in agenda.points["table4"]}
    assert timed <= {p.name for p in agenda.first}
    assert all(len(members) == 1 for members in group(agenda.first))


def test_one_data_set_leaves_the_other_out():
    agenda = load_agenda(plans_folder(), ["kuairand"], "tiny")
    assert {p.config.data.env for p in [*agenda.first, *agenda.then]} == {"kuairand"}
    assert "table4" not in agenda.points
    assert list(agenda.configs) == ["kuairand"]


def test_named_files_give_the_reduced_grid():
    agenda = load_agenda(plans_folder(), ["kuairand"], "tiny", data_path="/some/where")
    points = [*agenda.first, *agenda.then]
    assert {p.config.environment.max_len for p in points} == {30}
    assert {p.config.data.path for p in points} == {"/some/where"}
    assert not {"fig6", "pareto_penalty", "pareto_quota"} & set(agenda.points)


def test_unknown_data_sets_and_budgets_are_answered_with_the_names():
    with pytest.raises(InputError, match="kuairec"):
        load_agenda(plans_folder(), ["kuairex"], "tiny")
    with pytest.raises(InputError, match="quick"):
        load_agenda(plans_folder(), ["kuairec"], "quik")
    assert wanted_environments("all") == ["kuairec", "kuairand"]
    assert wanted_environments("kuairand") == ["kuairand"]
