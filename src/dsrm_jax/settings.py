"""Settings of pieces: frozen dataclasses whose floats are pytree leaves, and the range that each number must lie in."""

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, dataclass_transform

import jax

C = TypeVar("C")
N = TypeVar("N", int, float, tuple[int, ...])


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
        return math.isfinite(value) and above and below

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
    """Make a frozen dataclass whose float fields and nested configurations are pytree leaves, all others static."""
    cls = dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    data = [f.name for f in fields if f.type is float or dataclasses.is_dataclass(f.type)]
    meta = [f.name for f in fields if f.name not in data]
    jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=meta)
    return cls
