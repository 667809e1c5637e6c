"""The planner against exhaustive search in the environment's own functions, SciPy, and its own rule played."""

import io
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from dsrm_jax.simulator import mechanism
from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.mechanism import with_mechanisms
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.satisfaction import make_satisfaction
from experiments.worlds import planning, rules
from experiments.worlds.bounds import Study, bounds
from experiments.worlds.planning import Effects
from experiments.worlds.population import known, only
from experiments.worlds.studies import WORLDS, study_of
from experiments.worlds.table import worlds_table
from tests.simulator.worlds import make_world

SIZE = 2


def tiny(rows, *, slope, max_len, ad_penalty=0):
    """An environment of slates of two, four items of which two are popular, and as many users as rows of click probabilities."""
    satisfaction = make_satisfaction(slope=slope, memory=0.6)
    environment = make_environment(
        slate_size=SIZE, max_len=max_len, history_length=4, ad_penalty=ad_penalty, mechanisms=[satisfaction]
    )
    table = jnp.asarray(rows, jnp.float32)
    world = make_world(TableResponse(table), num_items=table.shape[1], rows=[2] * len(rows))
    return environment, with_mechanisms(jax.random.key(4), world, [satisfaction])


def exhaustive(environment, world, user):
    """Return the most that any rule earns of a user: all sets of items, all clicks, by the environment's functions alone."""
    slates = jnp.asarray(list(combinations(range(world.num_items), SIZE)), jnp.int32)
    outcomes = np.asarray(list(product([False, True], repeat=SIZE)))
    user = jnp.int32(user)
    mechanisms = environment.mechanisms
    history = environment.reset(jax.random.key(0), world)[1].history

    @jax.jit
    def after(exposure):
        begun = mechanism.begin(jax.random.key(0), mechanisms, user, jnp.float32(0), world)
        memory = begun | {"satisfaction": exposure}

        def one(slate):
            chance = world.response.click_probability(user, slate, history)
            chance = mechanism.felt(chance, mechanisms, memory, user, slate, world)
            moved = mechanism.advance(jax.random.key(0), mechanisms, memory, user, slate, jnp.zeros(SIZE, bool), world)
            return chance, moved["satisfaction"]

        return jax.vmap(one)(slates)

    start = environment.leave.start()
    popular = np.asarray(world.is_popular)[np.asarray(slates)].sum(axis=1)
    leave = {
        (temper, n, tuple(clicks)): environment.leave.step(jnp.int32(temper), jnp.asarray(clicks), jnp.int32(n))
        for temper in range(int(start) + 1)
        for n in range(SIZE + 1)
        for clicks in outcomes
    }
    leave = {key: (int(temper), bool(left)) for key, (temper, left) in jax.device_get(leave).items()}
    look = lru_cache(lambda exposure: jax.device_get(after(jnp.float32(exposure))))

    @lru_cache
    def best(temper, exposure):
        chances, following = look(exposure)
        worth = []
        for chance, n, later in zip(chances.astype(np.float64), popular, following, strict=True):
            value = 0.0
            for clicks in outcomes:
                likely = np.prod(np.where(clicks, chance, 1 - chance))
                temper_after, left = leave[temper, int(n), tuple(clicks)]
                value += likely * (clicks.mean() + (0.0 if left else best(temper_after, float(later))))
            worth.append(value)
        return max(worth)

    return best(int(start), 0.4)


ROWS = [[0.9, 0.5, 0.7, 0.45], [0.95, 0.9, 0.9, 0.2], [0.6, 0.6, 0.3, 0.5]]


@pytest.mark.parametrize(("slope", "ad_penalty"), [(0.0, 0), (9.0, 0), (9.0, 1)])
def test_the_program_is_the_best_of_all_rules(slope, ad_penalty):
    environment, world = tiny(ROWS, slope=slope, max_len=5, ad_penalty=ad_penalty)
    effects = Effects(slate_size=SIZE, max_len=5, slope=slope, decay=0.6)
    grid = planning.make_grid(effects, exposures=401)
    users, _ = known(environment, only(world, jnp.arange(len(ROWS))))
    found = jax.jit(
        jax.vmap(lambda user: planning.at_arrival(planning.plan(user, effects, grid, jnp.arange(3)), effects, grid))
    )(users)
    expected = [exhaustive(environment, world, user) for user in range(len(ROWS))]
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_a_mean_over_moods_is_the_integral():
    nodes = np.array([-2.0, -1.0, 0.5, 3.0])
    values = np.array([1.0, -2.0, 0.3, 4.0])
    z = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    for mean, deviation in [(0.0, 1.0), (1.7, 0.4), (-5.0, 0.7)]:
        expected = np.interp(mean + deviation * z, nodes, values).mean()
        assert planning.hat_weights(nodes, mean, deviation) @ values == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", WORLDS)
