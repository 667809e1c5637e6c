"""The bench counts work correctly and says what it did."""

import jax
import jax.numpy as jnp
import pytest

from dsrm_jax import bench
from dsrm_jax.bench.floor import matrix_products
from dsrm_jax.errors import InputError
from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.training.loop import make_trainer


def test_the_floor_counts_matrix_products_inside_scans():
    def program(x, w):
        def step(x, _):
            return jnp.tanh(x @ w), None

        return jax.lax.scan(step, x, length=7)[0]

    products = matrix_products(program, jnp.zeros((3, 5)), jnp.zeros((5, 5)))
    assert sum(count for count in products.values()) == 7
    assert {p.operations for p in products} == {2 * 3 * 5 * 5}


@pytest.mark.parametrize(
    ("size", "items", "users", "slate_size"), [("easyrl4rec", 3327, 100, 1), ("kuaisim", 5637, 32, 6)]
)
def test_sizes_of_other_systems_do_their_work_in_one_iteration(size, items, users, slate_size):
    """Traced, not run: what the loop takes and gives has the sizes that the name stands for."""
    chosen = bench.SIZES[size]
    prepared = chosen.prepare(chosen.config, print)
    world, trainer = prepared.worlds.train, make_trainer(chosen.config)
    state = jax.eval_shape(trainer.init, jax.random.key(0), world, prepared.perception)
    after, metrics = jax.eval_shape(trainer.iterate, state, world, prepared.perception)
    assert world.num_items == items
    assert after.env.user.shape == (users,)
    assert make_environment(chosen.config.environment).slate_size == slate_size
    assert metrics["reward"].shape == ()


@pytest.mark.parametrize(("size", "repeats", "word"), [("papr", 1, "paper"), ("tiny", 0, "repeats")])
def test_bad_arguments_are_refused(size, repeats, word):
    with pytest.raises(InputError, match=word):
        bench.run(size, repeats=repeats)
