"""EventQueue: whoever is killed, at whatever moment, nobody else waits, and nothing is left."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcwrite import ClosedError, QueueWriterProcess, WriterDiedError
from dcwrite.stream.channel import EventQueue
from dcwrite.stream.peers import MessagePipe, Peer, _is_running, wait

from .queue_workers import (
    events_of,
    put_and_die,
    put_numbered,
    read_and_close,
    read_and_die,
)
from .streams import RESULT_TIMEOUT_S, message_has
from .test_event_queue import FORK, SPAWN, MakeQueue, assert_same, filled, make

__all__ = ["make"]


def kill(process: Any) -> None:
    """Kill a process, and do not wait for it: it stays a zombie."""
    os.kill(process.pid, signal.SIGKILL)


def wait_until_a_producer_waits(event_queue: EventQueue) -> None:
    """Read announcements, without taking items, until a producer says that it has no room."""
    reader = event_queue._reader
    with reader._turn(None):
        while all(lane.wanted is None for lane in reader._known):
            assert wait([event_queue._lanes.pipe.reader], timeout=RESULT_TIMEOUT_S)
            reader._read_pipe()


@pytest.mark.parametrize("context", [SPAWN, FORK], ids=["spawn", "fork"])
def test_a_producer_that_is_killed_in_the_middle_of_an_item(context: Any, make: MakeQueue) -> None:
    event_queue = make(1 << 17, producers=2)
    process = context.Process(target=put_numbered, args=(event_queue, 0, 10**6))
    process.start()
    wait_until_a_producer_waits(event_queue)
    kill(process)
    items = []
    with pytest.raises(WriterDiedError) as caught:  # noqa: PT012 - how many come before is open
        while True:
            items.append(event_queue.get(timeout=RESULT_TIMEOUT_S))
    n_items = len(items)
    assert_same(items, [(ii, events_of(ii, 1 + ii % 3)) for ii in range(n_items)])
    message_has(caught.value, f"pid {process.pid}", "middle", f"number {n_items + 2} ")
    assert n_items > 50
    process.join()
    # the queue goes on, with the lane of the dead
    for first in (0, 100):
        heir = FORK.Process(target=put_numbered, args=(event_queue, first, 20))
        heir.start()
        frames = [event_queue.get(timeout=RESULT_TIMEOUT_S)[0] for _ in range(20)]
        assert frames == list(range(first, first + 20))
        heir.join()


def test_a_producer_that_is_killed_in_the_middle_of_a_large_item(make: MakeQueue) -> None:
    event_queue = make(1 << 17, producers=8)
    process = FORK.Process(target=put_numbered, args=(event_queue, 0, 3, 2000))
    process.start()
    wait_until_a_producer_waits(event_queue)
    kill(process)
    with pytest.raises(WriterDiedError):
        event_queue.get(timeout=RESULT_TIMEOUT_S)
    process.join()
    item = (5, events_of(5, 3, 400))
    putter = threading.Thread(target=event_queue.put, args=(item,))
    putter.start()
    assert_same(event_queue.get(timeout=RESULT_TIMEOUT_S), item)
    putter.join()


def test_a_producer_that_is_killed_between_two_items(make: MakeQueue) -> None:
    """What it has put is read, and nothing is told: that frames are missing, others find out."""
    event_queue = make(1 << 17, producers=2)
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def put_and_wait() -> None:
        put_numbered(event_queue, 0, 5)
        sender.send("done")
        signal.pause()

    process = FORK.Process(target=put_and_wait)
    process.start()
    assert receiver.recv() == "done"
    kill(process)
    for frame in range(5):
        found = event_queue.get(timeout=RESULT_TIMEOUT_S)
        assert_same(found, (frame, events_of(frame, 1 + frame % 3)))
    with pytest.raises(queue.Empty):
        event_queue.get(timeout=0.05)
    process.join()


@pytest.mark.parametrize("seed", range(4))
def test_producers_that_are_killed_at_any_moment(seed: int, make: MakeQueue) -> None:
    """Of each producer there is a beginning, whole and in order; the others bring everything."""
    rng = np.random.default_rng(seed)
    event_queue = make(1 << 17, producers=4)
    for _ in range(4):
        processes = {
            first: FORK.Process(target=put_numbered, args=(event_queue, first, 300))
            for first in (0, 1000, 2000)
        }
        for process in processes.values():
            process.start()
        victim = 1000 * int(rng.integers(3))
        n_before_kill = int(rng.integers(400))
        found: dict[int, int] = dict.fromkeys(processes, 0)
        n_deaths = 0
        while any(found[first] < 300 for first in processes if first != victim):
            try:
                frame, events = event_queue.get(timeout=RESULT_TIMEOUT_S)
            except WriterDiedError as exc:
                message_has(exc, f"pid {processes[victim].pid}")
                n_deaths += 1
                continue
            first = frame // 1000 * 1000
            assert frame == first + found[first]
            assert_same(events, events_of(frame, 1 + frame % 3))
            found[first] += 1
            if sum(found.values()) == n_before_kill:
                kill(processes[victim])
        for first, process in processes.items():
            if first == victim and n_before_kill > sum(found.values()):
                kill(process)
        for process in processes.values():
            process.join()
        try:
            while True:  # what the victim had put after the others were done
                frame, events = event_queue.get(timeout=0.02)
                assert frame == victim + found[victim]
                assert_same(events, events_of(frame, 1 + frame % 3))
                found[victim] += 1
        except WriterDiedError:
            n_deaths += 1
        except queue.Empty:
            pass
        assert n_deaths <= 1
        with pytest.raises(queue.Empty):
            event_queue.get(timeout=0)


READERS: dict[str, tuple[Any, Callable[..., None], type[BaseException], str]] = {
    "killed": (SPAWN, read_and_die, WriterDiedError, "has died"),
    "killed-fork": (FORK, read_and_die, WriterDiedError, "has died"),
    "closed": (FORK, read_and_close, ClosedError, "closed"),
}


@pytest.mark.parametrize(
    ("context", "target", "error", "words"), READERS.values(), ids=READERS.keys()
)
def test_a_reader_that_goes(
    context: Any, target: Any, error: Any, words: str, make: MakeQueue
) -> None:
    """Who waits for room is told, also while the dead reader is still a zombie."""
    event_queue = make(1 << 16, producers=2)
    process = context.Process(target=target, args=(event_queue, 5))
    process.start()
    told: list[BaseException] = []

    def put() -> None:
        try:
            put_numbered(event_queue, 0, 10**6)
        except error as exc:
            told.append(exc)

    threads = [threading.Thread(target=put) for _ in range(3)]  # one waits, the others for it
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(RESULT_TIMEOUT_S)
    assert len(told) == 3
    assert all(words in str(exc) for exc in told)
    process.join()


def test_a_writer_process_that_cannot_begin_lets_nobody_wait(
    make: MakeQueue, tmp_path: Path
) -> None:
    event_queue = make(1 << 16, producers=2)
    writer = QueueWriterProcess(
        None,
        event_queue,
        SPAWN.RawValue("L", 0),
        SPAWN.RawArray("i", [1] * 10),
        tmp_path / "no" / "out.rtdc",
    )
    writer.start()
    with pytest.raises(ClosedError, match="what the writer"):
        put_numbered(event_queue, 0, 10**6)
    with pytest.raises(OSError, match="no"):
        writer.join(RESULT_TIMEOUT_S)
    writer.close()


def test_a_writer_process_whose_worker_is_killed(make: MakeQueue, tmp_path: Path) -> None:
    """The writer ends with an error at once, and does not wait for the missing frames."""
    event_queue = make(1 << 20, producers=2)
    counts = SPAWN.RawArray("i", [1] * 50)
    writer = QueueWriterProcess(
        None,
        event_queue,
        SPAWN.RawValue("L", 0),
        counts,
        tmp_path / "out.rtdc",
        write_threshold=10,
    )
    worker = SPAWN.Process(target=put_and_die, args=(event_queue, 34))
    worker.start()
    writer.start()
    with pytest.raises(WriterDiedError, match="in the middle") as caught:
        writer.join(RESULT_TIMEOUT_S)
    message_has(caught.value, f"pid {worker.pid}")
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert writer.written_frames.peek() == 34
    writer.close()


SCRIPT = """
import multiprocessing, sys
from dcwrite.stream.channel import EventQueue
from tests.stream.queue_workers import put_numbered

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    event_queue = EventQueue(1 << 20, producers=4)
    workers = [spawn.Process(target=put_numbered, args=(event_queue, 0, 10**9)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for _ in range(500):
        event_queue.get()
    print(*[worker.pid for worker in workers], flush=True)
    while True:
        event_queue.get()
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_nothing_is_left_when_all_are_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    assert process.stdout is not None
    pids = [process.pid, *map(int, process.stdout.readline().split())]
    held = set()
    for pid in pids:
        held |= {os.path.realpath(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            held.add(line[73:])
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(pids) == 3
    assert any("memfd:dcwrite" in name for name in held)
    # what has no name cannot stay behind
    assert not [name for name in held if name.startswith(("/dev/shm", str(tmp_path)))]
    assert not list(tmp_path.iterdir())


def test_peers() -> None:
    process = FORK.Process(target=signal.pause)
    process.start()
    peer, unwatched = Peer(process.pid), Peer(process.pid)
    unwatched.close()  # as on a system that cannot tell
    try:
        assert not peer.has_ended()
        assert not unwatched.has_ended()
        assert not wait([], timeout=0, peers=[peer, unwatched])
        kill(process)
        assert wait([], timeout=RESULT_TIMEOUT_S, peers=[peer])
        assert wait([], timeout=RESULT_TIMEOUT_S, peers=[unwatched])
        assert peer.has_ended()
        assert unwatched.has_ended()
        assert not _is_running(process.pid)  # a zombie
        process.join()
        assert not _is_running(process.pid)
        late = Peer(process.pid)
        assert late.has_ended()
        late.close()
        assert _is_running(os.getpid())
    finally:
        peer.close()


def test_a_full_pipe_loses_nothing() -> None:
    pipe = MessagePipe(40)
    n_sent = 0
    while pipe.send(bytes([n_sent % 256]) * 40):
        n_sent += 1
    assert n_sent > 1000
    assert not wait([], timeout=0, writable=pipe.writer)
    data = b""
    while part := pipe.receive(100):
        data += part
    assert data == b"".join(bytes([ii % 256]) * 40 for ii in range(n_sent))
    assert wait([], timeout=0, writable=pipe.writer)


def test_more_items_than_the_pipe_holds(make: MakeQueue) -> None:
    """Items without memory: it is the pipe that is full."""
    event_queue = make(1 << 16, producers=1)
    n_items = filled(event_queue, None)
    assert n_items > 1000
    putter = threading.Thread(target=event_queue.put, args=((n_items, None),))
    putter.start()
    assert [event_queue.get()[0] for _ in range(n_items + 1)] == list(range(n_items + 1))
    putter.join()
    assert event_queue.empty()
