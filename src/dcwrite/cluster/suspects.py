"""Tasks whose workers died are tried once more, each alone: who was only near is not blamed.

Alone here: who is to blame. Dask counts the death of a worker against all tasks that it was given,
also those that had not begun. Invariant: a task ends as killed only if workers died of it while
nothing else was running; the future of a task that has ended is let go.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

__all__ = ["Suspects"]


class _Job:
    """A task, and what has been submitted of it."""

    def __init__(self, call: tuple[Any, ...]) -> None:
        self.call = call
        self.future: Future[Any] = Future()
        self.inner: Future[Any] | None = None
        self.is_alone = False
        self.future.add_done_callback(self._pass_back)

    def _pass_back(self, future: Future[Any]) -> None:
        if future.cancelled() and (inner := self.inner) is not None:
            inner.cancel()

    def end(self, inner: Future[Any]) -> None:
        """Pass on how it ended."""
        self.forget()
        if not self.future.set_running_or_notify_cancel():
            return
        if (error := inner.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(inner.result())

    def forget(self) -> None:
        """Let go of what was submitted.

        Dask keeps a result, and computes it again if the worker that holds it dies, until its
        future is gone: at once, and not when Python collects circles.
        """
        self.inner, self.call = None, ()


class Suspects:
    """Submits tasks.

    Parameters
    ----------
    submit
        Runs a function with its arguments.
    was_killed
        Whether an error says that workers died.
    """

    def __init__(
        self, submit: Callable[..., Future[Any]], was_killed: Callable[[BaseException], bool]
    ) -> None:
        self._submit, self._was_killed = submit, was_killed
        self._lock = threading.Lock()
        self._n_running = 0
        #: whether one of the suspects is running: others wait
        self._is_held = False
        self._held: deque[_Job] = deque()
        self._suspects: deque[_Job] = deque()

    def submit(self, *call: Any) -> Future[Any]:
        """Run a function; its future ends cancelled if that of the cluster did."""
        job = _Job(call)
        with self._lock:
            if self._is_held:
                self._held.append(job)
                return job.future
            self._n_running += 1
        try:
            self._start(job)
        except BaseException:
            with self._lock:
                self._n_running -= 1
            raise
        return job.future

    def _start(self, job: _Job) -> None:
        inner = job.inner = self._submit(*job.call)
        if job.future.cancelled():  # in the meantime
            inner.cancel()
        inner.add_done_callback(partial(self._end, job))

    def _end(self, job: _Job, inner: Future[Any]) -> None:
        if inner.cancelled():
            job.forget()
            job.future.cancel()
            job.future.set_running_or_notify_cancel()
        elif (
            not job.is_alone
            and not job.future.cancelled()
            and (error := inner.exception()) is not None
            and self._was_killed(error)
        ):
            job.inner = None
            with self._lock:
                self._suspects.append(job)
        else:
            job.end(inner)
        self._go_on(job)

    def _go_on(self, ended: _Job) -> None:
        with self._lock:
            self._n_running -= 1
            if ended.is_alone:
                self._is_held = False
            ready = [job for job in self._held if not job.future.cancelled()]
            self._held.clear()
            while not ready and not self._n_running and self._suspects:
                suspect = self._suspects.popleft()
                if not suspect.future.cancelled():
                    suspect.is_alone = self._is_held = True
                    ready = [suspect]
            self._n_running += len(ready)
        for job in ready:
            try:
                self._start(job)
            except Exception as exc:  # noqa: BLE001 - the task's
                failed: Future[Any] = Future()
                failed.set_exception(exc)
                self._end(job, failed)
