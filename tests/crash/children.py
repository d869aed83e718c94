"""Children of a process with one thread: forked in milliseconds instead of started in a second.

Alone here: how they end. Invariant: a child that uses the disk ends as every program does, through
the interpreter's end, where HDF5 may still crash.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["KILLING", "MODES", "Shared", "Shim", "fork", "in_child", "reap"]

#: How the shim ends a call; the numbers are those of `enum mode` in shim.c.
MODES = {"once": 1, "from then on": 2, "short": 3, "kill": 4, "torn": 5, "kill after": 6}
KILLING = {"kill", "torn", "kill after"}
#: Longest wait for one child.
CHILD_TIMEOUT_S = 60.0


class Shared:
    """Numbers that outlive a child: durable events, calls, and a line of JSON."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1 << 16)

    def clear(self) -> None:
        self._memory[:] = bytes(len(self._memory))

    @property
    def durable(self) -> int:
        return int.from_bytes(self._memory[:8], "little")

    @durable.setter
    def durable(self, value: int) -> None:
        self._memory[:8] = value.to_bytes(8, "little")

    @property
    def text(self) -> dict[str, Any]:
        size = int.from_bytes(self._memory[8:16], "little")
        return json.loads(self._memory[16 : 16 + size]) if size else {}

    @text.setter
    def text(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()[: len(self._memory) - 16]
        self._memory[16 : 16 + len(data)] = data
        self._memory[8:16] = len(data).to_bytes(8, "little")


def fork(work: Callable[[], None], *, at_once: bool = False) -> int:
    """Start a child that ends through the interpreter's end, or at once: those that only look."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            if at_once:
                sys.stderr.flush()
                os._exit(1)
            raise
        if at_once:
            os._exit(0)
        sys.exit(0)
    return pid


def reap(pid: int, timeout_s: float = CHILD_TIMEOUT_S) -> int:
    """Exit code of a child; negative: a signal. One that hangs is killed (and tells -9)."""
    killer = threading.Timer(timeout_s, os.kill, (pid, signal.SIGKILL))
    killer.daemon = True
    killer.start()
    _, status = os.waitpid(pid, 0)
    killer.cancel()
    killer.join()
    return os.waitstatus_to_exitcode(status)


def in_child(shared: Shared, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Result of some work in a child, or what became of it."""
    shared.clear()

    def do() -> None:
        shared.text = work()

    status = reap(fork(do, at_once=True))
    result = shared.text
    if status:
        result.setdefault("wrong", []).append(f"the checking child ended with {status}")
    return result


class Shim:
    """The functions of shim.c in a process that was started with it; without: nothing is armed."""

    def __init__(self) -> None:
        path = os.environ.get("LD_PRELOAD")
        self.library = ctypes.CDLL(path) if path and "shim" in path else None
        if self.library is not None:
            self.library.shim_arm.argtypes = [
                ctypes.c_char_p,
                ctypes.c_long,
                ctypes.c_int,
                ctypes.c_int,
            ]
            self.library.shim_failed.restype = ctypes.c_char_p
            self.library.shim_calls.restype = ctypes.c_long
            self.library.shim_mark.argtypes = [ctypes.c_uint64]
            self.library.shim_record.argtypes = [ctypes.c_char_p, ctypes.c_char_p]

    def arm(self, folder: Path, call: int, code: int, mode: int) -> None:
        if self.library is not None:
            self.library.shim_arm(os.fsencode(folder), call, code, mode)
