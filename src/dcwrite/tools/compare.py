"""Whether two recordings hold the same.

Alone here: what counts as the same. Values, dtypes and shapes of the features with their
attributes, metadata, lines of logs, tables, basins with their data; not: compression, chunks,
byte order, and the forms in which a mask (bool, 0/1, 0/255) or a text may be stored. Invariant:
nothing is changed, and memory does not grow with the recordings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Any, Final

import numpy as np

from ..format.basin import Basin
from ..store.recording import BasinStatus, Contours, Recording

__all__ = ["compare"]

#: Bytes of a feature that are compared at a time.
BLOCK_BYTES: Final = 8 * 1024**2


def compare(path_a: str | os.PathLike[str], path_b: str | os.PathLike[str]) -> list[str]:
    """Differences between two recordings.

    Parameters
    ----------
    path_a, path_b
        The recordings.

    Returns
    -------
    list of str
        One line per difference; empty: they hold the same.

    Raises
    ------
    StorageError, DamagedFileError
        One of them cannot be read.
    """
    with Recording(path_a) as a, Recording(path_b) as b:
        return list(_differences(a, b))


def _differences(a: Recording, b: Recording) -> Iterator[str]:
    if len(a) != len(b):
        yield f"events: {len(a)} and {len(b)}"
    yield from _names("feature", a.own_features, b.own_features)
    for name in sorted(set(a.own_features) & set(b.own_features)):
        yield from _feature(name, a[name], b[name])
    yield from _mappings("attribute", a.metadata, b.metadata)
    yield from _mappings("log", a.logs, b.logs)
    yield from _mappings("table", a.tables, b.tables)
    yield from _basins(a, b)


def _names(what: str, a: Any, b: Any) -> Iterator[str]:
    for name in sorted(set(a) - set(b)):
        yield f"{what} '{name}': only in the first"
    for name in sorted(set(b) - set(a)):
        yield f"{what} '{name}': only in the second"


def _mappings(what: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    yield from _names(what, a, b)
    for name in sorted(set(a) & set(b)):
        if not _is_same(a[name], b[name]):
            yield f"{what} '{name}': {_shown(a[name])} and {_shown(b[name])}"


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return repr(value)[:80]


def _is_same(a: Any, b: Any) -> bool:
    """Same type and value; not-a-number equals itself."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if a.dtype.names is not None:
            return all(_is_same(a[name], b[name]) for name in a.dtype.names)
        return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
    return type(a) is type(b) and (a == b or (a != a and b != b))  # noqa: PLR0124 - not-a-number


def _feature(name: str, a: Any, b: Any) -> Iterator[str]:
    if type(a) is not type(b):
        yield f"feature '{name}': {type(a).__name__} and {type(b).__name__}"
    elif isinstance(a, dict):
        yield from _names(f"feature '{name}', dataset", a, b)
        for key in sorted(set(a) & set(b)):
            yield from _feature(f"{name}/{key}", a[key], b[key])
    elif isinstance(a, Contours):
        yield from _contours(name, a, b)
    else:
        yield from _mappings(f"feature '{name}', attribute", a.attributes, b.attributes)
        if not _is_alike(a, b):
            yield (
                f"feature '{name}': dtype {a.dtype}, shape {a.shape} and dtype {b.dtype}, "
                f"shape {b.shape}"
            )
        elif (event := _first_difference(a, b)) is not None:
            yield f"feature '{name}': first difference at event {event}"


def _contours(name: str, a: Contours, b: Contours) -> Iterator[str]:
    if len(a) != len(b):
        yield f"feature '{name}': {len(a)} and {len(b)} events"
        return
    for number in range(len(a)):
        if not _is_same(a[number], b[number]):
            yield f"feature '{name}': first difference at event {number}"
            return


def _is_alike(a: Any, b: Any) -> bool:
    """Whether shape and dtype are the same, but for the byte order."""
    native = [np.dtype(item.dtype).newbyteorder("=") for item in (a, b)]
    return bool(native[0] == native[1] and a.shape == b.shape)


def _first_difference(a: Any, b: Any) -> int | None:
    """First event in which two features of one dtype and shape differ."""
    event_bytes = int(np.prod(a.shape[1:], dtype=object)) * a.dtype.itemsize
    size = max(1, BLOCK_BYTES // max(1, event_bytes))
    for start in range(0, a.shape[0], size):
        first, second = a[start : start + size], b[start : start + size]
        differ = first != second
        if first.dtype.kind == "f":
            differ &= ~(np.isnan(first) & np.isnan(second))
        rows = np.flatnonzero(differ.reshape(len(differ), -1).any(axis=1))
        if len(rows):
            return start + int(rows[0])
    return None


def _basins(a: Recording, b: Recording) -> Iterator[str]:
    """Descriptions and internal data; the second may name further locations."""
    for first, second in zip_longest(_sorted_basins(a), _sorted_basins(b)):
        if first is None or second is None:
            which, status = ("first", first) if first else ("second", second)
            yield f"basin '{status.key}': only in the {which}"
        elif not _is_same_basin(first.basin, second.basin):
            yield f"basin '{first.key}': {first.basin} and {second.basin}"
        elif first.basin is not None and first.basin.type == "internal":
            for feat in first.basin.features or ():
                path = f"{first.basin.locations[0]}/{feat}"
                if not _is_same_item(a.h5.get(path), b.h5.get(path)):
                    yield f"basin '{first.key}': the data '{path}' differ"


def _sorted_basins(recording: Recording) -> list[BasinStatus]:
    def place(status: BasinStatus) -> str:
        return str(replace(status.basin, locations=()) if status.basin else None)

    return sorted(recording.basins, key=place)


def _is_same_basin(a: Basin | None, b: Basin | None) -> bool:
    if a is None or b is None:
        return a is b
    return (
        replace(a, locations=()) == replace(b, locations=())
        and b.locations[: len(a.locations)] == a.locations
    )


def _is_same_item(a: Any, b: Any) -> bool:
    """Whether two HDF5 objects hold the same data: datasets, or groups of datasets."""
    if a is None or b is None or hasattr(a, "shape") != hasattr(b, "shape"):
        return a is b
    if not hasattr(a, "shape"):
        return set(a) == set(b) and all(_is_same_item(a[name], b[name]) for name in a)
    return _is_alike(a, b) and _first_difference(a, b) is None
