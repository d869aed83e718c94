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
    "put_backgrounds_and_die",
    "put_frames",
    "put_numbered",
    "put_with_backgrounds",
    "read_and_close",
    "read_and_die",
    "with_backgrounds",
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

    dtype, ndim, shape = np.dtype(np.float32), 1, (1,)

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


def with_backgrounds(frame: int) -> dict[str, Any]:
    """Events large enough for the compact forms; one background for 70 frames."""
    n_events = 1 + frame % 3
    rng = np.random.default_rng(frame)
    image_bg = np.random.default_rng(frame // 70).integers(0, 250, (40, 50), np.uint8)
    return {
        "deform": frame + np.arange(n_events) / 8,
        "image_bg": np.repeat(image_bg[np.newaxis], n_events, axis=0),
        "mask": rng.random((n_events, 40, 50)) < 0.2,
    }


def put_with_backgrounds(event_queue: Any, feat_nevents: Any, number: int, n_workers: int) -> None:
    """Put every n-th five frames, one by one or together."""
    for first in range(5 * number, len(feat_nevents), 5 * n_workers):
        events = [with_backgrounds(frame) for frame in range(first, first + 5)]
        counts = [len(one["deform"]) for one in events]
        feat_nevents[first : first + 5] = counts
        if first // 5 % 3:
            joined = {feat: np.concatenate([one[feat] for one in events]) for feat in events[0]}
            event_queue.put_batch(first, counts, joined)
        else:
            for frame, one in enumerate(events, first):
                event_queue.put((frame, one))
    event_queue.close()
    event_queue.join_thread()


def put_backgrounds_and_die(event_queue: Any) -> None:
    """Die when a new background stands in the queue, and the events that have it do not."""
    for frame in range(2):
        event_queue.put((frame, with_backgrounds(frame)))
    producer = event_queue._producer
    reserve, calls = producer._reserve, []

    def dying(*args: Any) -> int:
        calls.append(args)
        if len(calls) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return reserve(*args)

    producer._reserve = dying
    event_queue.put((2, with_backgrounds(100)))
