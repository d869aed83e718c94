"""Processes that put prepared events into queues, again and again.

Alone here: how events get to the producers before the timer starts. Invariant: a producer puts
frames whose events it holds already; it draws, reads and converts nothing while it is timed.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from recordings import Events

__all__ = ["SPAWN", "Crew", "Task", "new_counts"]

SPAWN = multiprocessing.get_context("spawn")


@dataclass
class Task:
    """One recording to put.

    Parameters
    ----------
    queue
        Where to.
    counts
        Events per frame, shared, -1 at first.
    times
        Where the time of each put is noted; None: nowhere.
    frame_rate_hz
        Frames per second of each producer's recording; None: as fast as it goes.
    frames_per_put
        Frames that are put at once, with `put_batch` if there are several.
    """

    queue: Any
    counts: Any
    times: Any = None
    frame_rate_hz: float | None = None
    frames_per_put: int = 1


def new_counts(n_frames: int) -> Any:
    """Make shared counts that say that no frame was processed yet."""
    counts = SPAWN.RawArray("i", n_frames)
    np.frombuffer(counts, np.int32)[:] = -1
    return counts


class Crew:
    """Producers that hold events, with one per frame; a context manager.

    Parameters
    ----------
    folder
        Through which the events get to them.
    events
        What they hold; frame i has the events of i modulo their number (of a multiple of the
        frames that are put at once, for these).
    tasks
        What they can be told to do.
    n_producers
        Number of processes; each has every n-th frame.
    """

    def __init__(
        self, folder: Path, events: Events, tasks: Sequence[Task], n_producers: int = 2
    ) -> None:
        self._tasks = tasks
        for feat, data in events.items():
            np.save(folder / f"{feat}.npy", data)
        self._pipes, self._processes = [], []
        for number in range(n_producers):
            ours, theirs = SPAWN.Pipe()
            process = SPAWN.Process(
                target=_produce,
                args=(theirs, folder, list(events), list(tasks), number, n_producers),
                daemon=True,
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def start(self, number: int) -> None:
        """Let all producers begin with a task."""
        for pipe in self._pipes:
            pipe.send(number)

    def wait(self) -> float:
        """Wait until all have put everything; the longest time that one took, in seconds."""
        return max(pipe.recv() for pipe in self._pipes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            if exc_type is None:
                pipe.send(None)
                process.join()
            else:
                process.kill()
                process.join()
            pipe.close()
        for task in self._tasks:
            task.queue.close()
            if exc_type is not None and hasattr(task.queue, "cancel_join_thread"):
                task.queue.cancel_join_thread()


def _produce(
    pipe: Any, folder: Path, features: list[str], tasks: list[Task], number: int, n_producers: int
) -> None:
    """Run in the process: put the frames of this producer."""
    arrays = {feat: np.load(folder / f"{feat}.npy") for feat in features}
    n_held = len(next(iter(arrays.values())))
    held = [
        {feat: data[index : index + 1] for feat, data in arrays.items()} for index in range(n_held)
    ]
    pipe.send("ready")
    while (which := pipe.recv()) is not None:
        task = tasks[which]
        start = time.perf_counter()
        if task.frames_per_put > 1:
            _put_batches(task, arrays, number, n_producers)
        else:
            _put_all(task, held, number, n_producers)
        if hasattr(task.queue, "join_thread"):
            task.queue.close()
            task.queue.join_thread()
        pipe.send(time.perf_counter() - start)


def _put_all(task: Task, held: list[Events], number: int, n_producers: int) -> None:
    put, counts, times = task.queue.put, task.counts, task.times
    n_held = len(held)
    start = time.perf_counter()
    period = 0.0 if task.frame_rate_hz is None else 1 / task.frame_rate_hz
    for frame in range(number, len(counts), n_producers):
        if period:
            delay = start + frame * period - time.perf_counter()
            if delay > 0:
                time.sleep(delay)
        counts[frame] = 1
        if times is not None:
            times[frame] = time.perf_counter()
        put((frame, held[frame % n_held]))


def _put_batches(task: Task, arrays: Events, number: int, n_producers: int) -> None:
    """Put several frames at once; each producer has every n-th batch of them."""
    put_batch, counts, size = task.queue.put_batch, task.counts, task.frames_per_put
    n_held = len(next(iter(arrays.values())))
    for first in range(number * size, len(counts), n_producers * size):
        n_frames = min(size, len(counts) - first)
        start = first % (n_held - n_held % size)
        counts[first : first + n_frames] = [1] * n_frames
        events = {feat: data[start : start + n_frames] for feat, data in arrays.items()}
        put_batch(first, [1] * n_frames, events)
