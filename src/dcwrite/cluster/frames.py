"""Frames of a range, pulled one by one out of what the caller's function gives.

Alone here: which frames a range has to bring. Invariant: each frame of the range is handed on
once; one that is missing, comes twice or belongs to another range is an error that names it.
"""

from __future__ import annotations

import operator
import queue
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from ..errors import EventError, StallError
from .run import Process

__all__ = ["RangeCounts", "RangeFrames"]

#: Frame numbers that a message lists.
LISTED_FRAMES: Final = 20


class RangeCounts:
    """Number of events of each frame of a range; -1: not known yet.

    Takes the place of the array `feat_nevents`, which is as long as the recording; frames before
    the range are not in memory.

    Parameters
    ----------
    frames
        The range.
    """

    def __init__(self, frames: range) -> None:
        self._frames = frames
        self.counts = np.full(len(frames), -1, dtype=np.int64)

    def __len__(self) -> int:
        return self._frames.stop

    def __getitem__(self, key: Any) -> Any:
        first = self._frames.start
        if isinstance(key, slice):
            start, stop, _step = key.indices(len(self))
            return self.counts[max(0, start - first) : max(0, stop - first)]
        return self.counts[key - first]

    def __setitem__(self, frame: int, count: int) -> None:
        self.counts[frame - self._frames.start] = count


class RangeFrames:
    """Frames of a range as a queue that computes what is asked for.

    Nothing runs ahead: a frame is computed when the one before it has been taken over, so that one
    frame at a time is in memory, and one thread works.

    Parameters
    ----------
    process
        The caller's function.
    frames
        The range.
    counts
        Is told the number of events of each frame.
    """

    def __init__(self, process: Process, frames: range, counts: RangeCounts) -> None:
        self._frames = frames
        self._counts = counts
        self._where = f"frames {frames.start} to {frames.stop - 1}"
        found: Any = process(frames)
        if not hasattr(found, "__iter__"):
            raise EventError(
                f"{self._where}: expected process(frames) to give (frame_index, events) for each "
                f"frame, got {type(found).__name__}; return a list or write a generator"
            )
        self._items: Iterator[Any] = iter(found)
        self._n_left = len(frames)

    def get(self, timeout: float) -> tuple[int, Any]:  # noqa: ARG002 - the signature of a queue
        """The next frame.

        Raises
        ------
        queue.Empty
            All frames have come.
        StallError
            There are no more, but some are missing.
        EventError
            It belongs to another range, or comes again.
        """
        if not self._n_left:
            raise queue.Empty
        for item in self._items:
            frame, events = self._checked(item)
            self._counts[frame] = _n_events(frame, events)
            self._n_left -= 1
            return frame, events
        missing = (np.flatnonzero(self._counts.counts < 0) + self._frames.start).tolist()
        listed = ", ".join(map(str, missing[:LISTED_FRAMES]))
        more = f" and {len(missing) - LISTED_FRAMES} more" if len(missing) > LISTED_FRAMES else ""
        raise StallError(
            f"{self._where}: expected each frame of the range, but process() ended without frames "
            f"{listed}{more}; yield (frame, None) for a frame without events",
            missing,
        )

    def finish(self) -> None:
        """Let the caller's function end.

        Raises
        ------
        EventError
            It has more to give than the range asked for.
        """
        for item in self._items:
            self._checked(item)
            raise AssertionError("unreachable: all frames have come")

    def close(self) -> None:
        """Let go of a generator that is not at its end."""
        close = getattr(self._items, "close", None)
        if close is not None:
            close()

    def _checked(self, item: Any) -> tuple[int, Any]:
        try:
            index, events = item
            frame = operator.index(index)
        except (TypeError, ValueError) as exc:
            raise EventError(
                f"{self._where}: expected (frame_index, events), got {str(item)[:80]!r}"
            ) from exc
        if frame not in self._frames:
            raise EventError(
                f"frame {frame}: expected a frame from {self._frames.start} to "
                f"{self._frames.stop - 1} (the range that was asked for), got one outside of it"
            )
        if self._counts[frame] >= 0:
            raise EventError(
                f"frame {frame}: expected each frame once, got it again; yield all events of a "
                f"frame together"
            )
        return frame, events


def _n_events(frame: int, events: Any) -> int:
    """Number of events of a frame, by its first feature."""
    value: Any = events
    while isinstance(value, Mapping):
        if not value:
            return 0
        value = next(iter(value.values()))
    if value is None:
        return 0
    try:
        return len(value)
    except TypeError as exc:
        raise EventError(
            f"frame {frame}: expected a dict of arrays whose first axis is the event, or None, "
            f"got {type(value).__name__}"
        ) from exc
