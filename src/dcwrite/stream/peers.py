"""What processes share: memory, pipes for small messages, and news of each other's death.

Alone here: everything that differs between operating systems. Invariant: nothing here has a name
that could stay behind, nothing here can be held by a dead process, and waiting costs no CPU.

Memory and pipes have no name (on Windows: they end with their last handle), so there is nothing to
clean up even when all processes are killed. No lock is shared between processes.
"""

from __future__ import annotations

import mmap
import os
import select
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import context, reduction
from multiprocessing.connection import Pipe
from multiprocessing.connection import wait as wait_for_objects
from pathlib import Path
from typing import Any, Final

__all__ = ["MessagePipe", "Peer", "SharedBlock", "wait"]

#: Where the system cannot tell of a death by itself, processes are looked at that often.
LOOK_PERIOD_S: Final = 0.5

_WINDOWS: Final = sys.platform == "win32"


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


class SharedBlock:
    """Memory that spawned processes share.

    Linux: a memfd, which is not bounded by the size of ``/dev/shm`` (64 MB in a container). Other
    POSIX systems: a file without a name. Windows: the paging file. Pages are taken when they are
    written to for the first time.

    Parameters
    ----------
    size_bytes
        Size.
    """

    def __init__(self, size_bytes: int) -> None:
        if _WINDOWS:
            name = f"dcwrite-{os.getpid()}-{os.urandom(8).hex()}"
            self._map(size_bytes, name)
            return
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("dcwrite", os.MFD_CLOEXEC)
        else:
            descriptor, path = tempfile.mkstemp(prefix="dcwrite-")
            Path(path).unlink()
        os.ftruncate(descriptor, size_bytes)
        self._map(size_bytes, descriptor)

    def _map(self, size_bytes: int, source: Any) -> None:
        self._size_bytes = size_bytes
        self._source = source
        if _WINDOWS:
            memory = mmap.mmap(-1, size_bytes, tagname=source)  # type: ignore[call-arg,unused-ignore]
        else:
            memory = mmap.mmap(source, size_bytes)
            weakref.finalize(self, _close_all, (source,))
        #: the memory; it is unmapped with the last view of it
        self.memory = memoryview(memory)

    def __getstate__(self) -> tuple[int, Any]:
        """What a spawned process gets."""
        context.assert_spawning(self)
        source = self._source if _WINDOWS else reduction.DupFd(self._source)  # type: ignore[attr-defined,unused-ignore]
        return self._size_bytes, source

    def __setstate__(self, state: tuple[int, Any]) -> None:
        """Map the memory in the spawned process."""
        size_bytes, source = state
        self._map(size_bytes, source if _WINDOWS else source.detach())


class MessagePipe:
    """A pipe for messages of one size, at most 512 bytes (the least ``PIPE_BUF``).

    Many processes may write and read. A message goes over whole or not at all, also when a process
    is killed; nothing here blocks. What was written to memory before a message was sent is seen by
    who has received it: the system's lock of the pipe is the barrier.

    Parameters
    ----------
    message_bytes
        Size of a message.
    """

    def __init__(self, message_bytes: int) -> None:
        if _WINDOWS:
            self._attach(message_bytes, *Pipe(duplex=False))
            return
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        self._attach(message_bytes, reader, writer)

    def _attach(self, message_bytes: int, reader: Any, writer: Any) -> None:
        self._message_bytes = message_bytes
        #: to wait for
        self.reader = reader
        self.writer = writer
        if not _WINDOWS:
            weakref.finalize(self, _close_all, (reader, writer))

    def __getstate__(self) -> tuple[int, Any, Any]:
        """What a spawned process gets."""
        context.assert_spawning(self)
        if _WINDOWS:
            return self._message_bytes, self.reader, self.writer
        dup: Any = reduction.DupFd
        return self._message_bytes, dup(self.reader), dup(self.writer)

    def __setstate__(self, state: tuple[int, Any, Any]) -> None:
        """Open the pipe in the spawned process."""
        message_bytes, reader, writer = state
        if not _WINDOWS:
            reader, writer = reader.detach(), writer.detach()
        self._attach(message_bytes, reader, writer)

    def send(self, message: bytes) -> bool:
        """Send a message; False: the pipe is full."""
        if _WINDOWS:
            self.writer.send_bytes(message)
            return True
        try:
            os.write(self.writer, message)
        except BlockingIOError:
            return False
        return True

    def receive(self, n_messages: int = 1) -> bytes:
        """Take up to that many messages, one behind the other; none: nothing."""
        if _WINDOWS:
            found: list[bytes] = []
            while len(found) < n_messages and self.reader.poll():
                found.append(self.reader.recv_bytes())
            return b"".join(found)
        try:
            return os.read(self.reader, n_messages * self._message_bytes)
        except BlockingIOError:
            return b""


