"""What a caller of an exported policy gets: by their own ids, of any number, without what may not be shown."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.errors import InputError
from dsrm_jax.serving.load import load_policy
from tests.serving.test_export import CONFIG, ITEMS, RAW, K, export, path, policy, random_histories, trained  # noqa: F401

POPULAR = 5


@pytest.fixture(scope="module")
def shown(trained):  # noqa: F811
    """Raw ids of the catalogue, and those of them that are popular."""
    raw = RAW[np.asarray(trained.world.item)].tolist()
    return raw, set(raw[:POPULAR])


def test_more_than_a_slate_is_the_next_slates_and_fewer_is_its_start(policy, shown):  # noqa: F811
    """The whole catalogue at most, each item once; a list for k begins as one for less than K does."""
    histories = dict(zip("abcdefg", random_histories(1, 7), strict=True))
    whole = policy.recommend(histories, k=ITEMS, exclude=None, scores=True)
    assert all(sorted(whole[user]) == sorted(shown[0]) for user in histories)
    for k in range(1, ITEMS):
        part = policy.recommend(histories, k=k, exclude=None, scores=True)
        np.testing.assert_array_equal(part.item, whole.item[:, :k])
        np.testing.assert_array_equal(part.score, whole.score[:, :k])
    again = policy.recommend(histories, exclude=None)
    for user in histories:  # the second slate is the first of a user who must not be shown the first
        following = policy.recommend({user: histories[user]}, exclude=again[user])[user]
        assert whole[user][K : 2 * K] == following


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_nothing_that_may_not_be_shown_is_and_all_else_can_be(policy, shown, data):  # noqa: F811
    catalogue = shown[0]
    histories = random_histories(data.draw(st.integers(0, 999)), data.draw(st.integers(1, 20)))
    allowed = data.draw(st.none() | st.lists(st.sampled_from(catalogue), min_size=1, unique=True))
    pool = set(catalogue if allowed is None else allowed)
    exclude = data.draw(st.sampled_from(["seen", None]) | st.lists(st.sampled_from(RAW.tolist())))
    if isinstance(exclude, list):
        pool -= set(exclude)
    if not pool:
        with pytest.raises(InputError, match="0 of the policy's 12 items may be recommended"):
            policy.recommend(histories, k=1, exclude=exclude, allowed=allowed)
        return
    k = data.draw(st.integers(1, len(pool)))
    found = policy.recommend(histories, k=k, exclude=exclude, allowed=allowed)
    for user, history in enumerate(histories):
        left = pool - ({item for item, _ in history} if exclude == "seen" else set())
        assert len(set(found[user])) == len(found[user]) == found.count[user] == min(k, len(left))
        assert set(found[user]) <= left


def test_an_answer_does_not_depend_on_who_else_is_asked_for(policy):  # noqa: F811
    """Bit for bit, at any place in batches of any size; and nothing is compiled for it."""
    histories = dict(enumerate(random_histories(7, 50)))
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    together = policy.recommend(histories, k=7, scores=True)
    rng = np.random.default_rng(0)
    for size in (1, 3, 17, 50):
        chosen = rng.permutation(50)[:size].tolist()
        apart = policy.recommend({user: histories[user] for user in chosen}, k=7, scores=True)
        np.testing.assert_array_equal(apart.item, together.item[chosen])
        np.testing.assert_array_equal(apart.score, together.score[chosen])
        assert apart.user == chosen
    assert [name for name in compiled if "compile" in name] == []
    jax.jit(lambda x: x + 1)(rng.random(3))  # what compiles is noticed
    assert [name for name in compiled if "compile" in name]
    jax.monitoring.clear_event_listeners()


def test_strangers_are_answered_and_marked_and_unknown_items_counted_and_named(policy):  # noqa: F811
    known, other = int(RAW[3]), 4
    found = policy.recommend(
        {"new": [], "odd": [(other, True), (other, False), (7, True)], "old": [(known, True), (other, True)]}
    )
    assert found.stranger.tolist() == [True, True, False]
    assert found.known.tolist() == [0, 0, 1]
    assert found.unknown == {other: 3, 7: 1}
    assert found["new"] == found["odd"]
    assert found.user == list(found) == ["new", "odd", "old"]
    assert len(found) == 3
    with pytest.raises(KeyError):
        found["nobody"]


def test_times_and_unlogged_may_be_given_by_user(policy):  # noqa: F811
    histories = dict(zip("ab", random_histories(2, 2), strict=True))
    by_user = policy.recommend(histories, {"b": 3, "a": 1}, {"b": 2, "a": 4})
    np.testing.assert_array_equal(by_user, policy.recommend(list(histories.values()), [1, 3], [4, 2]))
    with pytest.raises(InputError, match="1 times for 2 histories"):
        policy.recommend(histories, {"a": 1})


@pytest.mark.parametrize(
    ("histories", "words"),
    [
        (["cust-00001"], "history of user 0 is 'cust-00001'; expected that user's events"),
        ("cust-00001", "histories are 'cust-00001'"),
        (7, "histories are 7"),
        ({"cust-00001": 5}, "history of user 'cust-00001' is 5"),
        ({"cust-00001": ["ab", "cd"]}, "holds 'ab'; expected pairs"),
        ({"cust-00001": [5, 15]}, "holds 5; expected pairs"),
        ({"cust-00001": [(5, True, 0.3)]}, r"holds \(5, True, 0.3\)"),
        ([[(5, 4.5)]], "says 4.5 of item 5; expected whether it was clicked"),
        ([[("5", True)]], "history 0 holds item ids such as '5'"),
        ([[(5, True), ("x", True)]], "history 0 holds item ids such as 'x'"),
    ],
)
def test_what_is_no_history_is_refused_with_the_right_call(policy, histories, words):  # noqa: F811
    with pytest.raises(InputError, match=words) as caught:
        policy.recommend(histories)
    assert "item ids such as" in words or "recommend({'cust-00001': [('item-7', True)" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 13}, "k is 13, and 12 of the policy's 12 items may be recommended; expected a number from 1 to 12"),
        ({"k": 0}, "k is 0"),
        ({"k": 2.5}, "k is 2.5"),
        ({"exclude": "sene"}, "exclude is 'sene'; expected 'seen'"),
        ({"allowed": "5"}, "allowed is '5'; expected a list of item ids"),
        ({"allowed": ["5"]}, "allowed holds item ids such as '5', and the policy knows ids such as 5"),
        ({"exclude": 5}, "exclude is 5; expected a list"),
    ],
)
def test_options_that_cannot_be_are_refused(policy, options, words):  # noqa: F811
    with pytest.raises(InputError, match=words):
        policy.recommend([[]], **options)


def test_an_agent_that_ignores_what_is_excluded_is_found_out(trained, tmp_path, monkeypatch):  # noqa: F811
    """An agent of one's own may never look at `view.excluded`; it is not silently obeyed."""
    from tests.serving import test_export

    agent = test_export.agent_of(CONFIG)
    deaf = agent._replace(act=lambda s, key, view, *rest: agent.act(s, key, view.replace(excluded=None), *rest))
    monkeypatch.setattr(test_export, "agent_of", lambda config: deaf)
    export(tmp_path / "deaf.dsrm", CONFIG, trained, platforms=("cpu",), facts={"method": "my_lab:agent"})
    deaf_policy = load_policy(tmp_path / "deaf.dsrm")
    assert deaf_policy.recommend([[]], exclude=None).count.tolist() == [K]
    with pytest.raises(InputError, match="my_lab:agent shows items that it was told to leave out"):
        deaf_policy.recommend([[]], k=K + 1)
