"""Which events: by number, by a file of numbers, by a condition, or by all of these at once.

Alone here: how slices are written, and what a combination means. Invariant: what comes out are
numbers of events that exist, in the order that was asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..store.recording import Feature, Recording
from .expression import Expression, parse_expression
from .number_file import numbers_from_file, place_of
from .progress import Clock, Report

__all__ = ["checked_index", "event_numbers", "select_events"]

Rows = npt.NDArray[np.int64]

#: Events for which a condition is computed at a time.
BLOCK_EVENTS: Final = 65536
#: Parts of a list of events on the command line; more belong into a file.
MAX_PARTS: Final = 10_000

_PART: Final = re.compile(
    r"\s*(?:(?P<start>[+-]?\d+)?\s*(?P<colon>:)\s*(?P<stop>[+-]?\d+)?\s*"
    r"(?::\s*(?P<step>[+-]?\d+)?)?|(?P<number>[+-]?\d+))\s*",
    re.ASCII,
)


def select_events(
    recording: Recording,
    *,
    events: str | slice | Iterable[int] | None = None,
    where: str | None = None,
    index: str | os.PathLike[str] | npt.ArrayLike | None = None,
    progress: Report | None = None,
) -> Rows | None:
    """Numbers of the events that meet everything that was asked for.

    `index` says which events there are and in which order; without it, all in their order. Of
    these, `events` keeps the ones that it names, in the order of `index` if that was given, else
    in its own. Of these, `where` keeps the ones that meet the condition.

    Parameters
    ----------
    recording
        The recording.
    events
        A slice, numbers, or both as a text ("0:1000", "::10", "-100:", "5,7,20:30"); negative
        numbers count from the end.
    where
        A condition on scalar features, see `parse_expression`.
    index
        Numbers of events, shape (n,), from 0, in any order, with repeats; one bool per event; or
        the path of a file with them, see `numbers_from_file`.
    progress
        Takes records of progress; the stage is "selecting" [events].

    Returns
    -------
    ndarray of int64, shape (n,), or None
        None: all events in their order.

    Raises
    ------
    DataError
        An event does not exist, or something cannot be understood.
    StorageError, DamagedFileError
        The file of numbers, or a feature, cannot be read.
    """
    n_events = len(recording)
    expression = None if where is None else parse_expression(where, recording.features)
    rows: Rows | None = None
    if index is not None:
        rows = checked_index(index, n_events)
    if events is not None:
        wanted = event_numbers(events, n_events)
        rows = wanted if rows is None else rows[np.isin(rows, wanted)]
    if expression is not None:
        met = _where(recording, expression, rows, n_events, progress)
        rows = np.flatnonzero(met) if rows is None else rows[met]
    if rows is None or (len(rows) == n_events and np.array_equal(rows, np.arange(n_events))):
        return None
    return rows.astype(np.int64, copy=False)


def event_numbers(events: str | slice | Iterable[int], n_events: int) -> Rows:
    """Numbers of events from a slice, a list, or a text with both.

    Parameters
    ----------
    events
        As in `select_events`.
    n_events
        Number of events that there are.

    Raises
    ------
    DataError
        Not understood, or an event that does not exist; slices end where the events end.
    """
    if isinstance(events, slice):
        return _slice(events, n_events, f"{events}")
    if not isinstance(events, str):
        return _existing(np.asarray(list(events)), n_events, "events")
    parts = events.split(",")
    if len(parts) > MAX_PARTS:
        raise DataError(
            f"events: expected at most {MAX_PARTS} parts, got {len(parts)}; put the numbers into "
            f"a file (--index)"
        )
    found: list[Rows] = []
    for part in parts:
        match = _PART.fullmatch(part)
        if match is None or len(part) > 100:
            raise DataError(
                f"events: expected numbers and slices such as 0:1000, ::10, -100: or 5,7,20:30, "
                f"got '{part[:40]}'"
            )
        if match["colon"]:
            ends = [None if match[name] is None else int(match[name])
                    for name in ("start", "stop", "step")]  # fmt: skip
            found.append(_slice(slice(*ends), n_events, part.strip()))
        else:
            found.append(_existing(np.asarray([int(match["number"])]), n_events, "events"))
    return np.concatenate(found)


def _slice(events: slice, n_events: int, shown: str) -> Rows:
    if events.step == 0:
        raise DataError(f"events: expected a step other than 0, got {shown}")
    return np.arange(*events.indices(n_events), dtype=np.int64)


def _existing(numbers: npt.NDArray[Any], n_events: int, what: str) -> Rows:
    """Numbers counted from 0; those that count from the end are allowed."""
    if numbers.size == 0:
        return np.empty(0, dtype=np.int64)
    _require_integers(numbers, what)
    bad = (numbers < -n_events) | (numbers >= n_events)
    if bad.any():
        number = numbers[bad][0]
        allowed = f"below {n_events}" if number > 0 else f"from -{n_events}"
        raise DataError(
            f"{what}: expected events {allowed} (the recording has {n_events}; the first one is "
            f"0, the last one -1), got {number}"
        )
    signed = numbers.astype(np.int64)
    return np.where(signed < 0, signed + n_events, signed)


def _require_integers(numbers: npt.NDArray[Any], what: str) -> None:
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise DataError(
            f"{what}: expected integers in one row, shape (n,), got shape {numbers.shape} and "
            f"dtype {numbers.dtype}; pass the numbers of the events, counted from 0"
        )


def checked_index(index: str | os.PathLike[str] | npt.ArrayLike, n_events: int) -> Rows:
    """Numbers of events, given as such or as a file with them, all of which exist.

    Parameters
    ----------
    index
        As in `select_events`.
    n_events
        Number of events that there are.
    """
    what = "index"
    if isinstance(index, (str, os.PathLike)):
        what, numbers = f"'{os.fspath(index)}'", numbers_from_file(index)
    else:
        numbers = np.asarray(index)
    if numbers.dtype == np.bool_:
        if numbers.shape != (n_events,):
            raise DataError(
                f"{what}: expected one truth value for each of the {n_events} events, got shape "
                f"{numbers.shape}; make it from this recording"
            )
        return np.flatnonzero(numbers)
    if numbers.size:
        _require_integers(numbers, what)
        bad = np.flatnonzero((numbers < 0) | (numbers >= n_events))
        if len(bad):
            place = place_of(index, int(bad[0]))
            raise DataError(
                f"{what}{place}: expected the number of an event"
                + (f", from 0 to {n_events - 1}" if n_events else "")
                + f" (the recording has {n_events} events, the first one is 0), got "
                f"{numbers[bad[0]]}; leave it out, or check that the numbers are those of this "
                f"recording"
            )
    return numbers.astype(np.int64).reshape(-1)


# -- conditions -----------------------------------------------------------------------------


def _where(
    recording: Recording,
    expression: Expression,
    rows: Rows | None,
    n_events: int,
    progress: Report | None,
) -> npt.NDArray[np.bool_]:
    """Whether each of the rows (None: each event) meets the condition; block by block."""
    columns = {name: _scalar(recording, name, n_events) for name in expression.features}
    total = n_events if rows is None else len(rows)
    met = np.empty(total, dtype=np.bool_)
    clock = Clock("selecting", total, "events", progress)
    for block in _blocks(total):
        key: Any = block if rows is None else rows[block]
        values = {name: feature[key] for name, feature in columns.items()}
        met[block] = expression.evaluate(values, block.stop - block.start)
        clock.show(block.stop)
    return met


def _blocks(total: int) -> Iterator[slice]:
    for start in range(0, total, BLOCK_EVENTS):
        yield slice(start, min(start + BLOCK_EVENTS, total))


def _scalar(recording: Recording, name: str, n_events: int) -> Feature:
    feature = recording[name]
    if (
        not isinstance(feature, Feature)
        or len(feature.shape) != 1
        or feature.dtype.kind not in "biuf"
    ):
        raise DataError(
            f"condition: expected scalar features, got '{name}', which has more than one number "
            f"per event; use others (`dcwrite info` lists them)"
        )
    if len(feature) != n_events:
        raise DataError(
            f"'{recording.path}': expected {n_events} values of '{name}' (the event count), got "
            f"{len(feature)}; leave it out of the condition"
        )
    return feature
