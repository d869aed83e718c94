"""The sentry: a process that goes through a file first, before HDF5 opens it in this one.

Alone here: how that process is kept, and which files have been seen. Invariant: a file on whose
structure HDF5 hangs or crashes does so there, and is an error of ours here.

HDF5 can do both, on files of the old format, whose metadata have no checksums, after the change of
one byte; a call into it cannot be interrupted from within the process. The sentry is started with
the first file, and ends with this process.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import h5py

from ..errors import DamagedFileError

__all__ = [
    "NO_WINDOW",
    "has_interpreter",
    "is_open_here",
    "relieve",
    "require_passable",
    "sentry_pid",
]

#: No call into HDF5 takes so long but one that does not come back.
HANG_S: float = 60.0
#: Time to start an interpreter, on a machine that is busy.
START_S: Final = 60.0
#: A process that a program with windows starts is not to show one.
NO_WINDOW: Final = int(getattr(subprocess, "CREATE_NO_WINDOW", 0))
#: How many files are remembered.
_MAX_SEEN: Final = 4096
_SCRIPT: Final = Path(__file__).with_name("sentry_process.py")

#: Signals that no crash of HDF5 sends: somebody else ended the process, or memory was short.
_FROM_OUTSIDE: Final = frozenset(
    -getattr(signal, name) for name in ("SIGHUP", "SIGINT", "SIGKILL", "SIGTERM")
    if hasattr(signal, name)
)  # fmt: skip

Key = tuple[str, int, int, int, int]

_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None
#: process that started it: a fork must not talk to its parent's
_owner = 0
#: what is wrong with each file; None: nothing
_seen: dict[Key, str | None] = {}


def has_interpreter() -> bool:
    """Whether `sys.executable` is Python, and not a program that has Python in it."""
    name = Path(sys.executable or "").stem.lower()
    return name.startswith(("python", "pypy")) and not getattr(sys, "frozen", False)


_is_off = not has_interpreter()


def require_passable(path: str | os.PathLike[str]) -> None:
    """Let the sentry go through a file, if it has not yet.

    Parameters
    ----------
    path
        The file. One that this process holds open is not looked at: what is on the disk may not be
        what HDF5 has of it.

    Raises
    ------
    DamagedFileError
        HDF5 hung or crashed on it.
    """
    if _is_off:
        return
    name = os.path.realpath(path)
    try:
        status = Path(name).stat()
    except OSError:
        return  # who opens it says what is wrong
    key = (name, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    # asked without our lock: h5py has one, which a callback of h5py's has when it comes here
    if key not in _seen and is_open_here(status):
        return
    with _lock:
        problem = _seen[key] if key in _seen else _ask(name, key)
    if problem is not None:
        raise DamagedFileError(f"'{os.fspath(path)}': {problem}")


def sentry_pid() -> int | None:
    """Number of the sentry's process; None: there is none."""
    return None if _process is None or _owner != os.getpid() else _process.pid


def relieve(*, for_ever: bool = False) -> None:
    """End the sentry's process; it is started again when it is needed.

    Parameters
    ----------
    for_ever
        Whether this process does without from now on, because it may hang itself.
    """
    global _process, _is_off  # noqa: PLW0603 - one for this process
    with _lock:
        _is_off = _is_off or for_ever
        process, _process = _process, None
        if process is not None and _owner == os.getpid():
            _end(process)


def _end(process: subprocess.Popen[bytes], *, in_s: float = 0) -> int:
    """Exit code of a process that has to end, at the latest then."""
    with suppress(OSError):
        process.stdin.close()  # type: ignore[union-attr]
    with suppress(subprocess.TimeoutExpired):
        process.wait(in_s)
    process.kill()
    with suppress(OSError):
        process.stdout.close()  # type: ignore[union-attr]
    return process.wait()


def is_open_here(status: os.stat_result) -> bool:
    """Whether this process holds a file open with HDF5, and may write it."""
    descriptors = _descriptors()
    if descriptors is not None:
        return any(_is_held_for_writing(number, status) for number in descriptors)
    for number in h5py.h5f.get_obj_ids(types=h5py.h5f.OBJ_FILE):
        with suppress(OSError, RuntimeError, ValueError):
            if os.path.samestat(Path(os.fsdecode(h5py.h5f.get_name(number))).stat(), status):
                return True
    return False


