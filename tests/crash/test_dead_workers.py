"""Workers that are killed: whoever waits for the recording is told, and keeps what had come."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dcwrite
from dcwrite.stream.messages import MessageReader

pytestmark = pytest.mark.leaks_allowed(reason="who is killed leaves semaphores to the tracker")

SPAWN = multiprocessing.get_context("spawn")
FORK = multiprocessing.get_context("fork")
N_FRAMES = 5


def put_one(event_queue: Any, counts: Any) -> None:
    counts[0] = 1
    event_queue.put((0, {"deform": np.array([0.5])}))
    if not isinstance(event_queue, dcwrite.EventQueue):
        event_queue.close()
        event_queue.join_thread()


def put_one_and_die(event_queue: Any, counts: Any) -> None:
    put_one(event_queue, counts)
    os.kill(os.getpid(), signal.SIGKILL)


def put_half_and_die(event_queue: Any, counts: Any) -> None:
    """What is left when the thread that fills the pipe is killed in the middle of a message."""
    counts[0] = 1
    writer = event_queue._writer
    if hasattr(event_queue, "_sem"):
        event_queue._sem.acquire()
    writer.send((0, {"deform": np.array([0.5])}))
    event_queue._wlock.acquire()
    os.write(writer.fileno(), struct.pack("!i", 1000) + b"x" * 100)
    os.kill(os.getpid(), signal.SIGKILL)


def joined(writer: Any) -> BaseException:
    with pytest.raises(dcwrite.DCWriteError) as caught:
        writer.join()
    return caught.value


def check(path: Path) -> None:
    with dcwrite.Recording(path) as recording:
        assert recording["deform"][:].tolist() == [0.5]
    assert dcwrite.verify(path).exit_code < 2


@pytest.mark.parametrize("in_process", [False, True], ids=["thread", "process"])
@pytest.mark.parametrize("make", [dcwrite.EventQueue, SPAWN.Queue], ids=["EventQueue", "mp"])
@pytest.mark.parametrize("joined_first", [False, True], ids=["not joined", "joined"])
def test_the_last_worker_is_killed(
    make: Any, in_process: bool, joined_first: bool, tmp_path: Path
) -> None:
    """No `stall_timeout`: who waits in `join` cannot bring frames, and nobody else is left."""
    event_queue, counts = make(), SPAWN.RawArray("i", [-1] * N_FRAMES)
    arguments = (event_queue, SPAWN.RawValue("L", 0), counts, tmp_path / "run.rtdc")
    writer: Any = (
        dcwrite.QueueWriterProcess(None, *arguments)
        if in_process
        else dcwrite.QueueWriterThread(*arguments)
    )
    writer.start()
    worker = SPAWN.Process(target=put_one_and_die, args=(event_queue, counts))
    worker.start()
    if joined_first:
        worker.join()
    error = joined(writer)
    assert isinstance(error, dcwrite.StallError)
    assert error.missing_frames == [1, 2, 3, 4]
    assert f"pid {worker.pid}" in str(error)
    assert "exit code -9" in str(error)
    check(tmp_path / "run.rtdc")
    worker.join()
    event_queue.close()
    if in_process:
        writer.close()


def test_workers_that_end_too_early(tmp_path: Path) -> None:
    event_queue, counts = SPAWN.Queue(), SPAWN.RawArray("i", [-1] * N_FRAMES)
    path = tmp_path / "run.rtdc"
    writer = dcwrite.QueueWriterThread(event_queue, SPAWN.RawValue("L", 0), counts, path)
    writer.start()
    worker = SPAWN.Process(target=put_one, args=(event_queue, counts))
    worker.start()
    error = joined(writer)
    assert isinstance(error, dcwrite.StallError)
    assert "all processes that could put events have ended" in str(error)
    check(path)
    worker.join()
    event_queue.close()


def test_nobody_puts_what_is_missing(tmp_path: Path) -> None:
    events: queue.Queue[Any] = queue.Queue()
    path = tmp_path / "run.rtdc"
    events.put((0, {"deform": np.array([0.5])}))
    writer = dcwrite.QueueWriterThread(events, SPAWN.RawValue("L", 0), [1] * N_FRAMES, path)
    writer.start()
    error = joined(writer)
    assert isinstance(error, dcwrite.StallError)
    assert "no other thread is left" in str(error)
    check(path)


@pytest.mark.skipif(os.name != "posix", reason="the pipe is read piece by piece on POSIX only")
@pytest.mark.parametrize("context", [SPAWN, FORK], ids=["spawn", "fork"])
@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_half_a_message(context: Any, kind: str, tmp_path: Path) -> None:
    """Without `join`: a loop over a counter ends, too."""
    event_queue = getattr(context, kind)()
    counts = context.RawArray("i", [-1] * N_FRAMES)
    path = tmp_path / "run.rtdc"
    writer = dcwrite.QueueWriterThread(event_queue, SPAWN.RawValue("L", 0), counts, path)
    writer.start()
    worker = context.Process(target=put_half_and_die, args=(event_queue, counts))
    worker.start()
    worker.join()
    with pytest.raises(dcwrite.WriterDiedError, match="900 bytes are missing"):  # noqa: PT012
        while writer.durable_events.value < N_FRAMES:
            writer.join(0.1)
    check(path)


def test_a_long_message_in_pieces() -> None:
    """Messages longer than a pipe holds, one after the other, and none between them."""
    event_queue = SPAWN.Queue(maxsize=2)
    reader = MessageReader(event_queue)
    with pytest.raises(queue.Empty):
        reader.get_many(0.01)
    for size in (0, 1, 300_000, 10):
        event_queue.put(np.arange(size))
        found: list[Any] = []
        while not found:
            try:
                found = reader.get_many(0.001)
            except queue.Empty:
                continue
        assert len(found[0]) == size
    event_queue.close()
    event_queue.join_thread()
    with pytest.raises(ValueError, match="closed"):
        reader.get_many(0.01)
