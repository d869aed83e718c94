"""What runs in the processes of the event queue's tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = [
    "Unreadable",
    "events_of",
    "put_and_die",
    "put_frames",
    "put_numbered",
    "read_and_close",
    "read_and_die",
]


class Unreadable:
    """Pickled like anything else, and not to be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


def _refuse() -> None:
    raise ImportError("no module named 'lab'")


def events_of(frame: int, n_events: int = 1, height: int = 8) -> dict[str, Any]:
    """Events whose values tell frame and number."""
    value = frame * 100 + np.arange(n_events)
    pixels = np.arange(height * 12).reshape(height, 12)
    image = (value[:, None, None] + pixels).astype(np.uint8)
    return {
        "deform": value / 8,
        "area_um": value.astype(np.float32),
        "image": image,
        "fl1_max": value.astype(np.uint32),
        "mask": image % 3 == 0,
    }


def put_frames(
    event_queue: Any, frames: Sequence[int], counts: Sequence[int], feat_nevents: Any = None
) -> None:
    """Put frames with so many events each; with `feat_nevents`, announce them."""
    for frame in frames:
        if feat_nevents is not None:
            feat_nevents[frame] = counts[frame]
        if counts[frame]:
            event_queue.put((frame, events_of(frame, counts[frame])))
    event_queue.close()
    event_queue.join_thread()


def put_numbered(event_queue: Any, first: int, n_items: int, height: int = 8) -> None:
    """Put frames first, first + 1, ..., each with 1 to 3 events."""
    for frame in range(first, first + n_items):
        event_queue.put((frame, events_of(frame, 1 + frame % 3, height)))


def read_and_die(event_queue: Any, n_items: int) -> None:
    """Read some items, then die without a word."""
    for _ in range(n_items):
        event_queue.get()
    os.kill(os.getpid(), signal.SIGKILL)


def read_and_close(event_queue: Any, n_items: int) -> None:
    """Read some items, then close the queue."""
    for _ in range(n_items):
        event_queue.get()
    event_queue.close()


class Deadly:
    """Data that kill the process that copies them."""

    def __len__(self) -> int:
        return 1

    def __array__(self, *_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def put_and_die(event_queue: Any, n_frames: int, first: int = 0) -> None:
    """Put frames with one event each; die in the middle of the next."""
    stop = first + n_frames
    for frame in range(first, stop):
        event_queue.put((frame, events_of(frame)))
    event_queue.put((stop, {**events_of(stop), "area_um": Deadly()}))
