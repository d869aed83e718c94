"""An executor without a cluster: what a run does must not depend on where its tasks run."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

__all__ = ["Shuffled"]


class Shuffled:
    """Runs tasks in a random order, in threads, after a trip through pickle as on a cluster.

    Parameters
    ----------
    seed
        Of the order.
    n_workers
        Number of threads.
    """

    def __init__(self, seed: int = 0, n_workers: int = 1) -> None:
        self.n_workers = n_workers
        self.tasks: list[Any] = []
        self._random = random.Random(seed)
        self._waiting: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self._pool = ThreadPoolExecutor(n_workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._pool.shutdown()

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.append((future, *pickle.loads(pickle.dumps((function, args)))))
        self._pool.submit(self._run_one)
        return future

    def _run_one(self) -> None:
        future, function, args = self._waiting.pop(self._random.randrange(len(self._waiting)))
        if not future.set_running_or_notify_cancel():
            return
        self.tasks.append(args[0])
        try:
            result = pickle.loads(pickle.dumps(function(*args)))
        except Exception as exc:  # noqa: BLE001 - the future's
            future.set_exception(pickle.loads(pickle.dumps(exc)))
        else:
            future.set_result(result)

    def frames(self) -> list[tuple[int, int]]:
        """Ranges that were asked for, in order."""
        return sorted((task.start, task.stop) for task in self.tasks if hasattr(task, "process"))
