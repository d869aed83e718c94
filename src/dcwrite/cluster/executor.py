"""A Dask cluster as an executor: functions go out, results and errors of ours come home.

Alone here: what becomes of Dask's own errors. Invariant: a future ends; with a result, with the
error of the function, or with one that says what happened to the worker or the scheduler.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from ..errors import AbortedError, ClusterError, UsageError, WriterDiedError
from .library import require_distributed
from .suspects import Suspects

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["ClusterExecutor", "Executor", "run_tasks", "stop_if_cancelled"]

_T = TypeVar("_T")
_R = TypeVar("_R")

#: Tasks that are submitted at a time, for each thread of the workers: none of them waits for the
#: program, and the scheduler has little to remember.
TASKS_PER_THREAD: Final = 3
#: What Dask says when its setting distributed.scheduler.no-workers-timeout has passed.
_NO_WORKERS: Final = ("NoValidWorkerError", "NoWorkerError")
LOOK_PERIOD_S: Final = 0.1
#: How often the number of workers is asked for.
COUNT_PERIOD_S: Final = 2.0


class Executor(Protocol):
    """What runs functions: the interface of `concurrent.futures.Executor`, as far as used."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run a function that can be pickled, somewhere."""


class ClusterExecutor:
    """Runs functions on the workers of a Dask cluster.

    Parameters
    ----------
    client
        A client of the cluster; it stays open.
    retries
        How often a function that raised is tried again. A function whose worker died is given to
        another one by Dask in any case, as often as its setting
        ``distributed.scheduler.allowed-failures`` says.

    Attributes
    ----------
    threads_per_task : int
        Threads that a function may use: one, for a worker runs as many functions at a time as it
        has threads.

    Raises
    ------
    UsageError
        The client is an asynchronous one.
    """

    threads_per_task: int | None = 1

    def __init__(self, client: Client, *, retries: int = 0) -> None:
        require_distributed()
        if client.asynchronous:
            raise UsageError(
                "client: expected one that waits, got an asynchronous one; make it with "
                "Client(address)"
            )
        self._client = client
        pool = client.get_executor(pure=False, retries=retries)
        self._tasks = Suspects(pool.submit, _is_killed)
        self._n_threads = 0
        self._counted_s = float("-inf")
        #: why nothing more can be done
        self._lost: ClusterError | None = None

    @property
    def progress(self) -> Callable[..., None]:
        """What functions may call now and then: ends those that nobody waits for any more."""
        return stop_if_cancelled

    @property
    def n_workers(self) -> int:
        """Functions that can run at a time now: threads of all workers."""
        now = time.monotonic()
        if self._lost is None and now - self._counted_s > COUNT_PERIOD_S:
            self._counted_s = now
            try:
                self._n_threads = sum(self._client.nthreads().values())
            except (OSError, TimeoutError) as exc:
                self._lost = _lost_scheduler()
                self._lost.__cause__ = exc
        return self._n_threads

    def wait_for_cancelled(self, seconds: float) -> None:
        """Wait until no function is running, or for so long."""
        deadline = time.monotonic() + seconds
        while any(self._client.processing().values()) and time.monotonic() < deadline:
            time.sleep(LOOK_PERIOD_S)  # the scheduler tells only who asks

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run a function on some worker.

        Parameters
        ----------
        function
            Can be pickled, and imported on the workers.
        *args
            Can be pickled. Relative paths (`pathlib.Path`) become absolute ones.

        Returns
        -------
        concurrent.futures.Future
            Ends with `WriterDiedError` if too many workers died of it, with `ClusterError` if the
            scheduler or all workers were lost.

        Raises
        ------
        ClusterError
            They were lost before.
        """
        outer: Future[Any] = Future()
        if self._lost is not None:
            raise self._lost
        # a worker has a working folder of its own
        inner = self._tasks.submit(_Portable(_anchored(function)), *map(_anchored, args))

        def pass_on(done: Future[Any]) -> None:
            if not outer.set_running_or_notify_cancel():
                return
            if done.cancelled():
                self._lost = _lost_scheduler()
                outer.set_exception(self._lost)
            elif (error := done.exception()) is not None:
                explained = _explained(error)
                if isinstance(explained, ClusterError):
                    self._lost = explained
                outer.set_exception(explained)
            else:
                outer.set_result(done.result())

        def pass_back(done: Future[Any]) -> None:
            if done.cancelled():
                inner.cancel()

        outer.add_done_callback(pass_back)
        inner.add_done_callback(pass_on)
        return outer

    def require_portable(self, name: str, value: Any) -> None:
        """Refuse what cannot be sent to a worker, before any work is done.

        Raises
        ------
        UsageError
            It cannot be pickled.
        """
        from distributed.protocol.pickle import dumps  # noqa: PLC0415 - an extra

        try:
            dumps(value)
        except Exception as exc:
            raise UsageError(
                f"{name}: expected something that can be pickled, for it is sent to the workers, "
                f"got {type(value).__name__} ({exc}); open files, connections and locks where "
                f"it runs, not before"
            ) from exc


class _Portable:
    """A function whose result can leave the worker; else Dask's client waits for ever."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        named: Any = function
        while isinstance(named, partial):
            named = named.args[0] if named.args and callable(named.args[0]) else named.func
        #: Dask's name for the task
        self.__name__ = str(getattr(named, "__name__", type(named).__name__))

    def __call__(self, *args: Any) -> Any:
        result = self._function(*args)
        try:
            pickle.dumps(result)
        except Exception as exc:
            raise UsageError(
                f"{self.__name__}: expected a result that can be pickled, got "
                f"{type(result).__name__} ({exc})"
            ) from exc
        return result


