"""A size's loop does the work that its name stands for, and a large one holds nothing of users x items."""

from dataclasses import replace

import jax
import pytest
from jax.extend import core

from dsrm_jax.runs.pieces import environment_of, trainer_of
from experiments import bench
from experiments.bench.work import make_work
from experiments.bench.worlds import factor_world


@pytest.mark.parametrize(
    ("size", "items", "users", "slate_size"), [("easyrl4rec", 3327, 100, 1), ("kuaisim", 5637, 32, 6)]
)
def test_sizes_of_other_systems_do_their_work_in_one_iteration(size, items, users, slate_size):
    """Traced, not run: what the loop takes and gives has the sizes that the name stands for."""
    chosen = bench.SIZES[size]
    prepared = chosen.prepare(chosen.config, print)
    world, trainer = prepared.worlds.train, trainer_of(chosen.config)
    state = jax.eval_shape(trainer.init, jax.random.key(0), world, prepared.perception)
    after, metrics = jax.eval_shape(trainer.iterate, state, world, prepared.perception)
    assert world.num_items == items
    assert after.env.user.shape == (users,)
    assert environment_of(chosen.config).slate_size == slate_size
    assert metrics["reward"].shape == ()


def test_fcpo_trains_as_its_command_does():
    """One constrained step an iteration, on ten items shown to each of MovieLens-100K's 943 users."""
    chosen = bench.SIZES["fcpo"]
    data = chosen.prepare(chosen.config, print)
    assert data.train.liked.shape == data.test.barred.shape == (943, 1682)
    for process in (data.train, data.test):
        assert not (process.liked & process.barred).any()
        assert (process.barred.sum(1) >= 1).all()
        assert float(process.liked.sum(1).mean()) > 20
    work = make_work(chosen, data)
    assert work.shape["users"] * work.shape["steps_per_update"] == 9430
    loop = next(part for part in work.parts if part.name == "loop")
    _, history = jax.eval_shape(loop.function, *loop.args)
    assert history["reward"].shape == (loop.updates,)


def arrays_made(jaxpr):
    """Every array that a traced program makes, in whatever it calls or loops over."""
    for equation in jaxpr.eqns:
        yield from (variable.aval for variable in equation.outvars)
        for body in core.jaxprs_in_params(equation.params):
            yield from arrays_made(body)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_loop_of_a_large_world_holds_nothing_of_users_by_items():
    """All of it, traced: rollout, perception, environment and update, with more items than are multiplied out."""
    config, items = bench.SIZES["large"].config, 100_000
    prepared = factor_world(300, items)(config, print)
    world, perception = prepared.worlds.train, prepared.perception
    perception = replace(perception, purifier=jax.tree.map(lambda x: x[0], perception.purifier))
    trainer = trainer_of(config)
    state = jax.eval_shape(trainer.init, jax.random.key(0), world, perception)
    program = jax.make_jaxpr(trainer.iterate)(state, world, perception)
    largest = max(aval.size for aval in arrays_made(program.jaxpr))
    assert largest < 24 * items, "the item tables have 20 numbers an item, 64 users would have 64"
