"""Many inputs: one task for each, several at the same time, on when one of them fails.

Alone here: how tasks are spread, stopped and counted. Invariant: there is one outcome for each
input, in the order of the inputs; when the run ends, also by Ctrl-C, no task is running.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from ..errors import AbortedError, UsageError
from ..store.encoder import require_count, usable_cpus
from .progress import Clock, Progress, Report

__all__ = [
    "Batch",
    "Executor",
    "Finished",
    "Outcome",
    "distinct_outputs",
    "outputs_in",
    "run_batch",
]

#: Tasks that are handed to an executor at a time, for each of its workers.
TASKS_PER_WORKER: Final = 2

State: TypeAlias = Literal["done", "skipped", "failed"]


class Finished(NamedTuple):
    """What a task may return to say more than its result.

    Attributes
    ----------
    result
        What the tool returned.
    outputs
        Files that were written, or were there already.
    skipped
        Why nothing had to be done; empty: something was.
    """

    result: Any = None
    outputs: tuple[Path, ...] = ()
    skipped: str = ""


class Task(Protocol):
    """Work on one input; picklable, so that another process can do it."""

    def __call__(self, path: Path, *, threads: int | None, progress: Report | None) -> Any:
        """Do it; what `progress` raises has to end it. May return `Finished`."""


class Executor(Protocol):
    """Where tasks run; as `concurrent.futures.Executor`."""

    @property
    def n_workers(self) -> int:
        """Tasks that run at the same time; may change."""

    @property
    def threads_per_task(self) -> int | None:
        """Threads of each task; None: what the caller says."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run later."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input.

    Attributes
    ----------
    path
        The input.
    state
        "done", "skipped" or "failed".
    outputs
        Files that were written, or were there already.
    result
        What the task returned.
    reason
        Why it was skipped.
    error
        Why it failed.
    bytes_before, bytes_after
        Size of the input and of the outputs; None: not known.
    elapsed_s
        Time that it took; of one that failed, until that was known.
    """

    path: Path
    state: State
    outputs: tuple[Path, ...] = ()
    result: Any = None
    reason: str = ""
    error: Exception | None = None
    bytes_before: int | None = None
    bytes_after: int | None = None
    elapsed_s: float = 0.0

    @property
    def output(self) -> Path | None:
        """The output, where there is one."""
        return self.outputs[0] if self.outputs else None

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        result = self.result
        return {
            "path": str(self.path),
            "state": self.state,
            "outputs": [str(path) for path in self.outputs],
            "reason": self.reason,
            "error": None if self.error is None else str(self.error),
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "elapsed_s": self.elapsed_s,
            "result": result.to_dict() if hasattr(result, "to_dict") else None,
        }


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of all inputs.

    Attributes
    ----------
    outcomes
        One for each input, in their order.
    elapsed_s
        Wall time.
    """

    outcomes: tuple[Outcome, ...]
    elapsed_s: float

    def count(self, state: State) -> int:
        """Number of inputs in a state."""
        return sum(outcome.state == state for outcome in self.outcomes)

    @property
    def exit_code(self) -> int:
        """0, or 2 if an input failed."""
        return 2 if self.count("failed") else 0

    def raise_first(self) -> None:
        """Raise the error of the first input that failed."""
        for outcome in self.outcomes:
            if outcome.error is not None:
                raise outcome.error

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "outcomes": [outcome.to_dict() for outcome in self.outcomes],
            "elapsed_s": self.elapsed_s,
        }


def outputs_in(
    out_dir: str | os.PathLike[str],
    paths: Iterable[str | os.PathLike[str]],
    rename: Callable[[Path], str] = lambda path: path.name,
) -> list[Path]:
    """One output for each input in a folder.

    Parameters
    ----------
    out_dir
        The folder.
    paths
        The inputs.
    rename
        Name of the output of an input.

    Raises
    ------
    UsageError
        Two inputs have the same output, or an output is an input.
    """
    inputs = [Path(path) for path in paths]
    outputs = [Path(out_dir) / rename(path) for path in inputs]
    distinct_outputs(inputs, outputs)
    return outputs


