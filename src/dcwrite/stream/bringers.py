"""Who could still bring events: threads, and child processes.

Alone here: the signs that nobody is left. Invariant: in doubt, somebody is.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import queue
import threading
import weakref
from collections.abc import Container
from multiprocessing.queues import Queue, SimpleQueue
from typing import Any

from .channel import EventQueue

__all__ = ["children_that_ended", "nobody_is_left"]

#: Threads that only pass on what others gave them, or write it.
_OURS = ("QueueFeederThread", "dcwrite-")


def children_that_ended() -> weakref.WeakSet[Any]:
    """Processes that have nothing to do with a stream that begins now."""
    return weakref.WeakSet(child for child in _children() if child.exitcode is not None)


def nobody_is_left(event_queue: Any, ended_before: Container[Any]) -> str | None:
    """Why nobody could bring more events while the calling thread waits for the writer's end.

    Parameters
    ----------
    event_queue
        The queue.
    ended_before
        Processes that ended before the stream began.

    Returns
    -------
    str or None
        A sentence; None: somebody could, or it cannot be told.
    """
    for thread in threading.enumerate():
        is_ours = type(thread).__module__.startswith("dcwrite.") or thread.name.startswith(_OURS)
        if thread is not threading.current_thread() and not is_ours:
            return None
    if isinstance(event_queue, (queue.Queue, queue.SimpleQueue)):
        return None if not event_queue.empty() else "no other thread is left that could put events"
    if not isinstance(event_queue, (EventQueue, Queue, SimpleQueue)):
        return None
    processes = [process for process in _children() if process not in ended_before]
    if not processes or any(process.exitcode is None for process in processes):
        return None
    for process in processes:
        if process.exitcode:
            return (
                f"process '{process.name}' (pid {process.pid}) died with exit code "
                f"{process.exitcode} (negative: killed by that signal), and no other is left"
            )
    return "all processes that could put events have ended"


def _children() -> list[Any]:
    """Processes that this one has started, the last first; also those that ended, not writers."""
    # the only list that keeps those that were joined; it is used by the library's own tests
    known = set(getattr(mp.process, "_dangling", ())) | set(mp.active_children())
    found = [
        process
        for process in known
        if getattr(process, "_parent_pid", None) == os.getpid()
        and not type(process).__module__.startswith("dcwrite.")
        and not getattr(process, "_closed", False)
        and process.pid is not None
    ]
    return sorted(found, key=lambda process: getattr(process, "_identity", ()), reverse=True)
