"""Row 9: memory of a writer whose producers are much faster than its disk.

Zstandard level 9 takes the place of a slow disk: the writer takes its chunks many times slower
than the producers bring them, and everything in between has to wait. The writer runs in a
process of its own, whose peak since the start is read in the end; what it had before the first
event is taken off. The shared memory of the queue, as far as the writer has touched it, counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import Context, Row
from producers import SPAWN, Crew, Task, new_counts
from recordings import Events, recording
from streaming import N_PRODUCERS

from dcwrite import Compression, QueueWriterThread
from dcwrite.stream.channel import EventQueue
from dcwrite.stream.collector import MEMORY_BUDGET

__all__ = ["peaks"]

#: What may come on top of the budget.
ALLOWANCE_BYTES = 100 * 2**20
SLOW = Compression(level=9)


def _status(name: str) -> int:
    """Give a line of Linux's /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def _write(pipe: Any, task: Task, path: Path, threads: int) -> None:
    """Run in the writer's process: write, and tell the peak above the start, and the time."""
    writer = QueueWriterThread(
        event_queue=task.queue,
        write_queue_size=SPAWN.RawValue("L", 0),
        feat_nevents=task.counts,
        path_out=path,
        compression=SLOW,
        threads=threads,
    )
    idle = _status("VmRSS")
    pipe.send("ready")
    start = time.perf_counter()
    writer.start()
    writer.join()
    seconds = time.perf_counter() - start
    pipe.send((_status("VmHWM") - idle, seconds))


def measure(context: Context, events: Events, n_frames: int) -> tuple[int, float]:
    """Write one recording; peak above idle in bytes, and seconds."""
    task = Task(EventQueue(producers=N_PRODUCERS), new_counts(n_frames))
    ours, theirs = SPAWN.Pipe()
    with context.scratch() as folder, Crew(folder, events, [task], N_PRODUCERS) as crew:
        process = SPAWN.Process(
            target=_write, args=(theirs, task, folder / "out.rtdc", context.threads)
        )
        process.start()
        theirs.close()
        ours.recv()
        crew.start(0)
        crew.wait()
        peak, seconds = ours.recv()
        process.join()
    return peak, seconds


def put_into_nothing(context: Context, events: Events, n_frames: int) -> float:
    """Frames per second that the producers bring to a reader who does nothing with them."""
    task = Task(EventQueue(producers=N_PRODUCERS), new_counts(n_frames))
    with context.scratch() as folder, Crew(folder, events, [task], N_PRODUCERS) as crew:
        start = time.perf_counter()
        crew.start(0)
        n_left = n_frames
        while n_left:
            n_left -= len(task.queue.get_many(60))
        seconds = time.perf_counter() - start
        crew.wait()
    return n_frames / seconds


def peaks(context: Context) -> Iterator[Row]:
    """Row 9: recordings of two lengths."""
    if not Path("/proc/self/status").exists():
        return
    events = recording(context.size(1000, 300))
    lengths = (context.size(12_000, 300), context.size(30_000, 600))
    fastest = put_into_nothing(context, events, context.size(10_000, 600))
    found: list[int] = []
    for n_frames in lengths:
        peak, seconds = measure(context, events, n_frames)
        found.append(peak)
        raw = n_frames * sum(data[:1].nbytes for data in events.values())
        yield Row(
            "9",
            f"peak memory above idle, {n_frames:,} events ({raw / 2**20:,.0f} MiB), slow disk; "
            f"limit: memory_budget + 100 MiB",
            "MiB",
            ours=peak / 2**20,
            limit=(MEMORY_BUDGET + ALLOWANCE_BYTES) / 2**20,
            ratio=peak / (MEMORY_BUDGET + ALLOWANCE_BYTES),
            at_most=1.0,
            limited_by="budget, queue, chunks on their way",
            note=f"producers {fastest / (n_frames / seconds):.0f} times as fast as the writer",
            samples={"seconds": [seconds]},
        )
    yield Row(
        "9",
        f"peak memory, {lengths[1]:,} events as compared with {lengths[0]:,}",
        "",
        ours=found[1] / found[0],
        ratio=found[1] / found[0],
        at_most=1.1,
        limited_by="",
        note="one run each; the tolerance is a choice, not part of the target",
    )
