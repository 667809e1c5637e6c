"""Grids against the product they stand for; groups against what one compiled program can hold."""

import dataclasses
import itertools

import jax
import pytest

from dsrm_jax.config import Config
from dsrm_jax.config.budgets import budget
from dsrm_jax.config.serialise import fields
from dsrm_jax.errors import InputError
from dsrm_jax.sweep.plan import LARGEST_GROUP, Plan, expand, group, load_plan, varied

RATES = (1e-3, 3e-4, 1e-4)
GRID = {"purifier.diffusion_steps": (5, 10), "agent.learning_rate": RATES, "agent.td3.exploration": (0.1, 0.2)}


def test_a_grid_is_the_product_of_its_values_and_changes_nothing_else():
    points = expand(Plan(Config(), GRID))
    wanted = list(itertools.product(*GRID.values()))
    base = dict(fields(Config()))
    assert [tuple(p.values.values()) for p in points] == wanted
    for point, values in zip(points, wanted, strict=True):
        assert dict(fields(point.config)) == base | dict(zip(GRID, values, strict=True))
    assert len({p.name for p in points}) == len(wanted)


def test_a_points_folder_depends_on_its_configuration_and_on_where_it_is_measured():
    (one,), (same,) = (expand(Plan(Config(), {"agent.clip": (0.3,)})) for _ in range(2))
    (validated,) = expand(Plan(Config(), {"agent.clip": (0.3,)}, validate=True))
    assert one.name == same.name
    assert one.name != validated.name


def test_groups_hold_points_that_differ_in_the_agents_floats_alone():
    points = expand(Plan(Config(), GRID))
    groups = group(points)
    assert sorted(p.name for members in groups for p in members) == sorted(p.name for p in points)
    assert [len(members) for members in groups] == [6, 6]
    for members in groups:
        assert len({p.config.purifier.diffusion_steps for p in members}) == 1
        assert len({jax.tree.structure(p.config) for p in members}) == 1


def test_no_group_is_larger_than_one_program_should_be():
    rates = tuple(1e-4 * (i + 1) for i in range(2 * LARGEST_GROUP + 1))
    assert [len(g) for g in group(expand(Plan(Config(), {"agent.learning_rate": rates})))] == [
        LARGEST_GROUP,
        LARGEST_GROUP,
        1,
    ]


def test_a_file_and_its_flags_say_what_a_plan_is(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(
        'budget = "tiny"\nvalidate = true\n[grid]\n"agent.method" = ["hrl", "random"]\n[agent]\nclip = 0.1\n'
    )
    plan = varied(load_plan(str(path)), ["agent.learning-rate=1e-3,3e-4", "agent.method=hrl"])
    tiny = budget("tiny")
    assert plan.base == dataclasses.replace(tiny, agent=dataclasses.replace(tiny.agent, clip=0.1))
    assert plan.grid == {"agent.method": ("hrl",), "agent.learning_rate": (1e-3, 3e-4)}
    assert plan.validate
    assert load_plan(str(path), "quick").base.training.steps == budget("quick").training.steps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[grid]\n"agent.lerning_rate" = [1]\n', "agent.lerning_rate.*agent.learning_rate"),
        ('[grid]\n"agent.clip" = 0.1\n', "lists of values"),
        ('[grid]\n"agent.clip" = []\n', "lists of values"),
        ('[grid]\n"agent.clip" = [-1.0]\n', "agent.clip is -1.0, expected more than 0"),
        ("validate = 3\n", "validate is 3, expected true or false"),
        ('budget = "smal"\n', "smal"),
    ],
)
def test_what_a_file_says_wrong_is_named(tmp_path, text, message):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        expand(load_plan(str(path)))


@pytest.mark.parametrize("phrase", ["agent.clip", "agent.clip=", "=3"])
def test_a_grid_flag_without_field_or_value_is_refused(phrase):
    with pytest.raises(InputError, match="expected field=value,value"):
        varied(Plan(Config(), {}), [phrase])


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"agent.method": ("dsrm_hlr",)}, "did you mean 'dsrm_hrl'"),
        ({"data.env": ("kuairek",)}, "did you mean 'kuairec'"),
        ({"agent": (3,), "agent.clip": (0.1,)}, "agent.clip and 'agent' both have values"),
        ({"agent.clip": (0.1,), "agent.clip.x": (0.1,)}, "agent.clip.x and 'clip' both have values"),
    ],
)
def test_a_grid_of_what_does_not_exist_is_refused_before_any_work(grid, message):
    with pytest.raises(InputError, match=message):
        expand(Plan(Config(), grid))


def test_a_grid_flag_takes_lists_numbers_and_bare_names():
    plan = varied(Plan(Config(), {}), ["training.seeds=[1, 2],[3]", "agent.method=hrl, random"])
    assert plan.grid == {"training.seeds": ([1, 2], [3]), "agent.method": ("hrl", "random")}
    assert [p.config.training.seeds for p in expand(plan)] == [(1, 2), (1, 2), (3,), (3,)]
