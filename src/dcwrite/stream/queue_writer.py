"""QueueWriterThread and QueueWriterProcess: a stream's writer in a thread or a process.

Alone here: how an error gets from there to those who wait. Invariant: an error is raised at the
next look at a counter and at `join`, and a process that had one ends with a non-zero exit code.
"""

from __future__ import annotations

import collections
import logging
import multiprocessing as mp
import multiprocessing.spawn
import os
import pickle
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from logging.handlers import QueueHandler
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import UsageError, WriterDiedError
from ..store.journal import Durability
from .queue_writer_base import MEMORY_BUDGET, QueueWriterBase, mp_spawn
from .relay import Relay, can_be_spawned, close_queue, memory_of, without_fork_lock

__all__ = ["QueueWriterProcess", "QueueWriterThread"]

#: Exit code of a process that had an error, which it sent to its parent.
_EXIT_FAILED: Final = 1
#: Exit code when the interpreter could not be executed; `multiprocessing` drops the cause.
_EXIT_NOT_EXECUTED: Final = 255


class QueueWriterThread(QueueWriterBase, threading.Thread):
    """Write events from a queue to an .rtdc file, in a thread.

    Frames may come in any order; they are written in the order of their index.

    Parameters
    ----------
    event_queue
        Queue of items ``(frame_index, events)``: a multiprocessing queue, `queue.Queue`,
        `queue.SimpleQueue`, or anything with such a ``get(timeout=)``. `events` is a dict of
        arrays whose first axis is the event, or None for a frame without events, which needs no
        item.
    write_queue_size
        Shared value that is set to the number of arrays that wait to be written.
    feat_nevents
        Number of events per frame, shape (frames,): shared array, numpy array or list. -1: not
        processed yet; it has to be set before the frame's item is put.
    path_out
        Path of the file; an existing one is replaced.
    hdf5_dataset_kwargs
        Arguments for new datasets; default: Zstandard level 5 and Fletcher-32.
    write_threshold
        Number of frames that are written at a time.
    stall_timeout
        Seconds without any news after which missing frames are an error; None: wait for ever.
    frame_info
        Whether to add the features "index_unmapped" and "nevents".
    compression, threads, event_count, scalar_attributes, dedup_background
        As for `HDF5Writer`.
    durability, sync_interval_s, in_place, live
        As for `ChunkWriter`.
    memory_budget
        Bytes that may wait in the writer; who fills its queue has to wait.
    stream_log
        Whether to leave the log "dcwrite-stream" in the recording: how it ended, frames
        announced, received, without events, dropped (`dropped_frames`), missing.
    *args, **kwargs
        For :class:`threading.Thread`.

    Attributes
    ----------
    error : BaseException or None
        What ended the writer before its time.
    written_events, written_frames, durable_events : Counter
        Numbers handed to HDF5, and number of events that would survive a kill now; ``.value``
        raises the error of a writer that failed.
    """

    _logger_name = "dcwrite.write.QueueWriterThread"

    def __init__(
        self,
        event_queue: Any,
        write_queue_size: Any,
        feat_nevents: Sequence[int],
        path_out: Path | str,
        hdf5_dataset_kwargs: Mapping[str, Any] | None = None,
        write_threshold: int = 500,
        *args: Any,
        stall_timeout: float | None = None,
        frame_info: bool = True,
        compression: Any = None,
        threads: int | None = None,
        event_count: bool = False,
        scalar_attributes: bool = False,
        dedup_background: bool = False,
        durability: Durability = "process",
        sync_interval_s: float = 0.0,
        in_place: bool = False,
        live: bool = False,
        memory_budget: int = MEMORY_BUDGET,
        stream_log: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", "QueueWriterThread")
        threading.Thread.__init__(self, *args, **kwargs)
        self._set_up(
            event_queue,
            write_queue_size,
            feat_nevents,
            path_out,
            hdf5_dataset_kwargs,
            write_threshold,
            stall_timeout,
            frame_info,
            memory_budget,
            stream_log,
            {
                "compression": compression,
                "threads": threads,
                "event_count": event_count,
                "scalar_attributes": scalar_attributes,
                "dedup_background": dedup_background,
                "durability": durability,
                "sync_interval_s": sync_interval_s,
                "in_place": in_place,
                "live": live,
            },
        )

    def run(
        self,
        buffer_dq: collections.deque[Any] | None = None,
        writer_dq: collections.deque[Any] | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        """Write until all frames are written; without `start` too.

        Parameters
        ----------
        buffer_dq
            Items that were taken from the queue before; it is emptied.
        writer_dq
            Queue between collecting and writing; default: one that wakes the writer.
        logger
            Logger to use.

        Raises
        ------
        BaseException
            The first error, if called directly. A started thread keeps it in `error`, and raises
            it from the counters, `check` and `join`.
        """
        try:
            self._write(buffer_dq, writer_dq, logger or self.get_logger())
        except BaseException as exc:
            self.error = exc
            if threading.current_thread() is not self:
                raise
            self.get_logger().error("QueueWriterThread failed: %s", exc)

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end.

        Raises
        ------
        BaseException
            The error with which the thread ended, but not that of `abort`.
        """
        self._wait_for_end(lambda seconds: threading.Thread.join(self, seconds), timeout)
        if not self.is_alive():
            self.check()


class QueueWriterProcess(QueueWriterBase, mp_spawn.Process):  # type: ignore[name-defined,misc]
    """Write events from a queue to an .rtdc file, in a process of its own.

    A spawned process. Queues that cannot be given to one (`queue.Queue`, queues of a fork context)
    are read by a thread here and passed on.

    Parameters
    ----------
    log_queue
        Queue for log records of the process.
    event_queue, write_queue_size, feat_nevents, path_out, hdf5_dataset_kwargs, write_threshold
        As for `QueueWriterThread`.
    stall_timeout, frame_info, compression, threads, event_count, scalar_attributes
        As for `QueueWriterThread`.
    dedup_background, durability, sync_interval_s, in_place, live
        As for `QueueWriterThread`.
    memory_budget, stream_log
        As for `QueueWriterThread`.
    *args, **kwargs
        For :class:`multiprocessing.Process`.

    Attributes
    ----------
    error : BaseException or None
        What ended the process before its time; `WriterDiedError` if it was killed.
    written_events, written_frames, durable_events : Counter
        Numbers handed to HDF5, and number of events that would survive a kill now; ``.value``
        raises the error of a process that failed.
    """

    _logger_name = "dcwrite.write.QueueWriterProcess"

    def __init__(
        self,
        log_queue: Any,
        event_queue: Any,
        write_queue_size: Any,
        feat_nevents: Sequence[int],
        path_out: Path | str,
        hdf5_dataset_kwargs: Mapping[str, Any] | None = None,
        write_threshold: int = 500,
        *args: Any,
        stall_timeout: float | None = None,
        frame_info: bool = True,
        compression: Any = None,
        threads: int | None = None,
        event_count: bool = False,
        scalar_attributes: bool = False,
        dedup_background: bool = False,
        durability: Durability = "process",
        sync_interval_s: float = 0.0,
        in_place: bool = False,
        live: bool = False,
        memory_budget: int = MEMORY_BUDGET,
        stream_log: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", "QueueWriterProcess")
        mp_spawn.Process.__init__(self, *args, **kwargs)
        self.log_queue = log_queue
        self._set_up(
            event_queue,
            write_queue_size,
            feat_nevents,
            path_out,
            hdf5_dataset_kwargs,
            write_threshold,
            stall_timeout,
            frame_info,
            memory_budget,
            stream_log,
            {
                "compression": compression,
                "threads": threads,
                "event_count": event_count,
                "scalar_attributes": scalar_attributes,
                "dedup_background": dedup_background,
                "durability": durability,
                "sync_interval_s": sync_interval_s,
                "in_place": in_place,
                "live": live,
            },
        )
        self._error_receiver, self._error_sender = mp_spawn.Pipe(duplex=False)
        self._began = mp_spawn.RawValue("b", 0)
        self._relay: Relay | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What the spawned process gets."""
        state = self.__dict__.copy()
        state.update(_error_receiver=None, _relay=None, _ended_before=())
        if self._relay is not None:
            state["event_queue"] = self._relay.target
        for name in ("write_queue_size", "feat_nevents"):
            state[name] = without_fork_lock(state[name])
        return state

    def start(self) -> None:
        """Start the process.

        Raises
        ------
        UsageError
            `feat_nevents` is not shared, and does not hold all counts yet; or `log_queue` cannot
            be given to a spawned process.
        """
        if isinstance(self.feat_nevents, (list, tuple, np.ndarray)) and -1 in self.feat_nevents:
            raise UsageError(
                "feat_nevents: expected a shared array (multiprocessing.Array or RawArray), or "
                "all counts before the start, got a list or numpy array with -1: the process has "
                "a copy of its own, in which nobody could set the missing counts"
            )
        if self.log_queue is not None and not can_be_spawned(self.log_queue):
            raise UsageError(
                "log_queue: expected a queue that a spawned process can write to, got one of this "
                "process or of a fork context; make it with "
                "`multiprocessing.get_context('spawn').Queue()`, or pass None"
            )
        if not can_be_spawned(self.event_queue):
            self._relay = Relay(self.event_queue, mp_spawn.Queue(maxsize=1000))
            self._relay.start()
        try:
            super().start()
        except BaseException:
            self._stop_relay()
            raise
        self._error_sender.close()

    def run(
        self,
        buffer_dq: collections.deque[Any] | None = None,
        writer_dq: collections.deque[Any] | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        """Write until all frames are written.

        Parameters
        ----------
        buffer_dq, writer_dq, logger
            As for `QueueWriterThread.run`; only in a direct call, not in the process.

        Raises
        ------
        BaseException
            The first error, if called directly.
        """
        if mp.current_process() is not self:
            self._write(buffer_dq, writer_dq, logger or self.get_logger())
            return
        self._began.value = 1
        logger = self.get_logger()
        logger.handlers.clear()
        handler = QueueHandler(self.log_queue) if self.log_queue else logging.NullHandler()
        logger.addHandler(handler)
        failed = False
        for number in (signal.SIGINT, signal.SIGTERM):
            # a flag: an exception could hit in the middle of anything
            signal.signal(number, self._note_signal)
        # This process puts nothing: without its end for writing, half a message of a producer that
        # was killed ends with EOFError once all producers are gone, and is not waited for.
        with suppress(AttributeError, OSError):
            self.event_queue._writer.close()  # noqa: SLF001 - a queue has no public name for it
        try:
            self._write(None, None, logger)
        except BaseException as exc:  # noqa: BLE001 - sent to the parent process
            failed = True
            logger.error("QueueWriterProcess failed: %s", exc)  # noqa: TRY400
            self._error_sender.send_bytes(_pickled(exc))
        finally:
            self._error_sender.close()
            logger.removeHandler(handler)
            for shared_queue in (self.log_queue, self.event_queue):
                close_queue(shared_queue, wait=shared_queue is self.log_queue)
        if failed:
            sys.exit(_EXIT_FAILED)

    def _note_signal(self, number: int, _frame: object) -> None:
        self._signal = number

    def check(self) -> None:
        """Raise the error with which the process ended, if it did; not that of `abort`."""
        if self.error is None and not self._closed and self.pid is not None:
            exitcode = self.exitcode
            if exitcode:
                self.error = self._receive_error(exitcode)
                memory_of(self.write_queue_size).value = 0  # the dead may hold its lock
                self._refuse_events()
        super().check()

    def _receive_error(self, exitcode: int) -> BaseException:
        with suppress(EOFError, OSError, pickle.UnpicklingError):
            if self._error_receiver.poll():
                error = pickle.loads(self._error_receiver.recv_bytes())  # noqa: S301 - our child
                if isinstance(error, BaseException):
                    return error
        if not self._began.value and exitcode > 0:
            return WriterDiedError(
                f"'{self.path_out}': the writer process (pid {self.pid}) ended with exit code "
                f"{exitcode} before it began; {_why_not_begun(exitcode)}",
                exitcode,
            )
        return WriterDiedError(
            f"'{self.path_out}': the writer process (pid {self.pid}) died with exit code "
            f"{exitcode} (negative: killed by that signal) and could not say why; "
            f"{self._frames.value} frames had been written",
            exitcode,
        )

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end.

        Raises
        ------
        BaseException
            The error with which the process ended, but not that of `abort`; `WriterDiedError` if
            it was killed.
        """
        self._wait_for_end(super().join, timeout)
        if self.exitcode is not None:
            self._stop_relay()
            self.check()

    def close(self) -> None:
        """Release what belongs to the process; it has to have ended."""
        with suppress(BaseException):
            self.check()
        self._stop_relay()
        super().close()
        self._error_receiver.close()
        self._error_sender.close()

    def _stop_relay(self) -> None:
        if self._relay is not None:
            self._relay.stop()
            self._relay = None


def _why_not_begun(exitcode: int) -> str:
    if exitcode != _EXIT_NOT_EXECUTED:
        return (
            "the cause is in the error that it printed; a program that starts processes needs "
            "`if __name__ == '__main__':` around what it does"
        )
    return (
        f"the system could not execute {os.fsdecode(mp.spawn.get_executable())!r}: it is missing, "
        f"or another thread has changed os.environ in the moment of the start; set the "
        f"environment before, and start again"
    )


def _pickled(exc: BaseException) -> bytes:
    """An error as bytes; one that cannot be pickled as its text."""
    try:
        data = pickle.dumps(exc)
        pickle.loads(data)  # noqa: S301 - just made
    except Exception:  # noqa: BLE001 - errors of other libraries can be anything
        return pickle.dumps(WriterDiedError(f"{type(exc).__name__}: {exc} (pid {os.getpid()})"))
    return data
