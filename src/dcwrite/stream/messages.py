"""Messages of multiprocessing's queues, taken piece by piece.

Alone here: how a message stands in the pipe of such a queue. Invariant: nobody waits for the rest
of a message whose sender was killed: `get` of the standard library would, for ever.

The form of a message is that of ``multiprocessing.connection.Connection``: its size as ``!i``, or
-1 and the size as ``!Q``, then a pickle.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import queue
import select
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.queues import Queue, SimpleQueue
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

from ..errors import EventError, WriterDiedError

__all__ = ["MessageReader", "loaded"]

#: A sender writes without a pause while there is room: so long without one more byte, it is dead,
_DEAD_AFTER_S: Final = 60.0
#: and if none of our child processes lives any more, already after this.
_ALL_DEAD_AFTER_S: Final = 2.0
#: Items that are taken at a time.
_MOST_ITEMS: Final = 16


def loaded(load: Callable[[Any], Any], data: Any, frame: int | None = None) -> Any:
    """What was pickled; an `EventError`, not raised, if that cannot be told.

    What stands beside it in a queue can be taken nevertheless.

    Parameters
    ----------
    load
        Unpickles.
    data
        The pickle.
    frame
        Index of the frame, if it is known.
    """
    try:
        return load(data)
    except Exception as exc:  # noqa: BLE001 - whatever the classes of others raise
        where = "event queue" if frame is None else f"frame {frame}"
        error = EventError(
            f"{where}: expected an item that this process can unpickle, got "
            f"{type(exc).__name__}: {exc}; put arrays and numbers, or make its classes importable "
            f"where the recording is written"
        )
        error.__cause__ = exc
        return error


class MessageReader:
    """Takes items from a multiprocessing queue that nobody else reads.

    Parameters
    ----------
    event_queue
        A queue of `multiprocessing`; see `can_read`.
    load
        Makes an item of a message.
    """

    def __init__(
        self, event_queue: Any, load: Callable[[bytearray], Any] = ForkingPickler.loads
    ) -> None:
        self._queue = event_queue
        self._load = load
        self._reader: Any = event_queue._reader  # noqa: SLF001 - neither has a public name
        self._lock: Any = event_queue._rlock  # noqa: SLF001
        #: room in a bounded queue
        self._room: Any = getattr(event_queue, "_sem", None)
        # `Connection.poll` makes a new one each time, which takes 15 us
        self._poll = select.poll()
        self._poll.register(self._reader.fileno(), select.POLLIN)
        self._last_byte_at = 0.0
        self._begin(struct.calcsize("!i"), "size")

    @staticmethod
    def can_read(event_queue: Any) -> bool:
        """Whether it is a queue whose messages can be taken piece by piece."""
        return (
            os.name == "posix"
            and isinstance(event_queue, (Queue, SimpleQueue))
            and hasattr(event_queue, "_reader")
            and hasattr(event_queue, "_rlock")
        )

    def _begin(self, size: int, stage: str) -> None:
        self._part = bytearray(size)
        self._filled = 0
        self._stage = stage

    def get_many(self, timeout: float) -> list[Any]:
        """Items that are there, at least one; an `EventError` for what cannot be unpickled.

        Parameters
        ----------
        timeout
            Seconds to wait for the first one.

        Raises
        ------
        queue.Empty
            No whole item came in time.
        WriterDiedError
            Half of an item is there, and its sender is dead.
        EOFError
            All who could send are gone.
        """
        if getattr(self._queue, "_closed", False):
            raise ValueError(f"Queue {self._queue!r} is closed")
        deadline = time.monotonic() + timeout
        if not self._lock.acquire(True, timeout):
            raise queue.Empty
        messages: list[bytearray] = []
        try:
            messages.append(self._message(deadline))
            while len(messages) < _MOST_ITEMS and self._poll.poll(0):
                # what is wrong is told when there is nothing else to give
                with suppress(queue.Empty, WriterDiedError, EOFError):
                    messages.append(self._message(0.0))
                    continue
                break
        finally:
            self._lock.release()
            if self._room is not None:
                for _ in messages:
                    self._room.release()
        return [loaded(self._load, message) for message in messages]

    def _message(self, deadline: float) -> bytearray:
        while True:
            while self._filled < len(self._part):
                if not self._poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
                    self._require_living_sender()
                    raise queue.Empty
                count = os.readv(self._reader.fileno(), [memoryview(self._part)[self._filled :]])
                if not count:
                    if self._is_in_a_message:
                        raise self._died()
                    raise EOFError("all who could put events are gone")
                self._filled += count
                self._last_byte_at = time.monotonic()
            part, stage = self._part, self._stage
            if stage == "payload":
                self._begin(struct.calcsize("!i"), "size")
                return part
            (size,) = struct.unpack("!i" if stage == "size" else "!Q", part)
            if size == -1:
                self._begin(struct.calcsize("!Q"), "long size")
            else:
                self._begin(size, "payload")

    @property
    def _is_in_a_message(self) -> bool:
        return self._stage != "size" or self._filled > 0

    def _require_living_sender(self) -> None:
        if not self._is_in_a_message:
            return
        # who reads in a writer process does not know the processes that put
        all_dead = parent_process() is None and not mp.active_children()
        limit_s = _ALL_DEAD_AFTER_S if all_dead else _DEAD_AFTER_S
        if time.monotonic() - self._last_byte_at > limit_s:
            raise self._died()

    def _died(self) -> WriterDiedError:
        missing = len(self._part) - self._filled
        return WriterDiedError(
            f"event queue: a process died in the middle of putting an item (of which {missing} "
            f"bytes are missing), and blocks all others: a multiprocessing queue does not come "
            f"back from that. Use dcwrite.EventQueue, which does"
        )
