"""Figure 2 on made-up items: counts correlate whatever the rates, rates only where rates follow popularity."""

import numpy as np
import pytest
from scipy import stats

from dsrm_jax.data.log import InteractionLog, Interactions
from experiments.report.data_facts import STATISTICS, data_facts, item_statistics, popularity_against_reward, r_squared


@pytest.fixture
def shown():
    return np.floor(np.exp(np.random.default_rng(0).normal(6, 1.2, 3000)))


def test_rates_independent_of_popularity_still_correlate_as_counts(shown):
    rate = np.clip(np.random.default_rng(1).normal(0.645, 0.2, len(shown)), 0, 1)
    found = popularity_against_reward(shown, shown * rate)
    assert found["counts"] > 0.8
    assert found["shuffled"] == pytest.approx(found["counts"], abs=0.05)
    assert found["rates"] < 0.01
    kept = shown >= 20
    assert found["items"] == kept.sum()
    expected = stats.pearsonr(shown[kept], (shown * rate)[kept]).statistic ** 2
    assert found["counts"] == pytest.approx(expected, rel=1e-9)


def test_rates_that_follow_popularity_are_found_and_their_shuffle_is_not(shown):
    rate = stats.rankdata(shown) / (len(shown) + 1)
    found = popularity_against_reward(shown, shown * rate)
    assert found["log_rates"] > 0.9
    assert found["shuffled"] < found["counts"] - 0.05
    control = popularity_against_reward(shown, shown * np.random.default_rng(2).permutation(rate))
    assert control["log_rates"] < 0.01


def test_a_constant_column_has_no_correlation():
    assert np.isnan(r_squared(np.ones(5), np.arange(5.0)))


def test_shared_users_and_clicks_of_a_log():
    def rows(user, item, click):
        n = len(user)
        return Interactions(
            np.array(user, np.int32), np.array(item, np.int32), np.array(click), np.arange(n), np.ones(n, np.float32)
        )

    log = InteractionLog(
        name="made", source="made", user_ids=np.arange(4), item_ids=np.arange(3),
        train=rows([0, 0, 1], [0, 1, 0], [True, False, True]), test=rows([1, 2, 3, 3], [0, 1, 2, 0], [True] * 4),
        catalogue=np.arange(3), categories=np.zeros((3, 0), bool),
    )  # fmt: skip
    assert data_facts(log)["shared_users"] == pytest.approx(1 / 3)


def test_the_papers_own_columns_are_read_where_their_file_is(tmp_path):
    assert item_statistics(tmp_path) is None
    (tmp_path / STATISTICS).write_text("video_id,show_user_num,play_user_num\n1,30,15\n2,50,\n")
    shown, played = item_statistics(tmp_path)
    assert shown.tolist() == [30, 50]
    assert played.tolist() == [15, 0]
