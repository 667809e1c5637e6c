"""Ranges and choices on fields hold for Python callers, too; what is traced passes."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.errors import InputError
from dsrm_jax.settings import COUNT, SHARE_OF_MOST, check, configuration, number


@configuration
class Example:
    """A settings class."""

    size: int = number(default=6, within=COUNT)
    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    seeds: tuple[int, ...] = number(default=(1,), within=COUNT)
    kind: Literal["plain", "fancy"] = "plain"
    name: str = ""


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"size": 1, "discount": 0, "seeds": (1, 2), "kind": "fancy", "name": "anything"},
        {"size": np.int32(3), "discount": np.float32(0.5)},
        {"discount": jnp.array([0.0, 0.5]), "size": jnp.int32(2)},
    ],
)
def test_values_inside_pass(values):
    check(Example, "example", **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, r"^example.size is 0, expected in \[1, 2147483647\]$"),
        ({"size": 6.0}, r"^example.size is 6.0, expected a whole number$"),
        ({"size": None}, r"^example.size is None, expected a whole number$"),
        ({"discount": 1.0}, r"^example.discount is 1.0, expected in \[0, 1\)$"),
        ({"discount": "much"}, r"^example.discount is 'much', expected a number$"),
        ({"discount": float("nan")}, r"^example.discount is nan, expected"),
        ({"discount": np.array([0.5, 1.5])}, r"^example.discount is 1.5, expected"),
        ({"seeds": (1, -1)}, r"^example.seeds is -1, expected"),
        ({"kind": "fanci"}, r"^unknown value of example.kind 'fanci': did you mean 'fancy'\?"),
    ],
)
def test_values_outside_are_named(values, message):
    with pytest.raises(InputError, match=message):
        check(Example, "example", **values)
    with pytest.raises(ValueError, match=message):  # an InputError is one
        check(Example, "example", **values)


def test_traced_values_pass():
    def traced(discount):
        check(Example, "example", discount=discount)
        return discount

    assert jax.jit(traced)(2.0) == 2.0
    assert jax.vmap(traced)(jnp.array([2.0, 3.0])).tolist() == [2.0, 3.0]


def test_no_such_field():
    with pytest.raises(KeyError):
        check(Example, "example", width=3)