def _descriptors() -> list[int] | None:
    """Numbers of the open files; None: the system does not tell.

    HDF5 is not asked: it crashes on a file whose closing failed, because the disk was full.
    """
    with suppress(OSError, ValueError):
        return [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208 - names alone
    return None


def _is_held_for_writing(number: int, status: os.stat_result) -> bool:
    import fcntl  # noqa: PLC0415 - not on Windows

    with suppress(OSError):
        if os.path.samestat(os.fstat(number), status):
            flags = fcntl.fcntl(number, fcntl.F_GETFL)
            return flags & os.O_ACCMODE != os.O_RDONLY
    return False


def _ask(name: str, key: Key) -> str | None:
    """What is wrong with a file; None: nothing. It is remembered, unless it may be chance."""
    exitcode: int | None = None
    for _ in range(2):
        process = _running()
        if process is None:
            return None
        start = time.monotonic()
        exitcode = _let_look(process, name)
        if exitcode not in _FROM_OUTSIDE:
            break
    else:
        return (
            f"the process that looks at files first was killed twice while it looked at this one "
            f"(exit code {exitcode}), by somebody, or because memory was short; nothing was read, "
            f"try again"
        )
    problem = None
    if exitcode == 1 and time.monotonic() - start >= HANG_S:
        problem = f"does not come back from this file (no sign of life for {HANG_S:.0f} s)"
    elif exitcode is not None:
        problem = f"crashed on this file (exit code {exitcode}; negative: killed by that signal)"
    if problem is not None:
        problem = f"HDF5 {problem}; it is damaged, and nothing can be read"
    while len(_seen) >= _MAX_SEEN:
        del _seen[next(iter(_seen))]
    _seen[key] = problem
    return problem


def _let_look(process: subprocess.Popen[bytes], name: str) -> int | None:
    """None when the process came back from a file, else its exit code."""
    global _process  # noqa: PLW0603 - one for this process
    try:
        process.stdin.write(json.dumps([name, HANG_S]).encode() + b"\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        if process.stdout.read(1) == b"!":  # type: ignore[union-attr]
            return None
    except OSError:
        pass  # it is gone
    except BaseException:  # Ctrl-C: the answer that is still to come is no answer to the next
        _process = None
        _end(process)
        raise
    _process = None
    return _end(process, in_s=START_S)


def _running() -> subprocess.Popen[bytes] | None:
    """The sentry's process; None: there can be none."""
    global _process, _owner, _is_off  # noqa: PLW0603 - one for this process
    if _is_off:
        return None
    if _process is not None and _owner == os.getpid() and _process.poll() is None:
        return _process
    try:
        process = _start()
        problem = None if _began(process) else f"it ended, exit code {_end(process, in_s=1)}"
    except OSError as exc:
        process, problem = None, str(exc)
    if process is None or problem is not None:
        _is_off = True
        logging.getLogger("dcwrite.store").warning(
            "'%s' cannot be started to look at files first (%s): a file on which HDF5 hangs would "
            "hang this process; is it Python, and does it find h5py?",
            sys.executable,
            problem,
        )
        return None
    _process, _owner = process, os.getpid()
    return process


def _start() -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(  # noqa: S603 - this interpreter, and no shell
        [sys.executable, "-P", os.fspath(_SCRIPT)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment, bufsize=0, creationflags=NO_WINDOW,
        start_new_session=True,  # a signal for all that runs in a terminal is not for it
    )  # fmt: skip


def _began(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has found all that it needs."""
    timer = threading.Timer(START_S, process.kill)
    timer.daemon = True
    with suppress(RuntimeError):  # no threads any more: the interpreter ends
        timer.start()
    try:
        return process.stdout.read(1) == b"+"  # type: ignore[union-attr]
    except BaseException:
        _end(process)
        raise
    finally:
        timer.cancel()


def _forget() -> None:
    """In a fork: the sentry is the parent's, and another thread may have held the lock."""
    global _process, _lock
    if _process is not None:
        _process.returncode = 0  # not this one's child: nothing to wait for, nothing to warn of
    _process, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@atexit.register
def _at_exit() -> None:
    """A thread that still waits for an answer has the lock: it is not waited for."""
    if _process is not None and _owner == os.getpid():
        if _lock.acquire(blocking=False):
            _lock.release()
            relieve()
        else:
            _process.kill()