def test_what_the_planner_believes_is_what_the_environment_does(name):
    """Clicks, memory, patience and return of every count's best slate, at a net exposure and a mood of its own each."""
    preset, overrides = WORLDS[name]
    study = study_of(preset, **overrides)
    environment, effects = study.environment, study.effects
    table = jnp.asarray(np.random.default_rng(1).uniform(0.05, 0.95, (3, 30)), jnp.float32)
    world = with_mechanisms(
        jax.random.key(0), make_world(TableResponse(table), num_items=30, rows=[5, 2, 9]), environment.mechanisms
    )
    small = only(world, jnp.asarray([2, 0]))
    users, items = known(environment, small)
    key = jax.random.key(1)

    def compare(index, count, exposure, mood):
        user = jax.tree.map(lambda x: x[index], users)
        slate = rules.fill(items, index[None], count[None])[0]
        own = {"satisfaction": exposure, "retention": exposure, "mood": mood}
        begun = mechanism.begin(key, environment.mechanisms, index, jnp.float32(0), small)
        memory = begun | {name: own[name] for name in begun if name in own}
        history = environment.reset(key, small)[1].history
        chance = small.response.click_probability(index, slate, history)
        felt = mechanism.felt(chance, environment.mechanisms, memory, index, slate, small)
        believed = jax.nn.sigmoid(planning.count_logits(user, effects, exposure, mood)[count])
        moved = mechanism.advance(key, environment.mechanisms, memory, index, slate, felt > 2, small)
        after = next((moved[name] for name in rules.TIRING if name in moved), exposure)
        cost = mechanism.total_cost(environment.mechanisms, memory, index, slate, small) + 12
        taken = environment.leave.start() - environment.leave.step(environment.leave.start(), felt > 2, count)[0]
        back = [
            m.returns(memory[m.name], mechanism.trait_of(m, index, small)) for m in environment.mechanisms if m.returns
        ]
        likely = [study.returns(exposure[None], user)[0]] if study.returns else []
        lost = planning.losses(user, effects)[count, 0]
        still = after if effects.slope == 0 and not back else planning.next_exposure(effects, exposure)[count]
        return (felt, after, cost + taken - 12, back), (believed, still, lost, likely)

    grids = jnp.meshgrid(jnp.arange(2), jnp.arange(7), jnp.asarray([0.1, 0.9]), jnp.asarray([-1.5, 0.0]), indexing="ij")
    if effects.mood_deviation == 0:
        grids[3] = jnp.zeros_like(grids[3])
    there, believed = jax.jit(jax.vmap(compare))(*(x.ravel() for x in grids))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), there, believed)
    assert environment.max_steps == effects.max_len * study.visits


def test_the_bound_is_what_its_rule_earns_and_no_rule_earns_more():
    satisfaction = make_satisfaction(slope=9.0)
    environment = make_environment(max_len=8, history_length=6, ad_penalty=0, mechanisms=[satisfaction])
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.beta(2, 2, (24, 40)) ** np.where(np.arange(40) % 2, 1.5, 0.5), jnp.float32)
    world = with_mechanisms(
        jax.random.key(0), make_world(TableResponse(table), num_items=40, rows=[2] * 24), [satisfaction]
    )
    study = Study(environment, Effects(max_len=8, slope=9.0))
    found = bounds(study, world, jax.random.key(3), num_users=12, sessions=100)
    assert abs(found["played"]["mean"]) < 0.08, "within 4.5 standard errors of the luck of 1,200 sessions"
    assert all(row["behind"]["high"] > 0 for name, row in found["rows"].items() if name != "planned")
    assert found["rows"]["myopic"]["behind"]["low"] > 0, "there is something to plan"
    off = Study(make_environment(max_len=8, history_length=6, ad_penalty=0), Effects(max_len=8))
    found = bounds(off, replace(world, traits=None), jax.random.key(3), num_users=12, sessions=20)
    assert found["rows"]["myopic"]["behind"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert "planned less it" in rendered(worlds_table({"source": "tiny", "worlds": {"off": found}}))


def rendered(table):
    console = Console(width=160, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_random_sets_are_all_equally_likely():
    drawn = np.sort(rules.draw_distinct(jax.random.key(0), 5, 3, 20_000), axis=1)
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 10
    assert stats.chisquare(counts).pvalue > 1e-3
