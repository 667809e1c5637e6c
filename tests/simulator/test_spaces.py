"""Spaces: what they draw they contain, uniformly, and nothing else."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dsrm_jax.simulator.spaces import Box, Product, Slates


@pytest.mark.parametrize(("num_items", "slate_size"), [(4, 4), (5, 3)])
def test_slates_are_uniform_over_all_ordered_slates_of_distinct_items(num_items, slate_size):
    keys = jax.random.split(jax.random.key(0), 12000)
    drawn = np.asarray(jax.jit(jax.vmap(Slates(num_items, slate_size).sample))(keys))
    every = {slate: i for i, slate in enumerate(permutations(range(num_items), slate_size))}
    count = np.bincount([every[tuple(slate)] for slate in drawn.tolist()], minlength=len(every))
    assert stats.chisquare(count).pvalue > 1e-3


@pytest.mark.parametrize(
    ("slate", "inside"),
    [
        ([0, 4, 2], True),
        ([0, 4, 0], False),
        ([0, 5, 2], False),
        ([-1, 4, 2], False),
        ([0, 4], False),
        ([0.0, 4.0, 2.0], False),
    ],
)
def test_slates_contain_distinct_positions_of_the_catalogue(slate, inside):
    assert bool(Slates(5, 3).contains(jnp.asarray(slate))) is inside


def test_box_draws_its_whole_range_and_contains_its_bounds():
    box = Box(-1, 2, (400,))
    drawn = box.sample(jax.random.key(0))
    assert set(drawn.tolist()) == {-1, 0, 1, 2}
    assert bool(box.contains(drawn))
    assert not bool(box.contains(drawn.at[7].set(3)))
    assert not bool(box.contains(drawn[:-1]))
    assert not bool(box.contains(drawn.astype(jnp.float32)))
    assert set(Box(0, 1, (50,), jnp.bool_).sample(jax.random.key(0)).tolist()) == {False, True}


def test_product_checks_structure_and_every_leaf():
    space = Product({"a": Box(0, 3), "b": (Slates(5, 2), Box(0, 9, (2,)))})
    element = jax.jit(space.sample)(jax.random.key(0))
    assert space.shape == {"a": (), "b": ((2,), (2,))}
    assert bool(space.contains(element))
    assert not bool(space.contains(element | {"a": jnp.int32(4)}))
    assert not bool(space.contains({"a": element["a"]}))
