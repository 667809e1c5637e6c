"""What a program does, read off its jaxpr: matrix products, other arithmetic, random draws."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.typing import DTypeLike

from dsrm_jax.types import PyTree

LARGEST_KNOWN = 10_000  # elements of a value that is worked out while counting
ONE_EACH = (
    "add",
    "sub",
    "mul",
    "div",
    "max",
    "min",
    "exp",
    "log",
    "log1p",
    "tanh",
    "logistic",
    "sqrt",
    "rsqrt",
    "erf",
    "erf_inv",
)
ARITHMETIC = frozenset((*ONE_EACH, "add_any", "reduce_sum", "reduce_max", "cumsum"))

Value: TypeAlias = Any
"""An array or scalar of any primitive's choice that is known while tracing; None: not known."""


@dataclass(frozen=True)
class Product:
    """One `dot_general`, by its operands' shapes and dtypes, by what is contracted and how precisely."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    dimension_numbers: tuple[tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]]
    dtypes: tuple[str, str]
    precision: jax.lax.PrecisionLike
    preferred_element_type: DTypeLike | None

    @property
    def operations(self) -> int:
        """Multiplications and additions of one execution."""
        (_, right_contract), (_, right_batch) = self.dimension_numbers
        free = [n for i, n in enumerate(self.right) if i not in (*right_contract, *right_batch)]
        return 2 * int(np.prod(self.left)) * int(np.prod(free, dtype=int))


@dataclass(frozen=True)
class Draw:
    """Random bits drawn at once."""

    bits: int


@dataclass(frozen=True)
class Arithmetic:
    """So many operations on floating-point numbers, each on its own or in a sum."""

    operations: int


Done: TypeAlias = Product | Arithmetic | Draw
"""What is counted."""


def work_of(function: Callable[..., PyTree], *args: PyTree) -> Counter[Done]:
    """Count how often a function executes each matrix product, other arithmetic and each draw of random bits.

    A body of `scan` counts once per iteration. A `cond` whose index depends neither on `args` nor on a scan's carry, be it
    another one in each iteration, counts the branch that is taken; else the cheapest one. A body of `while` counts once, as
    its iterations are not known. XLA may still drop or hoist what is counted. Draws that shuffle or choose count as the bits
    that they ask for.

    Args:
        function: traceable by JAX.
        args: what to trace it with.

    Returns:
        Executions of each.
    """
    closed = jax.make_jaxpr(function)(*args)
    consts = [x if isinstance(x, np.ndarray) and x.size <= LARGEST_KNOWN else None for x in closed.consts]
    return _count(closed.jaxpr, consts, [None] * len(closed.jaxpr.invars))[0]


def matrix_products(counts: Counter[Done]) -> Counter[Product]:
    """Return the products alone."""
    return Counter({done: times for done, times in counts.items() if isinstance(done, Product)})


def operations(counts: Counter[Done]) -> int:
    """Return the multiplications and additions of all products, and other arithmetic; of a function's kind each counts as one."""
    return sum(done.operations * times for done, times in counts.items() if not isinstance(done, Draw))


def random_bits(counts: Counter[Done]) -> int:
    """Return the bits of all draws."""
    return sum(done.bits * times for done, times in counts.items() if isinstance(done, Draw))


def _count(jaxpr: core.Jaxpr, consts: Sequence[Value], args: Sequence[Value]) -> tuple[Counter[Done], list[Value]]:
    """Return the executions and the outputs; None stands for a value that is not known."""
    counts: Counter[Done] = Counter()
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom: core.Var | core.Literal) -> Value:
        return atom.val if isinstance(atom, core.Literal) else known.get(atom)

    for equation in jaxpr.eqns:
        found, outputs = _count_equation(equation, [read(atom) for atom in equation.invars])
        counts.update(found)
        known.update(zip(equation.outvars, outputs, strict=True))
    return counts, [read(atom) for atom in jaxpr.outvars]