class Peer:
    """Another process, watched until it ends; one that nobody has waited for has ended too.

    Parameters
    ----------
    pid
        Process id.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended = False
        #: to wait for; None: the system cannot tell, so `wait` looks from time to time
        self.handle: Any = None
        try:
            self.handle = _watched(pid)
        except ProcessLookupError:
            self._ended = True
        except OSError:  # an old kernel, or a sandbox that forbids it
            self.handle = None

    def has_ended(self) -> bool:
        """Whether the process has ended."""
        if not self._ended:
            if self.handle is not None:
                self._ended = bool(wait([self.handle], timeout=0))
            else:
                self._ended = not _is_running(self.pid)
        return self._ended

    def close(self) -> None:
        """Watch no longer."""
        handle, self.handle = self.handle, None
        if handle is None:
            return
        if hasattr(handle, "close"):
            handle.close()
        elif _WINDOWS:
            _close_windows_handle(handle)
        else:
            os.close(handle)


def wait(
    handles: Sequence[Any],
    *,
    timeout: float | None,
    writable: Any = None,
    peers: Sequence[Peer] = (),
) -> bool:
    """Wait until something can be read, a pipe can be written to, or a process has ended.

    Parameters
    ----------
    handles
        `reader` of pipes.
    timeout
        Seconds; None: no limit.
    writable
        `writer` of one pipe.
    peers
        Processes.

    Returns
    -------
    bool
        False: nothing happened before the timeout.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    watched = [peer for peer in peers if peer.handle is not None]
    others = [peer for peer in peers if peer.handle is None]
    waitable = [*handles, *(peer.handle for peer in watched)]
    while True:
        if any(peer.has_ended() for peer in others):
            return True
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        step = left if not others else min(LOOK_PERIOD_S, LOOK_PERIOD_S if left is None else left)
        if _wait_once(waitable, writable, step):
            return True
        if deadline is not None and time.monotonic() >= deadline:
            return False


def _wait_once(handles: Sequence[Any], writable: Any, timeout: float | None) -> bool:
    if _WINDOWS:
        return bool(wait_for_objects(handles, timeout)) or writable is not None
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    if writable is not None:
        poll.register(writable, select.POLLOUT)
    return bool(poll.poll(None if timeout is None else timeout * 1000))


if sys.platform == "win32":
    import _winapi

    _SYNCHRONIZE: Final = 0x00100000

    def _watched(pid: int) -> Any:
        """Give a handle that `wait` wakes for when the process ends."""
        try:
            return _winapi.OpenProcess(_SYNCHRONIZE, False, pid)
        except OSError as exc:
            raise ProcessLookupError(str(exc)) from exc

    def _close_windows_handle(handle: int) -> None:
        _winapi.CloseHandle(handle)

    def _is_running(pid: int) -> bool:
        return pid > 0

else:

    def _watched(pid: int) -> Any:
        """Give a handle that `wait` wakes for when the process ends."""
        if hasattr(os, "pidfd_open"):
            return os.pidfd_open(pid)
        if hasattr(select, "kqueue"):
            bsd: Any = select
            queue = bsd.kqueue()
            try:
                exit_of = bsd.kevent(pid, bsd.KQ_FILTER_PROC, bsd.KQ_EV_ADD, bsd.KQ_NOTE_EXIT)
                queue.control([exit_of], 0)
            except OSError:
                queue.close()
                raise
            return queue
        return None

    def _close_windows_handle(handle: int) -> None:
        raise NotImplementedError(handle)

    def _is_running(pid: int) -> bool:
        """Look at a process; one that has ended and was not waited for has ended."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        with suppress(OSError):
            # the name in the second field may hold spaces and brackets: read behind its end
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
        return True
