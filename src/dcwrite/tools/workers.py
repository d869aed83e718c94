"""Worker processes that deliver frames to a writer process, and how all of them end together.

Alone here: starting, feeding, watching and ending the processes of one run. Invariant: when
`write_frames` returns, all frames are written; when it raises, no process of the run is left, and
it raises within a tick after a process died.

The writer is a process, not a thread, for one reason: a worker that is killed while it writes into
the queue leaves half a message there, for which a thread of ours would wait for ever.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing as mp
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import StallError, WriterDiedError
from ..stream.channel import EventQueue
from ..stream.queue_writer import QueueWriterProcess
from .progress import Clock

__all__ = ["FrameSource", "interrupts_blocked", "write_frames"]

Frames = npt.NDArray[np.int64]

_spawn = mp.get_context("spawn")

#: How often progress is reported and workers are allowed on; a death wakes at once.
TICK_S: Final = 0.1


class FrameSource(Protocol):
    """Where worker processes get events from; it is pickled into each of them."""

    def deliver(self, blocks: Iterable[Frames]) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
        """Yield each frame of each block, in the order of the block, with its events."""


def write_frames(
    path_out: Path,
    source: FrameSource,
    work: Sequence[Sequence[Frames]],
    n_frames: int,
    *,
    clock: Clock,
    frames_per_batch: int = 500,
    frames_ahead: int = 4000,
    **writer_options: Any,
) -> tuple[int, int]:
    """Write frames that worker processes deliver in any order.

    Parameters
    ----------
    path_out
        File to write; a name of its own (`whole_file` gives one), for after an error all files
        whose names begin with it are removed.
    source
        Where the workers get events from.
    work
        For each worker its blocks of frame indices, in the order of delivery; together each frame
        once.
    n_frames
        Number of frames.
    clock
        Makes the records of progress; its unit is events.
    frames_per_batch
        Frames that are written at a time.
    frames_ahead
        No worker begins a block that reaches further beyond what is written: the bound of what
        stands in memory. Where the order of the blocks needs more, more is allowed.
    **writer_options
        Keyword options of `QueueWriterProcess`.

    Returns
    -------
    n_events, n_frames
        What was written.

    Raises
    ------
    WriterDiedError
        A process died without saying why.
    BaseException
        The first error of a worker or of the writer.
    """
    try:
        return _write_frames(
            path_out, source, work, n_frames, clock, frames_per_batch, frames_ahead, writer_options
        )
    except BaseException:
        # the writer's journal and unfinished file: there is nothing to rescue them for
        for path in path_out.parent.iterdir():
            if path.name.startswith(path_out.name):
                path.unlink(missing_ok=True)
        raise


def _write_frames(
    path_out: Path,
    source: FrameSource,
    work: Sequence[Sequence[Frames]],
    n_frames: int,
    clock: Clock,
    frames_per_batch: int,
    frames_ahead: int,
    writer_options: Mapping[str, Any],
) -> tuple[int, int]:
    """Run the processes; none of them is left afterwards."""
    # without locks: a process that is killed while it holds one would leave the others waiting
    feat_nevents: Any = _spawn.RawArray(ctypes.c_int32, max(1, n_frames))
    counts = np.frombuffer(feat_nevents, dtype=np.int32)[:n_frames]
    counts[:] = -1
    event_queue, log_queue = EventQueue(producers=max(1, len(work))), _spawn.Queue()
    writer = QueueWriterProcess(
        log_queue=log_queue,
        event_queue=event_queue,
        write_queue_size=_spawn.RawValue(ctypes.c_int64, 0),
        feat_nevents=feat_nevents if n_frames else [],
        path_out=path_out,
        write_threshold=frames_per_batch,
        daemon=True,
        **writer_options,
    )
    workers = [
        _Worker(number, source, blocks, event_queue, feat_nevents)
        for number, blocks in enumerate(work)
        if len(blocks)
    ]
    # A worker waits before a block while an earlier frame of a later block is still missing: with
    # this much ahead it is allowed on in time, so that the frames of the next batch always come.
    disorder = max((worker.disorder for worker in workers), default=0)
    frames_ahead = max(frames_ahead, disorder + frames_per_batch + 1)
    try:
        with interrupts_blocked():
            writer.start()
            for worker in workers:
                worker.process.start()
        while True:
            written = writer.written_frames.value
            for worker in workers:
                worker.allow(written + frames_ahead)
            clock.show(writer.written_events.value, int(counts[counts > 0].sum()))
            _pass_on_logs(log_queue)
            running = [worker.process.sentinel for worker in workers if not worker.is_done]
            ended = set(wait([writer.sentinel, *running], timeout=TICK_S))
            for worker in workers:
                if worker.process.sentinel in ended:
                    worker.finish()
            if writer.sentinel in ended:
                writer.join()
                break
            if not running and (counts < 0).any():
                missing = np.flatnonzero(counts < 0).tolist()
                raise StallError(
                    f"all workers have ended, but frames {missing[:20]} never came", missing
                )
        n_written = writer.written_events.value
        clock.show(n_written, n_written)
        return n_written, writer.written_frames.value
    finally:
        for process in [*(worker.process for worker in workers), writer]:
            _end(process)
        _pass_on_logs(log_queue)
        for shared in (event_queue, log_queue):
            shared.close()
            shared.cancel_join_thread()


class _Worker:
    """One worker process, as seen from the process that started it."""

    def __init__(
        self,
        number: int,
        source: FrameSource,
        blocks: Sequence[Frames],
        event_queue: Any,
        feat_nevents: Any,
    ) -> None:
        self.number = number
        self.is_done = False
        #: frames up to which the worker has to be allowed before it begins each block
        self._reach = np.maximum.accumulate([int(block.max()) for block in blocks])
        rest = np.minimum.accumulate([int(block.min()) for block in reversed(blocks)])[::-1]
        #: frames between the last one of a block and the first one that is still to come with it
        self.disorder = int((self._reach - rest).max())
        self._n_allowed = 0
        self._permits = _spawn.Semaphore(0)
        self._errors, errors = _spawn.Pipe(duplex=False)
        self.process = _spawn.Process(
            target=_work,
            name=f"dcwrite-worker-{number}",
            args=(source, list(blocks), self._permits, event_queue, feat_nevents, errors),
            daemon=True,
        )

    def allow(self, n_frames: int) -> None:
        """Let the worker begin all blocks that stay below this frame."""
        n_allowed = int(np.searchsorted(self._reach, n_frames))
        for _ in range(n_allowed - self._n_allowed):
            self._permits.release()
        self._n_allowed = max(n_allowed, self._n_allowed)

    def finish(self) -> None:
        """Take note of the end; raises the error of a worker that failed."""
        self.process.join()
        exitcode = self.process.exitcode
        if exitcode:
            with suppress(EOFError, OSError, pickle.UnpicklingError):
                if self._errors.poll():
                    raise pickle.loads(self._errors.recv_bytes())  # noqa: S301 - our child
            raise WriterDiedError(
                f"worker {self.number} (pid {self.process.pid}) died with exit code {exitcode} "
                f"(negative: killed by that signal); its frames are missing, so the recording "
                f"was given up; look for what killed it, and start again",
                exitcode,
            )
        self.is_done = True


def _work(
    source: FrameSource,
    blocks: Sequence[Frames],
    permits: Any,
    event_queue: Any,
    feat_nevents: Any,
    errors: Any,
) -> None:
    """What a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for frame, events in source.deliver(_allowed(blocks, permits)):
            n_events = len(next(iter(events.values()))) if events else 0
            feat_nevents[frame] = n_events
            if n_events:
                event_queue.put((frame, events))
    except BaseException as exc:  # noqa: BLE001 - sent to the process that started us
        errors.send_bytes(_pickled(exc))
        event_queue.cancel_join_thread()
        sys.exit(1)


