"""What a condition on features computes: a short program for a stack of arrays.

Alone here: operators, functions, and the precision in which they work. Invariant: a program works
through a block of events in bounded memory, without recursion, and never raises for a value.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "ARITHMETIC",
    "COMPARISONS",
    "CONSTANTS",
    "FUNCTIONS",
    "Apply",
    "Compare",
    "Function",
    "Kind",
    "Operand",
    "Step",
    "run_steps",
]

AnyArray = npt.NDArray[Any]

#: What a part of a condition is.
Kind: TypeAlias = Literal["number", "condition"]


class Function(NamedTuple):
    """A function: what it computes, its number of arguments, and what comes out."""

    compute: Callable[..., Any]
    n_args: int
    result: Kind


class Operand(NamedTuple):
    """A feature as it is stored, or a number as it was written."""

    feature: str | None
    number: float = 0.0


class Apply(NamedTuple):
    """Something to do with the last `n_args` of the stack."""

    compute: Callable[..., Any]
    n_args: int


class Compare(NamedTuple):
    """A chain of comparisons of the last values of the stack."""

    signs: tuple[str, ...]


Step: TypeAlias = Operand | Apply | Compare


FUNCTIONS: Final[Mapping[str, Function]] = {
    "abs": Function(np.abs, 1, "number"),
    "ceil": Function(np.ceil, 1, "number"),
    "exp": Function(np.exp, 1, "number"),
    "floor": Function(np.floor, 1, "number"),
    "isfinite": Function(np.isfinite, 1, "condition"),
    "isinf": Function(np.isinf, 1, "condition"),
    "isnan": Function(np.isnan, 1, "condition"),
    "log": Function(np.log, 1, "number"),
    "log10": Function(np.log10, 1, "number"),
    "log2": Function(np.log2, 1, "number"),
    "max": Function(np.maximum, 2, "number"),
    "min": Function(np.minimum, 2, "number"),
    "round": Function(np.rint, 1, "number"),
    "sqrt": Function(np.sqrt, 1, "number"),
}
CONSTANTS: Final = {"inf": math.inf, "nan": math.nan, "pi": math.pi}

COMPARISONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt,
    ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
ARITHMETIC: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply,
    "/": np.divide, "%": np.mod, "**": np.power,
}  # fmt: skip


def run_steps(
    steps: Sequence[Step], columns: Mapping[str, AnyArray], n_events: int
) -> npt.NDArray[np.bool_]:
    """Run a program that leaves one condition.

    Parameters
    ----------
    steps
        The program.
    columns
        Feature names to arrays of shape (n_events,), real numbers.
    n_events
        Number of events.

    Returns
    -------
    ndarray of bool, shape (n_events,)
    """
    stack: list[Any] = []
    with np.errstate(all="ignore"):
        for step in steps:
            if isinstance(step, Operand):
                stack.append(step.number if step.feature is None else columns[step.feature])
                continue
            n_args = len(step.signs) + 1 if isinstance(step, Compare) else step.n_args
            values = stack[-n_args:]
            del stack[-n_args:]
            if isinstance(step, Compare):
                stack.append(_compare(step.signs, values))
            else:
                stack.append(step.compute(*map(_as_float, values)))
    (result,) = stack
    out = np.empty(n_events, dtype=np.bool_)
    out[:] = result
    return out


def _as_float(value: Any) -> Any:
    """Values to compute with: 64-bit floats; conditions stay what they are."""
    array = np.asarray(value)
    return array if array.dtype == np.bool_ else array.astype(np.float64, copy=False)


def _compare(signs: tuple[str, ...], values: list[Any]) -> Any:
    result: Any = None
    for sign, left, right in zip(signs, values, values[1:], strict=False):
        if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
            left, right = _as_float(left), _as_float(right)  # noqa: PLW2901 - of this comparison
        # a Python number takes the precision of the array that it is compared with
        part = COMPARISONS[sign](left, right)
        result = part if result is None else np.logical_and(result, part)
    return result
