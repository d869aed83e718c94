"""SIGKILL of a real writer process, as its program sees it: what the program was told is there.

Alone here: the moments. Invariant: `durable` of a trial is what the parent saw before the kill.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dcwrite

from .aftermath import Trial, inspect
from .children import Shared, in_child
from .small_stream import Spec, frames, n_expected

__all__ = ["process_kills"]

SPAWN = multiprocessing.get_context("spawn")
#: Longest life of one stream.
TIMEOUT_S = 60.0


def process_kills(spec: Spec, folder: Path, *, count: int, seed: int) -> Iterator[Trial]:
    """Kill at the start, in the middle of the batches, or while the rest is written and closed."""
    shared = Shared()
    rng = random.Random(seed)
    for number in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        trial = Trial(number, error="ended")
        phase = rng.choice(["start", "batches", "batches", "close"])
        _run_and_kill(spec, folder / "run.rtdc", trial, phase, rng, use_pipe=bool(number % 2))

        def check(trial: Trial = trial) -> dict[str, Any]:
            found = Trial(trial.number, error="ended", durable=trial.durable)
            inspect(spec, folder, found)
            return {"wrong": found.wrong, "recovered": found.recovered, "finished": found.finished}

        result = in_child(shared, check)
        trial.wrong += result.get("wrong", [])
        trial.recovered = result.get("recovered", -1)
        trial.finished = result.get("finished", False)
        yield trial


class _Feeder(threading.Thread):
    """Puts the frames up to one, and the rest after the kill."""

    def __init__(self, spec: Spec, events: Any, last: int) -> None:
        super().__init__(daemon=True)
        self._spec = spec
        self._events = events
        self._last = last
        self.killed = threading.Event()

    def run(self) -> None:
        """Put; the queue of a dead writer refuses."""
        with suppress(dcwrite.DCWriteError):
            for index, item in enumerate(frames(self._spec)):
                if index == self._last:
                    self.killed.wait(TIMEOUT_S)
                if item:
                    self._events.put((index, item))


def _run_and_kill(
    spec: Spec, path: Path, trial: Trial, phase: str, rng: random.Random, *, use_pipe: bool
) -> None:
    """One stream whose writer is killed; `trial.durable` is the last number that was seen."""
    events = SPAWN.Queue() if use_pipe else dcwrite.EventQueue()
    counts = [len(item["deform"]) if item else 0 for item in frames(spec)]
    total = n_expected(spec)
    writer = dcwrite.QueueWriterProcess(
        None, events, SPAWN.RawValue("L", 0), counts, path, write_threshold=spec.threshold,
        event_count=True,
    )  # fmt: skip
    last = spec.n_frames if phase == "close" else rng.randrange(spec.n_frames // 10, spec.n_frames)
    whole = sum(counts[: last // spec.threshold * spec.threshold])
    goal = {"start": 0, "batches": rng.randint(0, whole), "close": rng.randint(total // 2, total)}
    feeder = _Feeder(spec, events, last)
    writer.start()
    feeder.start()
    part = path.with_name(path.name + ".part")
    _wait(writer, lambda: part.exists() and writer.durable_events.peek() >= goal[phase])
    threading.Event().wait(rng.uniform(0, 0.01))
    trial.durable = writer.durable_events.peek()
    with suppress(ProcessLookupError):  # it may have ended
        os.kill(writer.pid, signal.SIGKILL)
    try:
        writer.join()
    except dcwrite.WriterDiedError as exc:
        trial.status = exc.exitcode or 0
    except dcwrite.DCWriteError as exc:
        trial.wrong.append(f"{type(exc).__name__}: {exc}")
    if trial.status not in {0, -signal.SIGKILL}:
        trial.wrong.append(f"exit status {trial.status}")
    feeder.killed.set()
    after = writer.durable_events.peek()
    trial.what = f"{phase}, {trial.durable} of {total} durable ({after} at the end)"
    trial.durable = max(trial.durable, after)
    writer.close()
    feeder.join(TIMEOUT_S)
    if feeder.is_alive():
        trial.wrong.append("who puts events was not told")
    events.close()
    if use_pipe:
        events.cancel_join_thread()


def _wait(writer: Any, condition: Callable[[], bool]) -> None:
    """Look until it is so, or the writer has ended."""
    end = time.monotonic() + TIMEOUT_S
    tick = threading.Event()
    while writer.is_alive() and time.monotonic() < end and not condition():
        tick.wait(0.0005)
