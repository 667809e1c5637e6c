"""Tuning with stand-ins for training: as many trials for each method, halved, resumed; winners at an edge are named."""

import json
import math
import tomllib
from collections import Counter

import pytest

from dsrm_jax.config import Config
from dsrm_jax.config.serialise import validate
from dsrm_jax.errors import InputError
from experiments.report import tune as module
from experiments.report.paper import ABLATIONS, METHODS
from experiments.report.plan import load_agenda, plans_folder, tuned
from experiments.report.tune import (
    Range,
    core_seconds,
    draw_trials,
    edges_of,
    load_ranges,
    methods_of,
    points_of,
    rise_of,
    tune,
)


@pytest.fixture(scope="module")
def protocol():
    return load_ranges()[0]


@pytest.fixture(scope="module")
def spaces():
    return load_ranges()[1]


def test_every_learner_is_tuned_or_takes_its_learners_settings(spaces):
    _, _, same = load_ranges()
    assert {*METHODS, *ABLATIONS, "dnair_dsrm", "fcpo"} == {*spaces, *same}
    assert set(same.values()) <= set(spaces)
    wanted = methods_of(spaces)
    assert {f"{name}+half" for name in METHODS[:-1]} <= set(wanted)
    assert not {"dsrm_hrl+half", "flat+half"} & set(wanted)


def test_no_data_seed_and_no_policy_of_the_report_is_tuned_on(protocol):
    agenda = load_agenda(plans_folder(), ["kuairec", "kuairand"], "quick")
    configs = [p.config for p in [*agenda.first, *agenda.then]]
    assert not {c.data.seed for c in configs} & set(protocol.data_seeds)
    assert not {seed for c in configs for seed in c.training.seeds} & set(protocol.training_seeds)
    assert set(protocol.envs) == {c.data.env for c in configs}


def test_trials_are_as_many_for_each_method_within_ranges_and_spread_over_them(protocol, spaces):
    for method, space in spaces.items():
        trials = draw_trials(space, protocol, method)
        assert len(trials) == protocol.trials
        assert trials[0] == {}
        for name, of in space.numbers.items():
            shares = sorted(of.share(trial[name]) for trial in trials[1:])
            cells = [min(int(share * len(shares) + 1e-2), len(shares) - 1) for share in shares]
            assert max(Counter(cells).values()) <= 2  # one draw of each part of the range, but for rounding
        for members in points_of(method, trials, 400, protocol, Config()):
            for point in members:
                validate(point.config)
        assert draw_trials(space, protocol, method) == trials
    # the discount is everybody's, under whatever name
    assert all(any("discount" in name for name in space.numbers) for space in spaces.values())


def test_winners_at_an_end_of_their_range_are_named(spaces):
    space = spaces["td3"]
    middle = {name: of.at(0.5) for name, of in space.numbers.items()} | {"hidden": 64, "replay.gradient_steps": 8}
    assert edges_of(middle, space) == []
    assert edges_of(middle | {"td3.discount": 0.97, "hidden": 128}, space) == ["hidden", "td3.discount"]
    assert edges_of({}, space) == []
    assert Range(1e-4, 1e-2, log=True).share(1e-3) == pytest.approx(0.5)
    assert Range(0.0, 2.0).at(0.25) == 0.5


def test_a_curve_is_flat_where_it_is(tmp_path):
    for name, returned in (("flat", lambda i: 10.0), ("rising", lambda i: 10.0 + 0.1 * i)):
        folder = tmp_path / name
        folder.mkdir()
        rows = [{"step": i, "sessions": [4], "return": [returned(i)], "reward": [0.5]} for i in range(90)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert rise_of(tmp_path / "flat") == 0.0
    assert rise_of(tmp_path / "rising") == pytest.approx(0.1 * 30 / 17.4, rel=0.1)
    assert rise_of(tmp_path / "none") is None


@pytest.fixture
def runs():
    """Steps of each point that the stand-in trained."""
    return []


@pytest.fixture
def train(runs):
    """Return a stand-in for `run_points`: R_cum is the better the nearer the step size is to a thousandth."""

    def run(points, folder, *, validate, workers, say):
        assert validate
        for point in points:
            path = folder / point.name / "result.json"
            if path.exists():
                continue
            agent = point.config.agent
            away = math.log10(agent.learning_rate / 2e-3)
            runs.append((agent.method, agent.head, point.config.training.steps))
            path.parent.mkdir(parents=True)
            returned = 20.0 - away**2 - (agent.head == "half") + (point.config.data.env == "kuairec")
            timing = {"train_seconds": 2.0, "compile_seconds": 1.0, "evaluation_seconds": 1.0}
            result = {"return": {"mean": returned}}
            path.write_text(json.dumps({"diverged": False, "timing": timing, "result": result}))

    return run


def test_each_method_gets_the_same_and_a_second_run_nothing(train, runs, tmp_path):
    lines, toml = [], tmp_path / "experiments" / "paper" / "tuned.toml"
    toml.parent.mkdir(parents=True)
    for _ in range(2):
        winners = tune(tmp_path / "out", toml, methods=["td3", "hrl", "td3+half"], run=train, say=lines.append)
    each = Counter(runs)
    for method, head in (("td3", "own"), ("td3", "half"), ("hrl", "own")):
        assert [each[method, head, steps] for steps in (400, 1200, 3600)] == [4 * 18, 4 * 6, 4 * 2]
    assert lines[0].startswith("3 methods: about ")
    document = tomllib.loads(toml.read_text())
    assert set(document) == {"td3", "td3+half", "hrl", "hrl_rce", "hrl_tce", "hrl_bod"}
    assert document["hrl_rce"]["agent"] == document["hrl"]["agent"]
    chosen = tuned(toml.parent)["td3"]
    assert 1e-3 < chosen["learning_rate"] < 4e-3
    assert document["td3"]["seconds"] == 4 * 4 * (18 + 6 + 2)
    assert winners["td3"]["over_default"] > 1
    assert not document["td3"]["default"]
    assert sum(line.startswith("td3: 18 trials in ") for line in lines) == 2


def test_an_unknown_method_or_a_range_that_is_none_is_named(tmp_path, train):
    with pytest.raises(InputError, match="td3"):
        tune(tmp_path, tmp_path / "paper" / "tuned.toml", methods=["td4"], run=train)
    text = module.RANGES.read_text()
    for old, new, message in (
        ("trials = 18", "", "trials"),
        ("low = 0.3, high = 10.0", "low = 10.0, high = 0.3", "max_grad"),
    ):
        path = tmp_path / "ranges.toml"
        path.write_text(text.replace(old, new))
        with pytest.raises(InputError, match=message):
            load_ranges(path)


def test_what_it_takes_is_said_before():
    found = core_seconds(["td3"], {("kuairec", "td3"): (20.0, 3.0, 0.4), ("kuairand", "td3"): (20.0, 5.0, 0.9)})
    assert 600 < found["td3"] < 6000