def _lost_scheduler() -> ClusterError:
    return ClusterError(
        "the connection to the Dask scheduler was lost, or the task was cancelled there; what is "
        "complete stays: run it again when the cluster is back"
    )


def _is_killed(error: BaseException) -> bool:
    """Whether an error says that workers died of a task."""
    from distributed import KilledWorker  # noqa: PLC0415 - an extra

    return isinstance(error, KilledWorker)


def _anchored(value: Any) -> Any:
    """The same with absolute paths, also inside of partial functions, lists and dicts."""
    if isinstance(value, Path):
        return value.absolute()
    if isinstance(value, partial):
        args, keywords = _anchored(value.args), _anchored(value.keywords)
        return partial(_anchored(value.func), *args, **keywords)
    if type(value) in {list, tuple}:
        return type(value)(map(_anchored, value))
    if type(value) is dict:
        return {key: _anchored(item) for key, item in value.items()}
    return value


def stop_if_cancelled(*_progress: object) -> None:
    """End a task that was cancelled, so that it cleans up: Dask lets it go on.

    Raises
    ------
    AbortedError
        It was cancelled. Never outside of a worker of Dask.
    """
    if "distributed" not in sys.modules:
        return
    from distributed import get_worker  # noqa: PLC0415 - an extra

    try:
        worker = get_worker()
        key = worker.get_current_task()
    except ValueError:  # no worker, or no task
        return
    task = worker.state.tasks.get(key)
    if task is None or task.state == "cancelled":
        raise AbortedError("the task was cancelled; nothing of it is left")


def _explained(error: BaseException) -> BaseException:
    """An error as ours, where it is Dask's own."""
    if type(error).__name__ in _NO_WORKERS:
        lost = ClusterError(
            f"the cluster has no workers any more ({error}); what is complete stays: look into "
            f"the logs of the workers, and run it again when there are some"
        )
        lost.__cause__ = error
        return lost
    if not _is_killed(error):
        return error
    killed: Any = error
    found = WriterDiedError(
        f"{killed.allowed_failures + 1} workers died while they worked on it alone (the last one: "
        f"{killed.last_worker.address}); look into the logs of the workers for what killed them "
        f"(often the memory), or raise Dask's setting distributed.scheduler.allowed-failures"
    )
    found.__cause__ = error
    return found


def run_tasks(
    executor: Executor, function: Callable[[_T], _R], tasks: Iterable[_T]
) -> Iterator[tuple[_T, _R | Exception]]:
    """Run a function for many arguments; results come in any order.

    A bounded number of tasks is submitted at a time. What was not begun is cancelled when the
    iterator is closed.

    Parameters
    ----------
    executor
        Where.
    function, tasks
        The function and its arguments.

    Yields
    ------
    task, result or Exception
        Errors of the function are yielded, too.

    Raises
    ------
    ClusterError
        The cluster is lost.
    """
    waiting: dict[Future[Any], _T] = {}
    rest = iter(tasks)
    try:
        while True:
            n_threads = max(1, int(getattr(executor, "n_workers", 1)))
            for task in rest:
                waiting[executor.submit(function, task)] = task
                if len(waiting) >= TASKS_PER_THREAD * n_threads:
                    break
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                task = waiting.pop(future)
                error = future.exception()
                if isinstance(error, ClusterError) or not isinstance(error, Exception | None):
                    raise error
                yield task, future.result() if error is None else error
    finally:
        for future in waiting:
            future.cancel()
