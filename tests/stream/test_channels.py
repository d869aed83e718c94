"""QueueWriterThread takes every kind of queue, count array and shared value that callers pass."""

from __future__ import annotations

import ctypes
import multiprocessing
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcwrite import QueueWriterThread

from .streams import RESULT_TIMEOUT_S, assert_frames, frame

FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")
COUNTS = [2, 0, 1, 3, 1]

QUEUES: dict[str, Callable[[], Any]] = {
    "fork-queue": FORK.Queue,
    "spawn-queue": SPAWN.Queue,
    "queue": queue.Queue,
    "simple-queue": queue.SimpleQueue,
    "fork-simple-queue": FORK.SimpleQueue,
    "spawn-simple-queue": SPAWN.SimpleQueue,
}
ARRAYS: dict[str, Callable[[], Any]] = {
    "fork-array": lambda: FORK.Array(ctypes.c_long, [-1] * 5),
    "spawn-array": lambda: SPAWN.Array("i", [-1] * 5),
    "raw-array": lambda: SPAWN.RawArray("i", [-1] * 5),
    "numpy": lambda: np.full(5, -1, np.int32),
    "list": lambda: [-1] * 5,
}
SIZES: dict[str, Callable[[], Any]] = {
    "recursive-lock": lambda: SPAWN.Value("L", 9),
    "non-recursive-lock": lambda: SPAWN.Value("L", 9, lock=SPAWN.Lock()),
    "fork-lock": lambda: FORK.Value("L", 9, lock=FORK.Lock()),
    "no-lock": lambda: SPAWN.RawValue("L", 9),
}


@pytest.fixture(params=QUEUES.values(), ids=QUEUES.keys())
def event_queue(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param()
    yield made
    if hasattr(made, "close"):
        made.close()
    if hasattr(made, "join_thread"):
        made.join_thread()


@pytest.mark.parametrize("make_size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("make_array", ARRAYS.values(), ids=ARRAYS.keys())
def test_fault18_every_channel(
    event_queue: Any,
    make_array: Callable[[], Any],
    make_size: Callable[[], Any],
    tmp_path: Path,
) -> None:
    path = tmp_path / "out.rtdc"
    counts, size = make_array(), make_size()
    writer = QueueWriterThread(
        event_queue=event_queue,
        write_queue_size=size,
        feat_nevents=counts,
        path_out=path,
        hdf5_dataset_kwargs={"compression": "gzip"},
        write_threshold=2,
    )
    writer.start()
    for index in (3, 0, 1, 4, 2):
        counts[index] = COUNTS[index]
        if COUNTS[index]:
            event_queue.put((index, frame(index, COUNTS[index])))
    writer.join(RESULT_TIMEOUT_S)
    assert not writer.is_alive()
    assert (writer.written_frames.value, writer.written_events.value) == (5, 7)
    assert size.value == 0
    assert_frames(path, COUNTS, 5)
