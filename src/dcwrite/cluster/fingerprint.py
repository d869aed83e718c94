"""What a function computes, as far as can be told from outside: a fingerprint of it.

Alone here: what is looked at: names, source text, arguments and state, and of the function's own
module what it refers to: functions, classes and plain values; but nothing in other modules.
Invariant: the same function with the same arguments has the same fingerprint in every process;
memory addresses and orders of sets have no part in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import pickle
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any, Final

import numpy as np

__all__ = ["fingerprint"]

#: Digits of the result.
LENGTH: Final = 32
#: How deep values of the module may be nested to count as plain.
MOST_NESTED: Final = 8
_PLAIN: Final = (str, bytes, int, float, complex, type(None), range, slice, PurePath, np.generic)


def fingerprint(function: Any) -> str:
    """A text that tells functions apart."""
    return f"sha256:{_Digests(_home_of(function)).of(function, ())[:LENGTH]}"


def _home_of(function: Any) -> str:
    """The module whose functions and values are looked at, too."""
    while isinstance(function, partial):
        function = function.func
    named = function if isinstance(function, (FunctionType, MethodType, type)) else type(function)
    return str(named.__module__)


class _Digests:
    """Digests of values.

    Parameters
    ----------
    home
        The module of the function that is asked about.
    """

    def __init__(self, home: str) -> None:
        self._home = home
        #: of functions and classes, which are referred to from several places
        self._known: dict[int, str] = {}

    def of(self, value: Any, inside: tuple[int, ...]) -> str:
        """Digest of a value; `inside`: the objects that it is a part of."""
        if id(value) in inside:
            return "circle"
        if id(value) in self._known:
            return self._known[id(value)]
        inside = (*inside, id(value))
        if isinstance(value, (set, frozenset)):
            parts = ["set", *sorted(self.of(item, inside) for item in value)]
        else:
            parts = [
                part if isinstance(part, str) else self.of(part[0], inside)
                for part in self._parts(value)
            ]
        text = "\0".join(parts).encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(text).hexdigest()
        if isinstance(value, FunctionType | type):
            self._known[id(value)] = digest
        return digest

    def _parts(self, value: Any) -> Iterator[str | tuple[Any]]:
        """What makes up a value: texts, and other values in tuples of one."""
        if isinstance(value, partial):
            yield "partial"
            yield from ((part,) for part in (value.func, value.args, value.keywords))
        elif isinstance(value, MethodType):
            yield "method"
            yield from ((part,) for part in (value.__self__, value.__func__))
        elif isinstance(value, FunctionType):
            yield from self._function_parts(value)
        elif isinstance(value, type):
            yield from self._class_parts(value)
        elif isinstance(value, BuiltinFunctionType):
            yield from (value.__module__ or "", value.__qualname__)
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

    def _class_parts(self, value: type) -> Iterator[str | tuple[Any]]:
        yield from (value.__module__, value.__qualname__, _source(value))
        if value.__module__ == self._home:
            yield from ((base,) for base in value.__bases__)
            for name, item in sorted(vars(value).items()):
                if isinstance(item, FunctionType):
                    yield name
                    yield (item,)

    def _function_parts(self, function: FunctionType) -> Iterator[str | tuple[Any]]:
        source = _source(function)
        yield from (function.__module__ or "", function.__qualname__, source)
        if not source or function.__name__ == "<lambda>":  # several of these share a line
            yield from _code_parts(function.__code__)
        yield from ((part,) for part in (function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # not filled yet
                yield (cell.cell_contents,)
        if function.__module__ != self._home:
            return
        for name in sorted(_names(function.__code__)):
            value = function.__globals__.get(name)
            is_near = isinstance(value, FunctionType | type) and value.__module__ == self._home
            if is_near or (value is not None and _is_plain(value)):
                yield name
                yield (value,)


def _names(code: CodeType) -> set[str]:
    """Names that a function, and the functions in it, may look up in their module."""
    inner = (item for item in code.co_consts if isinstance(item, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _code_parts(code: CodeType) -> Iterator[str | tuple[Any]]:
    """What a function does, where there is no text of it."""
    yield code.co_code.hex()
    yield from code.co_names
    for item in code.co_consts:
        if isinstance(item, CodeType):
            yield from _code_parts(item)
        else:
            yield (item,)


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value of the module is nothing but data."""
    if depth > MOST_NESTED:
        return False
    items: Any
    if isinstance(value, _PLAIN):
        return True
    if isinstance(value, np.ndarray):
        return value.dtype.kind != "O" and not isinstance(value, np.memmap)  # large as a disk
    if isinstance(value, (list, tuple, set, frozenset)):
        items = value
    elif type(value) is dict:
        items = [item for pair in value.items() for item in pair]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [getattr(value, field.name) for field in dataclasses.fields(value)]
    else:
        return False
    return all(_is_plain(item, depth + 1) for item in items)


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
