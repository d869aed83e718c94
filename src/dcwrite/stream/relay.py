"""Queues that a spawned process cannot read: who they are, and how their items get there.

Alone here: what multiprocessing lets pass to a spawned process. Invariant: items keep their order.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.queues import SimpleQueue
from multiprocessing.reduction import ForkingPickler
from typing import Any

from ..errors import ClosedError, UsageError
from .alike import AlikeFrames
from .messages import MessageReader

__all__ = [
    "Relay",
    "can_be_spawned",
    "close_queue",
    "items_getter",
    "memory_of",
    "n_waiting",
    "runs_getter",
    "without_fork_lock",
]


def items_getter(event_queue: Any) -> Callable[[float], list[Any]]:
    """How items are taken from a queue: within so many seconds, or `queue.Empty` is raised.

    What cannot be unpickled comes as an `EventError`.

    Parameters
    ----------
    event_queue
        The queue.

    Raises
    ------
    UsageError
        There is no way to take anything.
    """
    if hasattr(event_queue, "get_many"):
        get_many: Callable[[float], list[Any]] = event_queue.get_many
        return get_many
    return _getter(event_queue, ForkingPickler.loads)


def runs_getter(event_queue: Any, *, in_bulk: bool = True) -> Callable[[float, range], list[Any]]:
    """The same for a collector: frames that are alike come packed, or as `PackedRun`.

    That takes less time than to unpickle each. The second argument are the frames that may stay
    in the queue; most queues give them nevertheless.

    Parameters
    ----------
    event_queue
        The queue.
    in_bulk
        Whether several frames may come as one; else they come packed, one by one.

    Raises
    ------
    UsageError
        There is no way to take anything.
    """
    if in_bulk and hasattr(event_queue, "get_runs"):
        get_runs: Callable[[float, range], list[Any]] = event_queue.get_runs
        return get_runs
    if hasattr(event_queue, "get_many"):
        get_items = items_getter(event_queue)
    else:
        get_items = _getter(event_queue, AlikeFrames().load)
    return lambda timeout, _early: get_items(timeout)


def _getter(event_queue: Any, load: Callable[[bytearray], Any]) -> Callable[[float], list[Any]]:
    if not hasattr(event_queue, "get"):
        raise UsageError(
            f"event_queue: expected a queue with `get`, got {type(event_queue).__name__}; pass a "
            f"queue.Queue or a multiprocessing.Queue, for instance"
        )
    if MessageReader.can_read(event_queue):
        return MessageReader(event_queue, load).get_many
    if not isinstance(event_queue, SimpleQueue):
        return lambda timeout: [event_queue.get(timeout=timeout)]

    reader: Any = getattr(event_queue, "_reader")  # noqa: B009 - it has no public name

    def get_one(timeout: float) -> list[Any]:
        # its `get` has no timeout; nobody else takes from it, so what is there stays there
        if not reader.poll(timeout):
            raise queue.Empty
        return [event_queue.get()]

    return get_one


def n_waiting(event_queue: Any) -> int:
    """Number of items in a queue; 0 where that is not known."""
    try:
        return int(event_queue.qsize())
    except (AttributeError, NotImplementedError, OSError, TypeError, ValueError, ClosedError):
        return 0


class Relay(threading.Thread):
    """Passes items from a queue of this process on to one that a spawned process can read."""

    def __init__(self, source: Any, target: Any) -> None:
        super().__init__(name="dcwrite-relay", daemon=True)
        self.source = source
        self.target = target
        self._stopping = threading.Event()

    def run(self) -> None:
        """Pass items on until told to stop."""
        get_items = items_getter(self.source)
        while not self._stopping.is_set():
            try:
                items = get_items(0.1)
            except queue.Empty:
                continue
            for item in items:
                self._pass_on(item)

    def _pass_on(self, item: Any) -> None:
        while not self._stopping.is_set():
            with suppress(queue.Full):
                self.target.put(item, timeout=0.1)
                return

    def stop(self) -> None:
        """End the thread and the target queue."""
        self._stopping.set()
        self.join()
        close_queue(self.target, wait=False)


def can_be_spawned(event_queue: Any) -> bool:
    """Whether a queue can be given to a spawned process."""
    lock = getattr(event_queue, "_rlock", None)
    if lock is not None:
        return not getattr(lock, "_is_fork_ctx", False)
    return not isinstance(event_queue, (queue.Queue, queue.SimpleQueue))


def without_fork_lock(shared: Any) -> Any:
    """The shared memory alone of a value whose lock cannot be given to a spawned process."""
    get_lock = getattr(shared, "get_lock", None)
    if get_lock is not None and getattr(get_lock(), "_is_fork_ctx", False):
        return shared.get_obj()
    return shared


def memory_of(shared: Any) -> Any:
    """The shared memory of a value, past its lock."""
    return shared.get_obj() if hasattr(shared, "get_obj") else shared


def close_queue(shared_queue: Any, *, wait: bool) -> None:
    """Close this process's end of a queue, if it has one."""
    if shared_queue is None or not hasattr(shared_queue, "close"):
        return
    has_thread = hasattr(shared_queue, "join_thread")  # a SimpleQueue has none
    if has_thread and not wait:
        shared_queue.cancel_join_thread()
    shared_queue.close()
    if has_thread and wait:
        shared_queue.join_thread()
