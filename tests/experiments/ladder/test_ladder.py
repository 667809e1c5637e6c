"""The ladder: who is held out, what follows a history, and measures that agree with scikit-learn's."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from dsrm_jax.config import Config
from dsrm_jax.data.log import InteractionLog, Interactions
from dsrm_jax.errors import InputError
from experiments.ladder import study
from experiments.ladder.events import Histories, Later, later_of, learners, part_of_user, rows_of, shuffled
from experiments.ladder.measures import matched_ranks, measures, reliability, resampled, summarise, sums_of
from experiments.ladder.rungs import RUNGS, Told
from experiments.ladder.study import Ladder, run_ladder
from experiments.ladder.table import ladder_tables


def log_with(train, test) -> InteractionLog:
    """Return a log of rows `(user, item, click, time)`."""

    def rows(table) -> Interactions:
        user, item, click, time = (np.asarray(x) for x in zip(*table, strict=True))
        return Interactions(user, item, click.astype(bool), time, click.astype(np.float32))

    items = np.arange(10)
    return InteractionLog(
        "own", "own log", np.arange(4), items, rows(train), rows(test), items, np.zeros((10, 0), bool)
    )


TRAIN = [(0, 1, 1, 1), (0, 2, 0, 2), (0, 3, 1, 3), (1, 4, 0, 1), (2, 5, 1, 2), (2, 6, 0, 4)]


def test_held_out_rows_are_later_ones_where_the_split_is_one_by_time():
    rows = rows_of(log_with(TRAIN, [(0, 7, 1, 9), (3, 8, 0, 1)]))
    assert list(rows.item) == [1, 2, 3, 7, 4, 5, 6, 8]
    assert list(rows.first) == [0, 4, 5, 7, 8]
    # rows of random exposure lie among the training rows: they are none of the policy's
    assert len(rows_of(log_with(TRAIN, [(0, 7, 1, 2)])).item) == len(TRAIN)


def test_what_follows_a_history_is_not_in_it():
    rows = rows_of(log_with(TRAIN, [(0, 7, 1, 9)]))
    later = later_of(rows, np.array([0, 1, 2]), 1, slots=3)
    assert list(later.user) == [0, 2]
    np.testing.assert_array_equal(later.history.item, [[0, 0, 1], [0, 0, 5]])
    np.testing.assert_array_equal(later.history.click, [[False, False, True], [False, False, True]])
    assert list(later.history.length) == [1, 1]
    np.testing.assert_array_equal(later.shown.sum(axis=1), [3, 1])
    assert list(later.item[0, :3]) == [2, 3, 7]
    assert list(later.click[0, :4]) == [False, True, True, False]


def test_nothing_is_learnt_from_users_held_out():
    log = log_with(TRAIN, [(0, 7, 1, 9)])
    starts = learners(log, np.array([True, False, False, False]))
    assert list(starts.item) == [4, 5, 6]
    assert list(starts.first) == [0, 1, 3]
    dealt = shuffled(starts, seed=0)
    assert sorted(zip(dealt.item.tolist(), dealt.click.tolist(), strict=True)) == [(4, False), (5, True), (6, False)]
    np.testing.assert_array_equal(dealt.user, starts.user)
    sizes = np.bincount(part_of_user(13, 5, seed=1))
    assert sizes.sum() == 13
    assert np.ptp(sizes) <= 1


@pytest.fixture(scope="module")
def drawn() -> tuple[Later, Told, np.ndarray]:
    generator = np.random.default_rng(0)
    shape = (30, 20)
    chance, shown = generator.uniform(size=shape), generator.uniform(size=shape) < 0.8
    click = shown & (generator.uniform(size=shape) < chance)
    nothing = Histories(np.zeros((30, 1), int), np.zeros((30, 1), bool), np.zeros(30, int))
    later = Later(np.arange(30), nothing, np.zeros(shape, int), click, shown)
    return later, Told(chance, chance), generator.uniform(size=shape)


def test_measures_agree_with_scikit_learn(drawn):
    later, told, popularity = drawn
    sums = sums_of(later, told, popularity)
    every = measures(sums, resampled(30))
    shown = later.shown
    loss = log_loss(later.click[shown], told.averaged[shown])
    assert every["log_likelihood"][0] == pytest.approx(-loss)
    aucs = [roc_auc_score(later.click[i][shown[i]], told.at_state[i][shown[i]]) for i in range(30)]
    assert every["auc"][0] == pytest.approx(np.mean(aucs))
    bins = reliability(sums)
    assert sum(bins["events"]) == shown.sum()
    place = np.digitize(told.averaged[shown], np.linspace(0, 1, 11)[1:-1])
    gaps = [abs(np.sum((told.averaged[shown] - later.click[shown])[place == b])) for b in range(10)]
    assert every["calibration_error"][0] == pytest.approx(np.sum(gaps) / shown.sum())
    # the same users drawn twice count twice
    twice = {name: np.concatenate([x, x[:1]]) for name, x in sums.items()}
    weight = np.ones((1, 30))
    weight[0, 0] = 2
    for name, x in measures(twice, np.ones((1, 31))).items():
        assert x == pytest.approx(measures(sums, weight)[name]), name


def test_a_clicked_event_is_ranked_among_skipped_ones_of_its_popularity():
    click = np.array([[True, False, False, False, False, False, False, False]])
    popularity = np.array([[5.0, 5, 5, 5, 6, 6, 9, 1]])
    score = np.array([[0.5, 0.9, 0.1, 0.5, 0.2, 0.3, 0.8, 0.8]])  # the two far ones do not count
    auc, ndcg = matched_ranks(score, click, np.ones_like(click), popularity)
    assert auc[0] == pytest.approx(1 - 1.5 / 5)
    assert ndcg[0] == pytest.approx(1 / np.log2(3.5))
    nobody = matched_ranks(score, np.ones_like(click), np.ones_like(click), popularity)
    assert np.isnan(nobody[0][0])


def test_differences_are_paired(drawn):
    later, told, popularity = drawn
    worse = Told(0.5 + 0 * told.at_state, 0.5 + 0 * told.averaged)
    rungs = {"gaussian": sums_of(later, told, popularity), "prior mean": sums_of(later, worse, popularity)}
    found = summarise(rungs, over=("gaussian",))
    assert found["gaussian"]["over_gaussian"]["log_likelihood"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    gap = found["prior mean"]["over_gaussian"]["log_likelihood"]
    assert gap["mean"] == pytest.approx(np.log(0.5) - found["gaussian"]["log_likelihood"]["mean"])
    assert gap["low"] < gap["mean"] < gap["high"] < 0


def test_the_study_learns_without_the_part_that_it_asks_and_skips_what_too_few_users_have(monkeypatch):
    users, generator = 200, np.random.default_rng(1)
    # users 0 to 9 have 30 rows, the others 8
    rows = np.where(np.arange(users) < 10, 30, 8)
    user = np.repeat(np.arange(users), rows)
    item, click = generator.integers(10, size=len(user)), generator.uniform(size=len(user)) < 0.5
    train = Interactions(user, item, click, np.arange(len(user)), click.astype(np.float32))
    empty = train.where(np.zeros(len(user), bool))
    log = replace(log_with(TRAIN, TRAIN), user_ids=np.arange(users), train=train, test=empty)
    monkeypatch.setattr(study, "log_of", lambda config: log)
    learnt = []
    monkeypatch.setattr(study, "learn", lambda key, config, starts, num_items: learnt.append(starts))

    def told_by(key, config, learnt, later):
        half = np.full(later.item.shape, 0.5)
        return ((name, Told(half, half)) for name in RUNGS)

    monkeypatch.setattr(study, "told_by", told_by)
    said = []
    result = run_ladder(Config(), Ladder(lengths=(5, 20), rounds=5), said.append)
    assert [starts.first.shape[0] - 1 for starts in learnt] == [160] * 5
    assert result["events"]["5"]["users"] == users  # every user is held out once
    assert result["events"]["5"]["later"] == 10 * 25 + 190 * 3
    assert result["events"]["5"]["rungs"]["mixture"]["log_likelihood"]["mean"] == pytest.approx(np.log(0.5))
    assert result["events"]["20"] == {
        "users": 10,
        "skipped": "10 held-out users have 20 events and a later one: 30 are needed",
    }
    assert len(list(ladder_tables(result))) == 2
    for bad in (Ladder(rounds=6), Ladder(lengths=(30,)), Ladder(lengths=())):
        with pytest.raises(InputError):
            run_ladder(Config(), bad, said.append)
