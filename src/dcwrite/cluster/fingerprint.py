"""What a function computes, as far as can be told from outside: a fingerprint of it.

Alone here: what is looked at: names, source text, arguments and state, but not what the function
calls in other places. Invariant: the same function with the same arguments has the same
fingerprint in every process; memory addresses and orders of sets have no part in it.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final

import numpy as np

__all__ = ["fingerprint"]

#: Digits of the result.
LENGTH: Final = 32


def fingerprint(function: Any) -> str:
    """A text that tells functions apart."""
    return f"sha256:{_digest(function, ())[:LENGTH]}"


def _digest(value: Any, inside: tuple[int, ...]) -> str:
    """Digest of a value; `inside`: the objects that it is a part of."""
    if id(value) in inside:
        return "circle"
    inside = (*inside, id(value))
    if isinstance(value, (set, frozenset)):
        parts = ["set", *sorted(_digest(item, inside) for item in value)]
    else:
        parts = [
            part if isinstance(part, str) else _digest(part[0], inside) for part in _parts(value)
        ]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _parts(value: Any) -> Iterator[str | tuple[Any]]:
    """What makes up a value: texts, and other values in tuples of one."""
    if isinstance(value, partial):
        yield "partial"
        yield from ((part,) for part in (value.func, value.args, value.keywords))
    elif isinstance(value, MethodType):
        yield "method"
        yield from ((part,) for part in (value.__self__, value.__func__))
    elif isinstance(value, FunctionType):
        yield from (value.__module__, value.__qualname__, _source(value))
        yield from ((part,) for part in (value.__defaults__, value.__kwdefaults__))
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # not filled yet
                yield (cell.cell_contents,)
    elif isinstance(value, type | BuiltinFunctionType):
        yield from (value.__module__ or "", value.__qualname__, _source(value))
    elif isinstance(value, np.ndarray) and value.dtype.kind != "O":
        yield from (str(value.dtype), str(value.shape))
        yield hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    elif isinstance(value, (list, tuple)):
        yield type(value).__name__
        yield from ((item,) for item in value)
    elif isinstance(value, Mapping):
        yield type(value).__name__
        yield from ((item,) for pair in value.items() for item in pair)
    elif isinstance(value, str | bytes | int | float | complex | None | range | slice):
        yield f"{type(value).__name__} {value!r}"
    else:
        yield from _state(value)


def _state(value: Any) -> Iterator[str | tuple[Any]]:
    """Class of an object, and what is in it."""
    yield (type(value),)
    with suppress(Exception):
        _make, arguments, *state = value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        # the first argument of objects without a rule of their own is their class
        yield from ((item,) for item in arguments)
        yield from ((item,) for item in state[:1])


def _source(value: Any) -> str:
    with suppress(OSError, TypeError):
        return inspect.getsource(value)
    return ""
