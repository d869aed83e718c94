"""Work on a file of unknown origin, in a process of its own.

Alone here: how that process is started, watched and ended. Invariant: whatever HDF5 does on the
file, crash or hang, ends here in one of our errors.

HDF5 can do both: on files of the old format, whose metadata have no checksums, one wrong byte is
enough. A call into it cannot be interrupted from within the process.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

from ..errors import DamagedFileError, WriterDiedError
from .sentry import NO_WINDOW, has_interpreter, relieve

__all__ = ["DEFAULT_HANG_S", "run_contained"]

#: No call into HDF5 takes so long but one that does not come back.
DEFAULT_HANG_S: Final = 60.0
#: Time to start an interpreter, on a machine that is busy.
START_S: Final = 60.0
#: Seconds between two signs of life.
_SIGN_S: Final = 1.0
_CODE: Final = "from dcwrite.store.contained import _serve; _serve()"


def run_contained(
    function: Callable[..., Any],
    *args: Any,
    path: str | os.PathLike[str],
    progress: Callable[[int, int], None] | None = None,
    hang_s: float = DEFAULT_HANG_S,
    **kwargs: Any,
) -> Any:
    """Result of a function that was called in a process of its own.

    Parameters
    ----------
    function
        A function of a module of this package; arguments and result have to be picklable.
    *args, **kwargs
        For the function.
    path
        The file that it works on, for messages.
    progress
        Passed on as keyword argument, if it is not None.
    hang_s
        Without a sign of life for so many seconds the process is killed.

    Raises
    ------
    DamagedFileError
        The process crashed or hung.
    WriterDiedError
        It cannot be started.
    Exception
        What the function raised.
    """
    if not has_interpreter():
        if progress is not None:
            kwargs["progress"] = progress
        return function(*args, **kwargs)
    task = (function.__module__, function.__qualname__, args, kwargs, progress is not None)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(  # noqa: S603 - this interpreter, and no shell
        [sys.executable, "-c", _CODE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
        creationflags=NO_WINDOW,
    ) as process:  # fmt: skip
        try:
            return _result(process, pickle.dumps(task), os.fspath(path), progress, hang_s)
        finally:
            process.kill()


def _result(
    process: subprocess.Popen[bytes],
    task: bytes,
    path: str,
    progress: Callable[[int, int], None] | None,
    hang_s: float,
) -> Any:
    messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    reader = threading.Thread(target=_listen, args=(process.stdout, messages), daemon=True)
    reader.start()
    with suppress(BrokenPipeError):
        process.stdin.write(task)  # type: ignore[union-attr]
        process.stdin.close()  # type: ignore[union-attr]
    has_begun = False
    while True:
        try:
            kind, content = messages.get(timeout=hang_s if has_begun else max(hang_s, START_S))
        except queue.Empty:
            raise DamagedFileError(
                f"'{path}': HDF5 does not come back from this file (no sign of life for "
                f"{hang_s:.0f} s); it is damaged, and nothing can be read"
            ) from None
        if kind == "result":
            return content
        if kind == "error":
            raise content
        if kind == "end" and has_begun:
            raise DamagedFileError(
                f"'{path}': HDF5 crashed on this file (exit code {process.wait()}; negative: "
                f"killed by that signal); it is damaged, and nothing can be read"
            )
        if kind == "end":
            raise WriterDiedError(
                f"'{path}': the process that should read it could not start (exit code "
                f"{process.wait()}); is '{sys.executable}' Python, and does it find dcwrite?",
                process.returncode,
            )
        has_begun = True
        if kind == "progress" and progress is not None:
            progress(*content)


def _listen(pipe: Any, messages: queue.SimpleQueue[tuple[str, Any]]) -> None:
    """Pass on what the process says, and its end."""
    with suppress(EOFError, OSError, ValueError, pickle.UnpicklingError):
        while True:
            messages.put(pickle.load(pipe))  # noqa: S301 - from our own process
    messages.put(("end", None))


def _serve() -> None:
    """In the process: do the task, and say from time to time that the interpreter still runs."""
    relieve(for_ever=True)  # this process is there to hang
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(2, sys.stdout.fileno())  # what others print is no message
    lock = threading.Lock()
    ended = threading.Event()

    def say(kind: str, content: Any) -> None:
        data = memoryview(pickle.dumps((kind, content)))
        try:
            with lock:
                while data:
                    data = data[pipe.write(data) :]
        except OSError:
            os._exit(1)  # nobody listens any more

    def live() -> None:
        while not ended.wait(_SIGN_S):
            say("alive", None)

    module, name, args, kwargs, tells_progress = pickle.load(sys.stdin.buffer)  # noqa: S301
    say("alive", None)
    threading.Thread(target=live, daemon=True).start()
    if tells_progress:
        kwargs["progress"] = lambda done, total: say("progress", (done, total))
    warnings.simplefilter("ignore")  # those that matter are in the result
    try:
        message = ("result", getattr(import_module(module), name)(*args, **kwargs))
        pickle.dumps(message)
    except Exception as exc:  # noqa: BLE001 - raised again by who asked
        message = ("error", exc)
    ended.set()
    say(*message)
    os._exit(0)  # HDF5 may crash on the file when the interpreter ends
