"""What the tests of the stream share: small frames, and plain h5py to look at the result."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - plain h5py needs the Zstandard filter
import numpy as np
import numpy.typing as npt

from dcwrite import QueueWriterThread

__all__ = [
    "RESULT_TIMEOUT_S",
    "TellingQueue",
    "assert_frames",
    "counts_of",
    "ended",
    "frame",
    "message_has",
    "read",
    "thread_for",
]

AnyArray = npt.NDArray[Any]

#: Longest wait for a writer that is about to end.
RESULT_TIMEOUT_S = 60


class TellingQueue(queue.Queue):  # type: ignore[type-arg]
    """A queue that tells when its reader has taken everything and looks for more."""

    def __init__(self) -> None:
        super().__init__()
        self.emptied = threading.Event()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if self.empty():
            self.emptied.set()
        return super().get(block, timeout)


def frame(index: int, n_events: int = 1, **changes: Any) -> dict[str, Any]:
    """Events whose values tell frame and number; a change of None takes the feature away."""
    value = index * 10 + np.arange(n_events)
    events: dict[str, Any] = {
        "deform": value / 8,
        "area_um": value.astype(np.float64),
        "image": (value[:, None, None] + np.arange(12).reshape(3, 4)).astype(np.uint8),
        "mask": (value[:, None, None] + np.arange(12).reshape(3, 4)) % 2 == 0,
    }
    events.update(changes)
    return {feat: data for feat, data in events.items() if data is not None}


def counts_of(*counts: int) -> AnyArray:
    """Events per frame."""
    return np.array(counts, dtype=np.int32)


def read(path: Path) -> dict[str, AnyArray]:
    """All datasets of the events; fails if the file cannot be opened."""
    found: dict[str, AnyArray] = {}

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[:]

    with h5py.File(path, "r") as h5:
        h5["events"].visititems(add)
    return found


def assert_frames(path: Path, counts: Sequence[int], n_frames: int) -> None:
    """The file holds the events of the first frames made by `frame`, and nothing else."""
    numbers = np.arange(n_frames, dtype=np.uint32)
    kept = np.asarray(counts)[:n_frames]
    events = read(path)
    n_events = int(kept.sum())
    assert {feat: len(data) for feat, data in events.items()} == dict.fromkeys(events, n_events)
    if n_events:
        parts = [frame(ii, int(nn)) for ii, nn in zip(numbers, kept, strict=True) if nn]
        for feat in parts[0]:
            expected = np.concatenate([part[feat] for part in parts])
            if feat == "mask":
                expected = expected * np.uint8(255)
            np.testing.assert_array_equal(events[feat], expected, err_msg=feat)
    if "index_unmapped" in events:
        np.testing.assert_array_equal(events["index_unmapped"], np.repeat(numbers, kept))
        np.testing.assert_array_equal(events["nevents"], np.repeat(kept, kept))


def thread_for(
    path: Path,
    items: Iterable[tuple[Any, Any]],
    counts: Sequence[int],
    *,
    write_queue_size: Any = None,
    **options: Any,
) -> QueueWriterThread:
    """A writer that is not started, with a filled queue."""
    event_queue: queue.Queue[Any] = queue.Queue()
    for item in items:
        event_queue.put(item)
    size = multiprocessing.RawValue("L", 7) if write_queue_size is None else write_queue_size
    return QueueWriterThread(
        event_queue=event_queue,
        write_queue_size=size,
        feat_nevents=counts,
        path_out=path,
        **{"write_threshold": 2, "threads": 1, **options},
    )


def ended(writer: threading.Thread) -> threading.Thread:
    """Start a writer, wait for its end, and leave the error for the test to find."""
    writer.start()
    threading.Thread.join(writer, RESULT_TIMEOUT_S)
    assert not writer.is_alive()
    return writer


def message_has(error: BaseException, *parts: object) -> None:
    """The message says what the test expects it to say."""
    missing = [str(part) for part in parts if str(part) not in str(error)]
    assert not missing, f"{missing} not in: {error}"
