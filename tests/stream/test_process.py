"""QueueWriterProcess: real processes, and every way in which one of them can end."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dcwrite import (
    AbortedError,
    DCWriteError,
    EventError,
    QueueWriterProcess,
    QueueWriterThread,
    StallError,
    StorageError,
    UsageError,
    WriterDiedError,
)
from dcwrite.simulate import SimulatedRecording, SimulationSettings, scrambled_frames

from .queue_workers import Unreadable
from .streams import RESULT_TIMEOUT_S, assert_frames, frame, message_has, read
from .workers import Telltale, deliver, told

FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")

Start = Callable[..., QueueWriterProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a writer process; it and the queues are cleaned up at the end."""
    writers: list[QueueWriterProcess] = []
    queues: list[Any] = []

    def start(
        path: Path, items: Sequence[Any], counts: Any, event_queue: Any = None, **options: Any
    ) -> QueueWriterProcess:
        event_queue = SPAWN.Queue() if event_queue is None else event_queue
        log_queue = SPAWN.Queue()
        queues.extend([event_queue, log_queue])
        for item in items:
            event_queue.put(item)
        options.setdefault("write_queue_size", SPAWN.Value("L", 9))
        writer = QueueWriterProcess(
            log_queue=log_queue,
            event_queue=event_queue,
            feat_nevents=counts,
            path_out=path,
            **{"write_threshold": 2, "threads": 1, **options},
        )
        writer.start()
        writers.append(writer)
        return writer

    yield start
    for writer in writers:
        if writer.is_alive():
            writer.kill()
        multiprocessing.Process.join(writer)
        writer.close()
    for used in queues:
        if hasattr(used, "cancel_join_thread"):
            used.cancel_join_thread()
        if hasattr(used, "close"):
            used.close()


def joined(writer: QueueWriterProcess) -> DCWriteError:
    """Wait for the end of a writer that fails; look at a counter, at `join` and at `error`."""
    with pytest.raises(DCWriteError) as caught:
        writer.join(RESULT_TIMEOUT_S)
    for counter in (writer.written_frames, writer.written_events):
        with pytest.raises(type(caught.value)):
            _ = counter.value
    assert writer.exitcode
    assert writer.error is caught.value
    assert writer.write_queue_size.value == 0
    return caught.value


