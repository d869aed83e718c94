"""Writers for dcnum's pipeline: ours, with its habits, and with an end when its workers have died.

Alone here: what `dcnum.logic.DCNumJobRunner` does with a writer and its workers. Invariant: the
runner gets the true cause at its next look at a counter, and no worker outlives its writer.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import AbortedError, StallError
from ..store.writer import HDF5Writer as _HDF5Writer
from ..stream.chunk_writer import ChunkWriter as _ChunkWriter
from ..stream.queue_writer import QueueWriterProcess as _QueueWriterProcess
from ..stream.queue_writer import QueueWriterThread as _QueueWriterThread
from ..stream.queue_writer_base import QueueWriterBase
from ..stream.relay import memory_of

__all__ = [
    "ChunkWriter",
    "HDF5Writer",
    "QueueWriterProcess",
    "QueueWriterThread",
    "one_at_a_time",
    "remember_workers",
]

#: All workers have ended and nothing comes out of the queue: after that time nothing will.
QUIET_S: Final = 2.0
#: How long workers may take to end when their writer has failed; then they are terminated.
RELEASE_S: Final = 20.0
#: The longest time until something is noticed.
TICK_S: Final = 0.1
#: Frame numbers that a message lists.
LISTED_FRAMES: Final = 10

#: Workers of the pipelines of this process, also those that have ended.
_workers: weakref.WeakSet[Any] = weakref.WeakSet()

#: Who holds it may change the environment, or start a process.
_environment_lock = threading.RLock()


def remember_workers(workers: Iterable[Any]) -> None:
    """Note the workers of a pipeline before they are started; the writer finds its own.

    Parameters
    ----------
    workers
        `dcnum.logic.UniversalWorkerProcess` or `UniversalWorkerThread` objects.
    """
    for worker in workers:
        if hasattr(worker, "slot_register"):
            _workers.add(worker)


def one_at_a_time(os_env_st: ModuleType) -> type[Any]:
    """Let dcnum change the environment for a start, but never beside the start of another process.

    dcnum starts its workers in a thread, each with other environment variables, while the runner
    starts the writer. From 3.11.4 on, Python lets other threads go on until the new process has
    begun (https://github.com/python/cpython/issues/104372); until then both have one memory. An
    environment that is changed in that moment cannot be read, and the writer never begins (EFAULT;
    `multiprocessing` says nothing but exit code 255). About 1 of 500 starts failed like that.

    Parameters
    ----------
    os_env_st
        `dcnum.os_env_st`.

    Returns
    -------
    type
        Takes the place of its `RequestSingleThreaded`.
    """
    theirs: Any = os_env_st.RequestSingleThreaded

    class RequestSingleThreaded(theirs):  # type: ignore[misc]
        """As dcnum's, but only one thread at a time has one."""

        def __enter__(self) -> Any:
            _environment_lock.acquire()
            return super().__enter__()

        def __exit__(self, *error: object) -> None:
            try:
                super().__exit__(*error)
            finally:
                _environment_lock.release()

    return RequestSingleThreaded


class HDF5Writer(_HDF5Writer):
    """`dcwrite.HDF5Writer` for dcnum's calls."""

    def store_basin(
        self,
        name: str,
        paths: Any = None,
        features: Sequence[str] | None = None,
        description: str | None = None,
        mapping: npt.ArrayLike | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> str:
        """Store a basin.

        When each frame has given exactly one event, dcnum's runner indexes the mapping of the
        background images with None and passes an array of shape (1, n). It means the n numbers;
        dcnum stores it as it is, which nothing can read.
        """
        if mapping is not None and np.ndim(mapping) == 2 and np.shape(mapping)[0] == 1:
            mapping = np.asarray(mapping)[0]
        return super().store_basin(name, paths, features, description, mapping, *args, **kwargs)


class ChunkWriter(_ChunkWriter):
    """`dcwrite.ChunkWriter` that logs where dcnum's does."""

    def __init__(
        self,
        path_out: Any,
        dq: Any,
        write_queue_size: Any,
        ds_kwds: Any = None,
        mode: str = "a",
        parent_logger: logging.Logger | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        parent_logger = parent_logger or logging.getLogger("dcnum.write")
        super().__init__(
            path_out, dq, write_queue_size, ds_kwds, mode, parent_logger, *args, **kwargs
        )


class _PipelineWriter(QueueWriterBase):
    """What thread and process have beside dcwrite's: dcnum's log, and an eye on the workers."""

    #: when the workers had ended and nothing came any more; None: something still comes
    _quiet_since: float | None = None
    _last_written = -1
    #: what became of the workers, once the writer was ended for it
    _end_of_workers: str | None = None
    _released = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # the recording is then the one that dcnum's own writer makes
        kwargs.setdefault("stream_log", False)
        super().__init__(*args, **kwargs)
        self.log_level = logging.getLogger("dcnum").level

    def check(self) -> None:
        """Raise the error with which the writer ended; it also ends for want of workers.

        Raises
        ------
        StallError
            All workers have ended, and frames are missing.
        BaseException
            Any other error of the writer.
        """
        try:
            super().check()
            self._look_at_workers()
        except BaseException:
            self._release_workers()
            raise

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end; raises what `check` raises."""
        if not self._own_workers():
            super().join(timeout)  # type: ignore[misc]
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = TICK_S if deadline is None else min(TICK_S, deadline - time.monotonic())
            super().join(max(0.0, left))  # type: ignore[misc]
            if not self.is_alive() or left <= 0:
                return
            self.check()

    def is_alive(self) -> bool:
        """Whether it runs; of the thread or the process."""
        return bool(super().is_alive())  # type: ignore[misc]

    def _own_workers(self) -> list[Any]:
        """The workers that fill this writer's queue: they share its counter."""
        return [
            worker
            for worker in list(_workers)
            if worker.slot_register.counters["write_queue_size"] is self.write_queue_size
        ]

    def _look_at_workers(self) -> None:
        """End the writer when its workers have ended, or one was killed, and frames are missing.

        dcnum's runner waits for ever for workers that have logged an error and ended, and for
        its writer for 100 minutes when they were killed.
        """
        n_frames, n_written = len(self.feat_nevents), self.written_frames.peek()
        if n_written == n_frames or not self._has_started():
            return
        if self._end_of_workers is not None:
            if isinstance(self.error, AbortedError):
                self.error = self._stall(n_written)
                raise self.error
            return
        workers = self._own_workers()
        ended = [worker for worker in workers if _has_ended(worker)]
        # one that was killed takes its frames with it, whatever the others still do
        died = any(getattr(worker, "exitcode", 0) for worker in ended)
        if not ended or not (died or len(ended) == len(workers)):
            return
        if self._quiet_since is None or n_written != self._last_written or self._has_items():
            self._quiet_since, self._last_written = time.monotonic(), n_written
        elif time.monotonic() - self._quiet_since > QUIET_S:
            self._end_of_workers = ", ".join(map(_end_of, ended))
            self.abort()  # all frames that are complete are written first

    def _has_started(self) -> bool:
        """Whether it was started, and not closed yet."""
        try:
            return self.ident is not None  # type: ignore[attr-defined]
        except ValueError:
            return False

    def _has_items(self) -> bool:
        try:
            return not self.event_queue.empty()
        except (OSError, ValueError):
            return False

    def _stall(self, n_written: int) -> StallError:
        counts = np.array(memory_of(self.feat_nevents)[:])
        frames = np.flatnonzero(counts < 0)
        if not len(frames):
            frames = np.arange(n_written, len(counts))
        listed = ", ".join(map(str, frames[:LISTED_FRAMES]))
        more = f" and {len(frames) - LISTED_FRAMES} more" if len(frames) > LISTED_FRAMES else ""
        return StallError(
            f"'{self.path_out}': expected {len(counts)} frames from dcnum's workers, got "
            f"{n_written}; workers have ended ({self._end_of_workers}), and frames {listed}"
            f"{more} never came; look for the cause in the job's log",
            frames.tolist(),
        )

    def _release_workers(self) -> None:
        """Let the workers end when the writer has failed; dcnum's runner would leave them behind.

        Their events are thrown away: a process ends only when all that it has put was taken.
        """
        if self._released:
            return
        self._released = True
        workers = self._own_workers()
        for worker in workers:
            worker.slot_register.state = "q"
        deadline = time.monotonic() + RELEASE_S
        while (running := list(filter(_is_running, workers))) and time.monotonic() < deadline:
            if not self._throw_items_away(running, deadline):
                running[0].join(TICK_S)
        for worker in running:
            if hasattr(worker, "terminate"):
                worker.terminate()

    def _throw_items_away(self, workers: Sequence[Any], deadline: float) -> bool:
        """Empty the pipe, whatever lock or half a message the dead writer has left there.

        Returns when the pipe is empty for a moment, or one of the processes has ended. False:
        there is no pipe.
        """
        reader = getattr(self.event_queue, "_reader", None)
        sentinels = [worker.sentinel for worker in workers if hasattr(worker, "sentinel")]
        if reader is None or not sentinels:
            return False
        with suppress(OSError, ValueError):
            while wait([reader, *sentinels], TICK_S) == [reader]:
                os.read(reader.fileno(), 1024**2)
                if time.monotonic() > deadline:
                    break
            return True
        return False


class QueueWriterThread(_PipelineWriter, _QueueWriterThread):
    """`dcwrite.QueueWriterThread` for dcnum's pipeline."""

    _logger_name = "dcnum.write.QueueWriterThread"


class QueueWriterProcess(_PipelineWriter, _QueueWriterProcess):
    """`dcwrite.QueueWriterProcess` for dcnum's pipeline."""

    _logger_name = "dcnum.write.QueueWriterProcess"

    def start(self) -> None:
        """Start the process, while nobody changes the environment."""
        with _environment_lock:
            super().start()


def _has_ended(worker: Any) -> bool:
    """Whether a worker, thread or process, was started and has ended."""
    try:
        return worker.ident is not None and not worker.is_alive()
    except ValueError:  # closed by who has joined it
        return True


def _is_running(worker: Any) -> bool:
    return not _has_ended(worker) and worker.ident is not None


def _end_of(worker: Any) -> str:
    """What became of a worker that has ended."""
    with suppress(ValueError):
        if hasattr(worker, "exitcode"):
            return f"pid {worker.pid}: exit code {worker.exitcode}"
    return str(worker.name)
