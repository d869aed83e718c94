"""Row 12: from put to written and to durable, at a steady rate, and the cost of waiting."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure import Context, Row
from producers import SPAWN, Crew, Task, new_counts
from recordings import scalars

from dcwrite import QueueWriterThread
from dcwrite.stream.channel import EventQueue

__all__ = ["latencies"]

FRAME_RATE_HZ = 3000.0
N_PRODUCERS = 2


class StampedWriter(QueueWriterThread):
    """A writer that notes when its counters change: (time, number of frames or events)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.written: list[tuple[float, int]] = []
        self.durable: list[tuple[float, int]] = []

    def _count(self, n_events: int, n_frames: int) -> None:
        super()._count(n_events, n_frames)
        self.written.append((time.perf_counter(), self.written_frames.peek()))

    def _count_durable(self, n_events: int) -> None:
        super()._count_durable(n_events)
        self.durable.append((time.perf_counter(), n_events))


class StampedDeque(collections.deque[Any]):
    """The peer's queue between its threads: tells when the last feature of a batch is done.

    The peer takes the next item when the one before is stored; "nevents" is the last of a batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[float, int]] = []
        self._n_events = self._n_done = 0

    def popleft(self) -> Any:
        self.stamp()
        feat, data = super().popleft()
        if feat == "nevents":
            self._n_events += len(data)
        return feat, data

    def stamp(self) -> None:
        """Note what was stored until now."""
        if self._n_events != self._n_done:
            self._n_done = self._n_events
            self.written.append((time.perf_counter(), self._n_done))


def waits_ms(stamps: list[tuple[float, int]], put_s: np.ndarray[Any, Any]) -> Any:
    """Time from each put to the first stamp that counts it; shape (frames,)."""
    times, counts = np.array([s[0] for s in stamps]), np.array([s[1] for s in stamps])
    first = np.searchsorted(counts, np.arange(1, len(put_s) + 1))
    return 1e3 * (times[np.minimum(first, len(times) - 1)] - put_s)


def _options(task: Task, path: Path, threshold: int) -> dict[str, Any]:
    return {
        "event_queue": task.queue,
        "write_queue_size": SPAWN.RawValue("L", 0),
        "feat_nevents": task.counts,
        "path_out": path,
        "write_threshold": threshold,
    }


def _ours(path: Path, crew: Crew, task: Task, number: int, threshold: int) -> dict[str, Any]:
    path.unlink(missing_ok=True)
    writer = StampedWriter(**_options(task, path, threshold))
    writer.start()
    crew.start(number)
    writer.join()
    crew.wait()
    put_s = np.array(task.times)
    return {"written": waits_ms(writer.written, put_s), "durable": waits_ms(writer.durable, put_s)}


def _peer(path: Path, crew: Crew, task: Task, number: int, threshold: int) -> dict[str, Any]:
    from dcnum.write import QueueWriterThread as PeerThread  # noqa: PLC0415 - a peer

    path.unlink(missing_ok=True)
    stamped = StampedDeque()

    class Peer(PeerThread):
        def run(self) -> None:
            super().run(writer_dq=stamped)

    writer = Peer(**_options(task, path, threshold))
    writer.start()
    crew.start(number)
    writer.join()
    crew.wait()
    stamped.stamp()
    return {"written": waits_ms(stamped.written, np.array(task.times))}


def latencies(context: Context) -> Iterator[Row]:
    """Row 12: batches of 1 and of 500 frames of small events, 3000 frames/s."""
    events = scalars(500, 4)
    n_frames = context.size(12_000, 1500)
    ways = [(threshold, who) for threshold in (1, 500) for who in ("ours", "peer")]
    tasks = []
    for _, who in ways:
        tasks.append(
            Task(
                EventQueue(producers=N_PRODUCERS) if who == "ours" else SPAWN.Queue(),
                new_counts(n_frames),
                SPAWN.RawArray("d", n_frames),
                FRAME_RATE_HZ,
            )
        )
    found: dict[tuple[int, str], dict[str, Any]] = {}
    with context.scratch() as folder, Crew(folder, events, tasks, N_PRODUCERS) as crew:
        for number, (threshold, who) in enumerate(ways):
            run = _ours if who == "ours" else _peer
            found[threshold, who] = run(
                folder / f"{who}.rtdc", crew, tasks[number], number, threshold
            )
    for threshold in (1, 500):
        ours, peer = found[threshold, "ours"], found[threshold, "peer"]
        for state in ("written", "durable"):
            p99, p50 = np.percentile(ours[state], [99, 50])
            peers = float(np.percentile(peer[state], 99)) if state in peer else None
            yield Row(
                "12",
                f"99 % of puts to {state}, {FRAME_RATE_HZ:.0f} frames/s, batches of {threshold}",
                "ms",
                ours=float(p99),
                peer=peers,
                limit=1e3 * threshold / FRAME_RATE_HZ,
                limited_by="limit: time in which a batch comes together",
                note=f"median {p50:.2f} ms",
            )
    yield _idle(context)


def _idle(context: Context) -> Row:
    """Processor time of a writer to whom nothing comes."""
    from dcnum.write import QueueWriterThread as PeerThread  # noqa: PLC0415 - a peer

    seconds = context.size(30, 5) / 10
    spent: dict[str, float] = {}
    for name, writer_class in (("ours", QueueWriterThread), ("peer", PeerThread)):
        with context.scratch() as folder:
            event_queue: Any = EventQueue() if name == "ours" else SPAWN.Queue()
            task = Task(event_queue, new_counts(1))
            writer = writer_class(**_options(task, folder / "out.rtdc", 1))
            writer.start()
            time.sleep(0.5)  # it is set up by then
            before = time.process_time()
            time.sleep(seconds)
            spent[name] = 1e3 * (time.process_time() - before) / seconds
            task.counts[0] = 1
            event_queue.put((0, {"deform": np.array([0.1])}))
            writer.join()
            event_queue.close()
    return Row(
        "12",
        f"processor time while nothing comes for {seconds:g} s",
        "ms/s",
        ours=spent["ours"],
        peer=spent["peer"],
        limited_by="a look for aborts every 0.1 s",
    )
