"""What a part takes at least, by what it does and what the machine can."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench.products import Draw, operations, random_bits, work_of
from experiments.bench.roofline import BITS, BYTES, OPERATIONS, Machine, bytes_of, limit_of, measure_machine


def test_the_slowest_of_three_binds():
    machine = Machine(operations=100.0, bytes=10.0, random_bits=1.0)
    for work, milliseconds, binds in (
        ({OPERATIONS: 300, BYTES: 20, BITS: 1}, 3000, OPERATIONS),
        ({OPERATIONS: 300, BYTES: 40, BITS: 1}, 4000, BYTES),
        ({OPERATIONS: 300, BYTES: 40, BITS: 5}, 5000, BITS),
    ):
        assert limit_of(work, machine) == {"milliseconds": pytest.approx(milliseconds), "binds": binds}


def test_random_bits_are_counted_inside_scans():
    def program(key, x):
        def step(x, key):
            return x + jax.random.uniform(key, (3, 5)) @ jax.random.bits(key, (5, 5), jnp.uint16).astype(
                jnp.float32
            ), None

        return jax.lax.scan(step, x, jax.random.split(key, 7))[0]

    counts = work_of(program, jax.random.key(0), jnp.zeros((3, 5)))
    assert {done: times for done, times in counts.items() if isinstance(done, Draw)} == Counter(
        {Draw(3 * 5 * 32): 7, Draw(5 * 5 * 16): 7}
    )
    assert random_bits(counts) == 7 * (3 * 5 * 32 + 5 * 5 * 16)
    # a product, a sum with x, and making floats of bits: uniform numbers are bits shifted, one subtraction, scaling and a bound
    assert operations(counts) - 7 * (2 * 3 * 5 * 5 + 3 * 5) in range(0, 7 * 5 * 3 * 5)


def test_arithmetic_counts_what_is_made_or_summed_up():
    counts = work_of(lambda x, y: jnp.sum(x * y, axis=-1) + jnp.arange(4), jnp.zeros((4, 5)), jnp.zeros((4, 5)))
    assert operations(counts) == 20 + 20 + 4
    assert operations(work_of(lambda i: i * i + i, jnp.arange(4))) == 0  # integers


def test_bytes_are_those_of_arrays_and_keys():
    tree = {"x": np.zeros((3, 5), np.float32), "bit": np.zeros(7, bool), "key": jax.random.split(jax.random.key(0), 2)}
    assert bytes_of(tree) == 3 * 5 * 4 + 7 + 2 * 8
    assert bytes_of(tree, jax.eval_shape(lambda: jnp.zeros(4, jnp.int16))) == bytes_of(tree) + 8


def test_a_machine_is_measured_by_what_it_did():
    """A product of a thousand numbers a side does in the time that it took what was counted of it."""
    found = measure_machine(repeats=1, scale=0.05)
    assert all(rate > 0 and np.isfinite(rate) for rate in vars(found).values())