def distinct_outputs(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Refuse outputs that are inputs, or that two inputs have.

    Parameters
    ----------
    inputs, outputs
        In the same order.

    Raises
    ------
    UsageError
        There is such an output; nothing was done.
    """
    resolved = {path.resolve() for path in inputs}
    taken: dict[Path, Path] = {}
    for path, output in zip(inputs, outputs, strict=True):
        if output.resolve() in resolved:
            raise UsageError(
                f"'{output}': expected outputs that are none of the inputs, got the input itself; "
                f"choose another output folder (nothing was done)"
            )
        key = Path(os.path.normcase(output))
        if key in taken:
            raise UsageError(
                f"'{path}' and '{taken[key]}' would both become '{output}'; give one of them "
                f"another output folder (nothing was done)"
            )
        taken[key] = path


def run_batch(
    task: Task,
    paths: Iterable[str | os.PathLike[str]],
    *,
    jobs: int = 1,
    threads: int | None = None,
    stage: str = "working",
    progress: Report | None = None,
    executor: Executor | None = None,
) -> Batch:
    """Do the same with many inputs; an error of one is its outcome, and the others go on.

    Parameters
    ----------
    task
        Work on one input.
    paths
        The inputs.
    jobs
        Inputs at the same time, in threads of this process (the work is done outside of Python's
        lock).
    threads
        Threads of all jobs together; None: the usable cores. Each gets its share.
    stage
        Name of the stage for `progress`.
    progress
        Takes records of progress, in bytes of the inputs; those of the task itself where there
        is only one input. Called from several threads, one at a time.
    executor
        Runs the tasks instead, elsewhere; they get its attribute `progress`, if it
        has one: called in the task, picklable, raises to end it.

    Raises
    ------
    UsageError
        No number of jobs or threads.
    KeyboardInterrupt
        When all tasks have ended.
    """
    inputs = [Path(path) for path in paths]
    require_count("jobs", jobs)
    require_count("threads", threads)
    start = time.perf_counter()
    if executor is not None:
        share = executor.threads_per_task or threads
        meter = _Meter(inputs, stage, progress)
        run = partial(_timed, task, share, progress=getattr(executor, "progress", None))
        tasks = [(run, path) for path in inputs]
        outcomes = _spread(tasks, executor, meter)
    elif len(inputs) == 1:
        outcomes = [_run_here(task, inputs[0], threads, progress)]
    else:
        jobs = max(1, min(jobs, len(inputs)))
        share = max(1, (threads or usable_cpus()) // jobs)
        meter = _Meter(inputs, stage, progress)
        if jobs == 1:
            outcomes = []
            for number, path in enumerate(inputs):
                outcomes.append(_run_here(task, path, share, meter.of(number)))
                meter.finish(number)
        else:
            tasks = [
                (partial(_timed, task, share, progress=meter.of(number)), path)
                for number, path in enumerate(inputs)
            ]
            with _local_threads(jobs, share, meter) as local:
                outcomes = _spread(tasks, local, meter)
    return Batch(tuple(outcomes), time.perf_counter() - start)


class _Meter:
    """Progress of a batch: bytes of the inputs, those of unfinished ones by their part.

    Parameters
    ----------
    paths
        The inputs.
    stage, report
        As for `run_batch`.
    """

    def __init__(self, paths: Sequence[Path], stage: str, report: Report | None) -> None:
        self.sizes = [_size_of(path) or 0 for path in paths]
        self.stopped = threading.Event()
        self._done = [0] * len(paths)
        self._lock = threading.Lock()
        total = sum(self.sizes)
        self._clock = Clock(stage, total, "bytes", report) if total else None

    def of(self, number: int) -> Report:
        """What takes the progress of one input, and ends it when all are to end."""

        def take(progress: Progress) -> None:
            if self.stopped.is_set():
                raise AbortedError("the other files of this batch are not to be worked on either")
            if progress.total:
                self._set(number, self.sizes[number] * progress.current // progress.total)

        return take

    def finish(self, number: int) -> None:
        """Count an input as done."""
        self._set(number, self.sizes[number])

    def _set(self, number: int, n_bytes: int) -> None:
        with self._lock:
            # never backwards: a task may have several stages
            self._done[number] = max(self._done[number], min(n_bytes, self.sizes[number]))
            if self._clock is not None:
                self._clock.show(sum(self._done))


class _LocalThreads:
    """Threads of this process as an executor."""

    def __init__(self, jobs: int, threads_per_task: int) -> None:
        self.n_workers = jobs
        self.threads_per_task: int | None = threads_per_task
        self.pool = ThreadPoolExecutor(jobs, thread_name_prefix="dcwrite-job")

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        return self.pool.submit(function, *args)


@contextmanager
def _local_threads(jobs: int, threads_per_task: int, meter: _Meter) -> Iterator[Executor]:
    local = _LocalThreads(jobs, threads_per_task)
    try:
        yield local
    except BaseException:
        meter.stopped.set()
        raise
    finally:
        local.pool.shutdown(wait=True, cancel_futures=True)


def _timed(
    task: Task, threads: int | None, path: Path, progress: Report | None = None
) -> tuple[float, Any]:
    """Do a task where it runs; its seconds, and what it returned."""
    start = time.perf_counter()
    end = task(path, threads=threads, progress=progress)
    return time.perf_counter() - start, end


def _run_here(task: Task, path: Path, threads: int | None, progress: Report | None) -> Outcome:
    start = time.perf_counter()
    size = _size_of(path)
    try:
        elapsed_s, end = _timed(task, threads, path, progress)
    except Exception as exc:  # noqa: BLE001 - the outcome of this input
        elapsed_s, end = time.perf_counter() - start, exc
    return _outcome(path, end, elapsed_s, size)


def _spread(
    tasks: Sequence[tuple[Callable[[Path], tuple[float, Any]], Path]],
    executor: Executor,
    meter: _Meter,
) -> list[Outcome]:
    """Run on all workers of an executor, a few tasks ahead."""
    outcomes: dict[int, Outcome] = {}
    waiting: dict[Future[Any], tuple[int, float, int | None]] = {}
    left = iter(enumerate(tasks))
    try:
        while True:
            most = max(1, executor.n_workers) * TASKS_PER_WORKER  # a cluster may grow
            while len(waiting) < most and (item := next(left, None)) is not None:
                number, (run, path) = item
                size, start = _size_of(path), time.perf_counter()
                waiting[executor.submit(run, path)] = number, start, size
            if not waiting:
                break
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                number, start, size = waiting.pop(future)
                elapsed_s, end = time.perf_counter() - start, None
                try:
                    elapsed_s, end = future.result()
                except Exception as exc:  # noqa: BLE001 - the outcome of this input
                    end = exc
                outcomes[number] = _outcome(tasks[number][1], end, elapsed_s, size)
                meter.finish(number)
    except BaseException:
        for future in waiting:
            future.cancel()
        raise
    return [outcomes[number] for number in range(len(tasks))]


def _outcome(path: Path, end: Any, elapsed_s: float, size: int | None) -> Outcome:
    if isinstance(end, Exception):
        return Outcome(path, "failed", error=end, bytes_before=size, elapsed_s=elapsed_s)
    finished = end if isinstance(end, Finished) else Finished(end)
    sizes = [_size_of(output) for output in finished.outputs]
    known = [n_bytes for n_bytes in sizes if n_bytes is not None]
    return Outcome(
        path,
        "skipped" if finished.skipped else "done",
        outputs=finished.outputs,
        result=finished.result,
        reason=finished.skipped,
        bytes_before=size,
        bytes_after=sum(known) if known else None,
        elapsed_s=elapsed_s,
    )


def _size_of(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_size
    return None
