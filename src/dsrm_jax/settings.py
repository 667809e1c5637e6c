"""Settings of pieces: frozen dataclasses, and the range that each number must lie in. Nothing imports JAX here."""

import dataclasses
import math
import operator
from dataclasses import dataclass
from typing import (
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Protocol,
    TypeGuard,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np

from dsrm_jax.errors import InputError, unknown_name

C = TypeVar("C")
N = TypeVar("N", int, float, tuple[int, ...])


class Settings(Protocol):
    """A class that `configuration` made, or an object of one."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def is_settings(value: object) -> TypeGuard[Settings]:
    """Return whether a value is an object of a settings class."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


class Range(NamedTuple):
    """An interval of numbers; `low_open` and `high_open` leave the end itself out."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a number is finite and lies inside."""
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below and (isinstance(value, int) or math.isfinite(value))

    def __str__(self) -> str:
        if self.high == math.inf:
            if self.low == -math.inf:
                return "a finite number"
            return f"{'more than' if self.low_open else 'at least'} {self.low:g}"
        left, right = "(" if self.low_open else "[", ")" if self.high_open else "]"
        return f"in {left}{self.low:.10g}, {self.high:.10g}{right}"


ANY = Range()
COUNT = Range(1, 2**31 - 1)
COUNT_OR_ZERO = Range(0, 2**31 - 1)
NON_NEGATIVE = Range(low=0)
POSITIVE = Range(low=0, low_open=True)
SHARE = Range(0, 1)
SHARE_OF_MOST = Range(0, 1, high_open=True)
POSITIVE_SHARE = Range(0, 1, low_open=True)
PROPER_SHARE = Range(0, 1, low_open=True, high_open=True)
SEED = Range(0, 2**32 - 1)


def number(*, default: N, within: Range) -> N:
    """Return a field of a configuration: its default, and the range that its value (or each of a tuple) must lie in."""
    field: N = dataclasses.field(default=default, metadata={"range": within})
    return field


@dataclass_transform(frozen_default=True, field_specifiers=(number,))
def configuration(cls: type[C]) -> type[C]:
    """Make a frozen dataclass; as a section of `Config` its floats are pytree leaves and all else is static."""
    return dataclass(frozen=True)(cls)


def check(cls: type[Settings], where: str, **values: object) -> None:
    """Check values against the ranges and choices on the fields of a settings class.

    `where` is what the values belong to in errors, such as ``"environment"``. Values are given by field name; each element of a
    tuple or array counts, and traced values pass.

    Raises:
        InputError: one sentence with ``<where>.<field>``, the value and what was expected.
        KeyError: no such field.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = get_type_hints(cls)
    for name, value in values.items():
        field, hint = fields[name], hints[name]
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise unknown_name(f"value of {where}.{name}", str(value), get_args(hint))
        if "range" not in field.metadata:
            continue
        within: Range = field.metadata["range"]
        kind = "a number" if hint is float else "a whole number"
        for one in value if isinstance(value, tuple) else _numbers(value):
            try:
                holds = within.holds(one if hint is float else operator.index(one))
            except TypeError as error:
                raise InputError(f"{where}.{name} is {one!r}, expected {kind}") from error
            if not holds:
                raise InputError(f"{where}.{name} is {one}, expected {within}")


def _numbers(value: object) -> list[Any]:  # NumPy says no more of it
    """Return the elements of a number or array; of a traced one, which has no NumPy array, none."""
    try:
        return np.ravel(np.asarray(value)).tolist()
    except TypeError:
        return []