def test_workers_feed_a_thread_and_a_process(start: Start, tmp_path: Path) -> None:
    settings = SimulationSettings(frames=90, image_shape=(16, 48), events_per_frame=0.7, seed=5)
    recording = SimulatedRecording(settings)
    counts = SPAWN.Array("i", [-1] * 90)
    paths = [tmp_path / "process.rtdc", tmp_path / "thread.rtdc"]
    process_queue, thread_queue = SPAWN.Queue(), SPAWN.Queue()
    process = start(paths[0], (), counts, process_queue, write_threshold=20)
    thread = QueueWriterThread(
        event_queue=thread_queue,
        write_queue_size=SPAWN.Value("L", 0),
        feat_nevents=counts,
        path_out=paths[1],
        write_threshold=20,
    )
    thread.start()
    workers = [
        SPAWN.Process(
            target=deliver, args=(recording, frames, counts, [process_queue, thread_queue])
        )
        for frames in scrambled_frames(90, 2, seed=2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(RESULT_TIMEOUT_S)
        assert worker.exitcode == 0
    nevents = recording.nevents()
    for writer in (process, thread):
        writer.join(RESULT_TIMEOUT_S)
        assert not writer.is_alive()
        assert writer.written_frames.value == 90
        assert writer.written_events.value == nevents.sum()
        assert writer.write_queue_size.value == 0
    assert process.exitcode == 0
    thread_queue.close()
    found, same = (read(path) for path in paths)
    assert sorted(found) == sorted(same)
    drawn = [events for ii in range(90) if (events := recording.frame_events(ii))]
    for feat, data in found.items():
        np.testing.assert_array_equal(data, same[feat])
        if feat not in {"index_unmapped", "nevents"}:
            expected = np.concatenate([events[feat] for events in drawn])
            np.testing.assert_array_equal(
                data, expected * np.uint8(255) if feat == "mask" else expected
            )
    np.testing.assert_array_equal(found["index_unmapped"], np.repeat(np.arange(90), nevents))


CHANNELS: dict[str, tuple[Callable[[], Any], Callable[[], Any], Callable[[], Any]]] = {
    "fork-queue": (
        FORK.Queue,
        lambda: FORK.Array("i", [1, 2, 0]),
        lambda: FORK.Value("L", 9, lock=FORK.Lock()),
    ),
    "queue": (
        queue.Queue, lambda: np.array([1, 2, 0]), lambda: SPAWN.Value("L", 9, lock=SPAWN.Lock())
    ),
    "simple-queue": (
        queue.SimpleQueue, lambda: [1, 2, 0], lambda: SPAWN.RawValue("L", 9)
    ),
    "fork-simple-queue": (
        FORK.SimpleQueue, lambda: [1, 2, 0], lambda: SPAWN.RawValue("L", 9)
    ),
    "spawn-simple-queue": (
        SPAWN.SimpleQueue, lambda: [1, 2, 0], lambda: SPAWN.RawValue("L", 9)
    ),
}  # fmt: skip


@pytest.mark.parametrize("channel", CHANNELS.values(), ids=CHANNELS.keys())
def test_fault18_every_channel(channel: Any, start: Start, tmp_path: Path) -> None:
    make_queue, make_counts, make_size = channel
    path = tmp_path / "out.rtdc"
    items = [(1, frame(1, 2)), (0, frame(0))]
    size = make_size()
    writer = start(path, items, make_counts(), make_queue(), write_queue_size=size)
    writer.join(RESULT_TIMEOUT_S)
    assert writer.exitcode == 0
    assert (writer.written_frames.value, writer.written_events.value) == (3, 3)
    assert size.value == 0
    assert_frames(path, (1, 2, 0), 3)


def test_bad_frame(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    bad = frame(3, area_um=None)
    items = [(0, frame(0)), (1, frame(1)), (2, frame(2)), (3, bad)]
    writer = start(path, items, SPAWN.RawArray("i", [1] * 5), stall_timeout=30)
    error = joined(writer)
    assert isinstance(error, EventError)
    message_has(error, "frame 3", "area_um", "frame 0")
    assert_frames(path, [1] * 5, 3)
    assert "frame 3" in writer.log_queue.get(timeout=RESULT_TIMEOUT_S).getMessage()


@pytest.mark.parametrize("make", [SPAWN.Queue, FORK.Queue], ids=["spawn", "fork"])
def test_a_frame_that_cannot_be_unpickled(make: Any, start: Start, tmp_path: Path) -> None:
    """Neither by the writer, nor by the thread that brings it there."""
    path = tmp_path / "out.rtdc"
    items = [(0, frame(0)), (1, frame(1)), (2, {"deform": Unreadable()})]
    error = joined(start(path, items, SPAWN.RawArray("i", [1] * 5), make(), stall_timeout=30))
    assert isinstance(error, EventError)
    message_has(error, "expected an item that this process can unpickle", "ImportError", "lab")
    assert_frames(path, [1] * 5, 2)


def test_fault04_a_path_that_cannot_be_opened(start: Start, tmp_path: Path) -> None:
    writer = start(tmp_path / "no" / "out.rtdc", [(0, frame(0))], SPAWN.Array("i", [1]))
    error = joined(writer)
    assert isinstance(error, StorageError)
    assert error.errno == 2


def test_fault05_a_frame_that_never_comes(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    items = [(0, frame(0)), (1, frame(1)), (3, frame(3))]
    writer = start(path, items, SPAWN.Array("i", [1, 1, 1, 1]), stall_timeout=0.2)
    error = joined(writer)
    assert isinstance(error, StallError)
    assert error.missing_frames == [2]
    assert_frames(path, [1] * 4, 2)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """Give a named pipe: its path, and a handle that reads from it."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, handle
    os.close(handle)


def start_and_take_three_frames(start: Start, path: Path, pipe: tuple[Path, int]) -> Any:
    """Start a process and wait until it has taken three frames of six."""
    area = Telltale(pipe[0], frame(2)["area_um"])
    items = [(0, frame(0)), (1, frame(1)), (2, frame(2, area_um=area))]
    writer = start(path, items, SPAWN.Array("i", [1, 1, 1, -1, 1, 1]))
    assert told(pipe[1], RESULT_TIMEOUT_S)
    return writer


def test_fault04_a_process_that_is_killed(
    start: Start, pipe: tuple[Path, int], tmp_path: Path
) -> None:
    writer = start_and_take_three_frames(start, tmp_path / "out.rtdc", pipe)
    os.kill(writer.pid, signal.SIGKILL)
    error = joined(writer)
    assert isinstance(error, WriterDiedError)
    assert error.exitcode == writer.exitcode == -signal.SIGKILL
    message_has(error, "out.rtdc", "exit code -9")


def test_fault04_a_process_that_is_killed_with_a_lock(
    start: Start, pipe: tuple[Path, int], tmp_path: Path
) -> None:
    lock = SPAWN.Lock()
    size = SPAWN.Value("L", 9, lock=lock)
    writer = start(tmp_path / "out.rtdc", (), SPAWN.Array("i", [1]), write_queue_size=size)
    with lock:  # as if the dead process held it
        os.kill(writer.pid, signal.SIGKILL)
        with pytest.raises(WriterDiedError):
            writer.join(RESULT_TIMEOUT_S)
    assert size.value == 0


def test_fault05_abort_from_outside(start: Start, pipe: tuple[Path, int], tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    writer = start_and_take_three_frames(start, path, pipe)
    writer.abort()
    writer.join(RESULT_TIMEOUT_S)
    assert isinstance(writer.error, AbortedError)
    assert writer.exitcode == 1
    assert writer.written_frames.value == 3
    assert_frames(path, [1] * 6, 3)


def test_fault08_threshold(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="write_threshold"):
        QueueWriterProcess(
            SPAWN.Queue(), SPAWN.Queue(), SPAWN.Value("L", 0), [1], tmp_path / "a", None, 0
        )


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no-queue": ({"event_queue": [1]}, "event_queue.*list"),
    "no-counts": ({"feat_nevents": None}, "feat_nevents.*None"),
    "counts-of-two-axes": ({"feat_nevents": np.ones((2, 2), int)}, "feat_nevents"),
    "negative-time": ({"stall_timeout": -1}, "stall_timeout.*-1"),
    "text-as-time": ({"stall_timeout": "5"}, "stall_timeout.*'5'"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys())
def test_bad_arguments(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    good = {
        "log_queue": None, "event_queue": queue.Queue(), "feat_nevents": [1],
        "write_queue_size": SPAWN.RawValue("L", 0), "path_out": tmp_path / "a",
    }  # fmt: skip
    with pytest.raises(DCWriteError, match=words):
        QueueWriterProcess(**{**good, **arguments})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [FORK.Queue, queue.Queue], ids=["fork", "thread"])
def test_a_queue_for_logs_that_the_process_cannot_have(make: Any, tmp_path: Path) -> None:
    writer = QueueWriterProcess(
        make(), SPAWN.SimpleQueue(), SPAWN.RawValue("L", 0), [1], tmp_path / "a"
    )
    with pytest.raises(UsageError, match="log_queue"):
        writer.start()


def test_run_in_the_callers_process(tmp_path: Path) -> None:
    event_queue: queue.Queue[Any] = queue.Queue()
    event_queue.put((0, frame(0)))
    writer = QueueWriterProcess(
        None, event_queue, SPAWN.RawValue("L", 0), [1], str(tmp_path / "out.rtdc")
    )
    writer.run()
    assert writer.written_frames.value == 1
    with h5py.File(tmp_path / "out.rtdc", "r") as h5:
        assert h5["events/deform"].shape == (1,)
