"""The grid: small enough for the time it has, united, and narrowed to what is asked for."""

import pytest

from dsrm_jax.errors import InputError
from dsrm_jax.sweep.plan import group
from experiments.report.claims import load_claims, rows_of
from experiments.report.estimate import in_words, read_times, seconds_of
from experiments.report.intervals import FEWEST_DATA_SEEDS
from experiments.report.negative import about, own_name, spoilt
from experiments.report.paper import ABLATIONS, METHODS
from experiments.report.plan import CLAIMS, WINNERS, load_agenda, plans_folder, wanted_environments
from experiments.report.variants import variant
from experiments.report.waterfall import LADDER, LEARNERS

CORE_MINUTES = 215  # two cores for 100 minutes, and what else was running when the times were taken


def test_the_grid_holds_each_configuration_once_and_fits_the_time(agenda):
    points = [*agenda.first, *agenda.then]
    names = [p.name for p in points]
    assert len(names) == len(set(names)) < sum(map(len, agenda.points.values()))
    assert {p.name for members in agenda.points.values() for p in members} == set(names)
    quick = load_agenda(plans_folder(), ["kuairec", "kuairand"], "quick")
    known = read_times(plans_folder().parent / "results" / "paper" / "times.csv")
    points = [*quick.first, *quick.then]
    assert seconds_of(points, known) / 60 <= CORE_MINUTES
    assert f"{len(points) - 1} of {len(points)} points to run: about " in in_words(quick.points, points[1:], 2, known)


def test_every_row_of_tables_ladder_and_heads_is_run_on_enough_data_seeds(agenda):
    found = {}
    for point in agenda.first:
        if point.config.environment.max_len == 30:
            key = point.config.data.env, variant(point.config)
            found.setdefault(key, set()).add(point.config.data.seed)
    for env in ("kuairec", "kuairand"):
        for name in (*METHODS, *ABLATIONS, *(f"{m}+half" for m in METHODS[:-1]), *LADDER, *LEARNERS):
            assert len(found[env, name]) >= FEWEST_DATA_SEEDS, (env, name)


def test_rows_that_claims_name_are_run(agenda):
    named = {variant(p.config) for p in agenda.first}
    for claim in load_claims(plans_folder() / CLAIMS):
        for rule in (claim.rule, *(control.rule for control in claim.controls)):
            if rule.measurement not in ("living", "paper_time_ratio"):
                assert set(rows_of(rule)) <= named, claim.id


def test_a_negative_control_spoils_what_it_is_about_and_keeps_names(agenda):
    claims = load_claims(plans_folder() / CLAIMS)
    names = {p.name for p in [*agenda.first, *agenda.then]}
    for control in ("shuffled", "random_goal"):
        assert len(about(claims, control)) >= 4
        points = spoilt(agenda, claims, control).first
        changed = [p for p in points if p.name not in names]
        own = {own_name(p.config, control) for p in changed}
        assert "dsrm_hrl" in own
        assert not {"hrl", "quota_greedy", "dsrm_hrl+worker_alone"} & own
        assert all(control in repr(p.config) for p in changed)
        assert {own_name(p.config, control) for p in points} > own  # what they are compared with is as it was


def test_winners_replace_settings_but_those_that_a_plan_varies(agenda, tmp_path):
    for path in plans_folder().glob("*.toml"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / WINNERS).write_text(
        "seconds = 9.0\n[dsrm_hrl]\nscore = 1.0\n[dsrm_hrl.agent]\nhidden = 32\nfairness_weight = 0.25\n"
    )
    tuned = load_agenda(tmp_path, ["kuairec"], "tiny").points
    assert {p.config.agent.hidden for p in tuned["pareto_penalty"]} == {32}
    assert {p.config.agent.fairness_weight for p in tuned["pareto_penalty"]} == {0.0, 0.5, 2.0, 5.0}
    own = {p.config.agent.method: p.config.agent for p in tuned["table3"]}
    assert (own["dsrm_hrl"].fairness_weight, own["flat"].fairness_weight, own["flat"].hidden) == (0.25, 0.5, 64)
    assert not {p.name for p in tuned["table3"] if p.config.agent.method == "dsrm_hrl"} & {p.name for p in agenda.first}


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
    assert {p.config.data.seed for p in points} == {0}
    assert not {"fig6", "pareto_penalty"} & set(agenda.points)


def test_unknown_data_sets_and_budgets_are_answered_with_the_names():
    with pytest.raises(InputError, match="kuairec"):
        load_agenda(plans_folder(), ["kuairex"], "tiny")
    with pytest.raises(InputError, match="quick"):
        load_agenda(plans_folder(), ["kuairec"], "quik")
    assert wanted_environments("all") == ["kuairec", "kuairand"]
    assert wanted_environments("kuairand") == ["kuairand"]
