"""Sentences say what the intervals say, whatever they are."""

import math

from hypothesis import given
from hypothesis import strategies as st

from dsrm_jax.evaluation.verdicts import held_out_states, verdicts, warnings

steps = st.floats(1, 50)


def of(mean: float, ad: float = 0.0, sessions: int = 3_000) -> dict:
    return {
        "length": {"mean": mean, "low": mean - 1, "high": mean + 1},
        "ad": {"mean": ad, "low": ad, "high": ad},
        "seeds": [{}, {}, {}],
        "sessions": sessions,
    }


def gap(mean: float, half: float) -> dict:
    return {"length": {"mean": mean, "low": mean - half, "high": mean + half}}


def table(trained=27.8, raw=26.2, purified=27.8, oracle=28.6, half=0.1, **changes) -> dict:
    first = of(trained, **changes) | {"difference": {"quota_greedy": gap(trained - raw, half)}}
    first["difference"]["quota_greedy_purified"] = gap(trained - purified, half)
    return {"dsrm_hrl": first, "quota_greedy": of(raw), "quota_greedy_purified": of(purified), "oracle": of(oracle)}


def test_the_readmes_table_in_words():
    assert verdicts(table()) == [
        "DSRM-HRL keeps users 1.6 steps longer than ranking by what they clicked, half and half (27.8 against 26.2 steps, "
        "interval +1.50 to +1.70), 67% of what knowing them perfectly would add.",
        "Reinforcement learning adds nothing over ranking by the purified state here (Len +0.00, interval -0.10 to +0.10).",
    ]


@given(steps, steps, steps, st.floats(0.01, 5))
def test_words_follow_the_intervals(trained, raw, purified, half):
    said = " ".join(verdicts(table(trained, raw, purified, half=half)))
    apart = {
        name: trained - other for name, other in (("raw", raw), ("purified", purified)) if abs(trained - other) > half
    }
    assert ("steps longer" in said) == (apart.get("raw", 0) > 0)
    assert ("LESS long" in said) == (apart.get("raw", 0) < 0)
    if raw != purified:
        assert ("adds nothing" in said) == ("purified" not in apart)
        assert ("COSTS" in said) == (apart.get("purified", 0) < 0)


def test_the_same_state_twice_is_compared_with_once():
    assert len(verdicts(table(purified=26.2))) == 1


def test_one_seed_of_one_session_is_apart_from_nothing():
    said = verdicts(table(half=math.nan))
    assert "no longer" in said[0]
    assert "interval unknown" in said[0]


@given(steps, steps, steps)
def test_random_slates_that_are_not_clearly_behind_are_named_first(trained, random, half):
    results = table(trained) | {"random": of(random), "quota_random": of(half)}
    best = max(random, half)
    said = [text for text in verdicts(results) if "know nobody" in text]
    assert len(said) == (best + 1 >= trained - 1)
    if said:
        assert verdicts(results)[0] == said[0]
        assert f"{best:.1f} steps against {trained:.1f}" in said[0]


def test_what_balance_was_paid_is_said():
    assert verdicts(table(ad=0.3))[-1] == "It is less balanced for it: AD 0.30 against 0.00."
    assert len(verdicts(table(ad=0.04))) == 2


def test_nothing_worries_about_a_good_run():
    log = {"train": {"rows": 100_000, "users": 1_000, "items": 2_000}}
    facts = {"data": log, "probes": {"recovery": [0.2, 0.3]}, "worlds": {"source": "x", "test": {"auc": 0.7}}}
    assert warnings(facts, table()) == []


def test_each_worry_is_said_with_its_number():
    log = {"train": {"rows": 900, "users": 150, "items": 300}}
    facts = {"data": log, "probes": {"recovery": [-0.3, -0.24]}, "worlds": {"source": "x", "test": {"auc": 0.51}}}
    facts["choice"] = {"chosen": "observed"}
    said = warnings(facts, table(sessions=300))
    few = ("100 sessions a seed", "150 users", "3.0 rows per item", "6.0 rows per user", "(AUC 0.51)")
    found = ("27% FURTHER", "given the observed state", *few)
    assert len(said) == len(found)
    for text, number in zip(said, found, strict=True):
        assert number in text
    facts["choice"] = {"chosen": "guided"}  # whose later clicks spoke for it
    assert len(warnings(facts, table(sessions=300))) == len(few)


def test_the_check_on_held_out_states_says_which_way_they_moved():
    def said(*recovery, **facts):
        return held_out_states({"probes": {"change": [3.8] * len(recovery), "recovery": [*recovery]}} | facts)

    assert "nearer to it than the observed state, by 25% of the squared distance" in said(0.2, 0.3)
    assert "further from it than the observed state, by 82% of the squared distance" in said(-0.8, -0.84)
    assert "as far from it as the observed state (" in said(0.0)
    assert said(-0.82).endswith("moves a state by 3.8 of its lengths)")
    assert said(-0.82, choice={}).endswith("; the choice above goes by clicks, not by this distance")
    assert said(0.82, choice={}).endswith("of its lengths)")


def test_a_ranking_no_better_than_popularity_is_a_worry():
    for low, worries in ((-0.001, 1), (0.001, 0)):
        facts = {"choice": {"chosen": "guided", "over_popularity": {"mean": 0.004, "low": low, "high": 0.009}}}
        said = warnings(facts, table())
        assert len(said) == worries
        assert all(
            "do not expect more of a ranking by it than of popularity" in text and "+0.0040, interval -0.0010" in text
            for text in said
        )
    facts["choice"]["over_popularity"] = {"mean": 0.004, "low": None, "high": None}  # one user tells no spread
    assert warnings(facts, table()) == []