def _allowed(blocks: Sequence[Frames], permits: Any) -> Iterator[Frames]:
    for block in blocks:
        permits.acquire()
        yield block


def _end_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # nobody reads the queue any more: an ordinary exit would wait for ever


def _pickled(exc: BaseException) -> bytes:
    """An error as bytes; one that cannot be pickled as its text."""
    try:
        data = pickle.dumps(exc)
        pickle.loads(data)  # noqa: S301 - just made
    except Exception:  # noqa: BLE001 - errors of other libraries can be anything
        return pickle.dumps(WriterDiedError(f"worker: {type(exc).__name__}: {exc}"))
    return data


def _end(process: Any) -> None:
    """End a process, whatever state it is in; an error of its own was raised before.

    It is killed: the writer takes a polite signal as a wish to write what is complete, and hears
    none while it waits for the rest of a message from a worker that died.
    """
    if process.pid is None:
        return
    with suppress(Exception):
        if process.is_alive():
            process.kill()
        mp.process.BaseProcess.join(process)
    with suppress(Exception):
        process.close()


def _pass_on_logs(log_queue: Any) -> None:
    """Hand the records of the writer process to the logging of this one."""
    with suppress(queue.Empty, OSError, ValueError, EOFError):
        while True:
            record = log_queue.get_nowait()
            logging.getLogger(record.name).handle(record)


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Hold Ctrl-C back; a process that is started meanwhile never gets one.

    Otherwise each child would print a traceback of its own. An interrupt that came in the
    meantime is delivered at the end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
