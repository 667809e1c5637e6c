"""The ledger's negative controls: pieces that take away what claims are about, and a pipeline that then loses the claims."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents.dsrm_hrl import make_dsrm_hrl
from dsrm_jax.purify.purifier import identity_purifier
from dsrm_jax.purify.view import View
from experiments.report import pieces
from experiments.report.claims import HOLDS, judge_all, load_claims
from experiments.report.findings import Findings, read_results
from experiments.report.negative import about, own_name, spoilt
from experiments.report.plan import CLAIMS, plans_folder
from experiments.report.variants import variant
from tests.experiments.catalogues import drawn_catalogue

# what rows would earn, R_each and share of slates off balance, were purifier and manager what they are said to be
EARNED = {
    "dsrm_hrl": (0.9, 0.0), "dsrm_hrl+worker_alone": (0.85, 0.0), "flat": (0.84, 0.02), "hrl": (0.7, 0.0),
    "hrl+skips": (0.75, 0.0), "quota_greedy_purified": (0.8, 0.0), "quota_greedy_purified+untrained": (0.6, 0.0),
    "quota_greedy_purified+gaussian": (0.7, 0.0), "quota_greedy": (0.65, 0.0), "dnair_dsrm": (0.8, 0.0), "dnair": (0.6, 0.1),
    "dsrm_hrl+shuffled": (0.5, 0.0), "quota_greedy_purified+shuffled": (0.5, 0.0), "dnair_dsrm+shuffled": (0.5, 0.0),
    "flat+shuffled": (0.5, 0.0), "dsrm_hrl+random_goal": (0.7, 0.6),
}  # fmt: skip


@pytest.mark.parametrize("control", ["shuffled", "random_goal"])
def test_the_pipeline_loses_the_claims_about_what_was_taken_away(agenda, make_result, tmp_path, control):
    claims = load_claims(plans_folder() / CLAIMS)

    def verdicts(points, name_of):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for point in points.first:
            make_result(point, folder, lambda name: EARNED.get(name, (0.4, 0.5)))
        results, numbers = read_results(points.points, folder, name_of=name_of)
        findings = Findings(folder=folder, results=results, points=points.points, numbers=numbers)
        return {j.claim.id: j.verdict for j in judge_all(about(claims, control), findings)}

    whole = spoilt(agenda, claims, control)
    names = {own_name(p.config, control) for p in whole.first}
    intact = {
        plan: [p for p in members if variant(p.config) in names and p.config.environment.max_len == 30]
        for plan, members in agenda.points.items()
        if plan in whole.points
    }
    assert sum(map(len, intact.values())) == sum(map(len, whole.points.values()))
    first = {p.name: p for members in intact.values() for p in members}
    before = verdicts(SimpleNamespace(points=intact, first=list(first.values())), lambda c: own_name(c, control))
    after = verdicts(whole, lambda c: own_name(c, control))
    assert before.keys() == after.keys()
    held = {name for name, verdict in before.items() if verdict == HOLDS}
    assert len(held) >= 4
    assert not {name for name, verdict in after.items() if verdict == HOLDS} - {"pareto"}  # see the table of noise


def test_nobodys_state_is_no_state_and_shuffled_states_are_anothers(monkeypatch):
    state = jnp.arange(12.0).reshape(4, 3)
    assert not pieces.nobody().purify({}, None, state, None).any()
    monkeypatch.setattr(pieces, "make_purifier", lambda **settings: identity_purifier())
    made = pieces.shuffled(diffusion_steps=5)
    np.testing.assert_array_equal(made.purify({}, None, state, None), np.roll(state, 1, axis=0))
    assert made.draws  # whole batches: a block of one user would get that user's own state back


def test_goals_drawn_at_random_unbalance_slates_and_no_manager_never_does():
    rng = np.random.default_rng(0)
    users, dim = 200, 4
    catalogue = drawn_catalogue(rng, dim=dim)
    state = jnp.asarray(rng.normal(size=(users, dim)), jnp.float32)
    view = View(state, state, jnp.zeros(users, jnp.int32))

    def popular(manager, key=0):
        agent = make_dsrm_hrl(slate_size=6, hidden=8, manager=manager)
        policy = agent.init(jax.random.key(1), catalogue)
        return np.asarray(
            jnp.sum(catalogue.is_popular[agent.act(policy, jax.random.key(key), view, catalogue)[0]], axis=1)
        )

    assert set(popular(pieces.worker_alone(8)).tolist()) == {3}
    drawn = popular(pieces.random_goal(8))
    np.testing.assert_array_equal(drawn, popular(pieces.random_goal(8), key=7))  # of state and clock alone
    raw = jax.random.normal(jax.random.key(3), (100_000,))  # of a raw output: the share of the slate is its sigmoid
    expected = np.bincount(np.ceil(6 * jax.nn.sigmoid(-raw) - 0.5).astype(int), minlength=7) / len(raw)
    np.testing.assert_allclose(np.bincount(drawn, minlength=7) / users, expected, atol=0.1)