def _count_equation(equation: core.JaxprEqn, values: list[Value]) -> tuple[Counter[Done], list[Value]]:
    """Return the executions of one equation and what is known of its outputs."""
    unknown = [None] * len(equation.outvars)
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return Counter([_product(equation)]), unknown
    if name == "random_bits":
        return Counter([_draw(equation)]), unknown
    if name == "scan":
        return _count_scan(params, values), unknown
    if name == "cond":
        branches = [_count(b.jaxpr, b.consts, values[1:])[0] for b in params["branches"]]
        if values[0] is None:
            return min(branches, key=operations), unknown
        return branches[int(np.clip(values[0], 0, len(branches) - 1))], unknown
    inner = list(core.jaxprs_in_params(params))
    if len(inner) == 1 and _is_call(equation, inner[0]):
        return _count(inner[0], [None] * len(inner[0].constvars), values)
    if inner:
        return sum((_count_blindly(jaxpr) for jaxpr in inner), Counter()), unknown
    made = [cast(jax.core.ShapedArray, v.aval) for v in equation.outvars]
    plain = not any(jnp.issubdtype(aval.dtype, jax.dtypes.extended) for aval in made)
    small = all(np.prod(aval.shape) <= LARGEST_KNOWN for aval in made)
    if not (plain and small) or any(value is None for value in values):
        return (Counter([_arithmetic(equation)]) if name in ARITHMETIC else Counter()), unknown
    outputs = equation.primitive.bind(*values, **params)
    return Counter(), list(outputs) if equation.primitive.multiple_results else [outputs]


def _is_call(equation: core.JaxprEqn, inner: core.Jaxpr) -> bool:
    """Return whether an equation hands its operands to `inner` and its results on, as that of a jitted function does."""
    atoms = (equation.invars, inner.invars), (equation.outvars, inner.outvars)
    return all([v.aval for v in outside] == [v.aval for v in inside] for outside, inside in atoms)


def _count_blindly(jaxpr: core.Jaxpr) -> Counter[Done]:
    return _count(jaxpr, [None] * len(jaxpr.constvars), [None] * len(jaxpr.invars))[0]


def _count_scan(params: dict[str, Value], values: list[Value]) -> Counter[Done]:
    """Return the executions of a scan; one by one only where something is known of each iteration."""
    body, length = params["jaxpr"], params["length"]
    fixed, carry = params["num_consts"], params["num_carry"]
    consts, columns = values[:fixed], values[fixed + carry :]
    counts: Counter[Done] = Counter()
    if all(column is None for column in columns) or not _branches(body.jaxpr):
        once = _count(body.jaxpr, body.consts, [*consts, *[None] * (carry + len(columns))])[0]
        return Counter({done: length * count for done, count in once.items()})
    for i in range(length):
        row = [None if column is None else np.asarray(column)[i] for column in columns]
        counts.update(_count(body.jaxpr, body.consts, [*consts, *[None] * carry, *row])[0])
    return counts


def _branches(jaxpr: core.Jaxpr) -> bool:
    """Return whether there is a `cond` anywhere inside."""
    inner = (j for equation in jaxpr.eqns for j in core.jaxprs_in_params(equation.params))
    return any(equation.primitive.name == "cond" for equation in jaxpr.eqns) or any(map(_branches, inner))


def _arithmetic(equation: core.JaxprEqn) -> Arithmetic:
    """Return one operation for each number that is made, or, where numbers are summed up, read."""
    made = [cast(jax.core.ShapedArray, v.aval) for v in (*equation.invars, *equation.outvars)]
    of_floats = [int(np.prod(x.shape, dtype=int)) for x in made if jnp.issubdtype(x.dtype, jnp.floating)]
    return Arithmetic(max(of_floats, default=0))


def _draw(equation: core.JaxprEqn) -> Draw:
    made = [cast(jax.core.ShapedArray, v.aval) for v in equation.outvars]
    return Draw(sum(8 * int(np.prod(x.shape, dtype=int)) * np.dtype(x.dtype).itemsize for x in made))


def _product(equation: core.JaxprEqn) -> Product:
    left, right = (cast(jax.core.ShapedArray, v.aval) for v in equation.invars)
    how = [equation.params[n] for n in ("dimension_numbers", "precision", "preferred_element_type")]
    return Product(left.shape, right.shape, how[0], (str(left.dtype), str(right.dtype)), how[1], how[2])
