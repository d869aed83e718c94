"""Let an installed dcnum write with dcwrite: one call, or one command.

Alone here: which of dcnum's names are replaced, where they are bound, and how the switch gets into
spawned processes. Invariant: all of them are replaced or none; `disable` puts back what was there.

In a program, anywhere before the pipeline runs::

    from dcwrite.interop import dcnum

    dcnum.enable()

From outside, for a program that knows nothing of dcwrite::

    python -m dcwrite.interop.dcnum SCRIPT [ARGUMENTS]
    python -m dcwrite.interop.dcnum -m MODULE [ARGUMENTS]

Notes
-----
Replaced are the public names of `dcnum.write`, in all modules of dcnum that have them, whether
they were imported before or will be later: ``ChunkWriter``, ``EventStash``, ``HDF5Writer``,
``QueueWriterProcess``, ``QueueWriterThread``, ``copy_basins``, ``copy_features``,
``copy_metadata``, ``create_with_basins``, ``set_default_filter_kwargs``. Modules that are not
dcnum's keep what they have imported by name from `dcnum.write` before the switch. Wrapped are
``dcnum.common.start_workers_threaded``, so that the writer knows its workers, and
``dcnum.os_env_st.RequestSingleThreaded``, which must not change the environment while the writer
is started.

The recordings are those that dcnum's own writer makes: the log "dcwrite-stream" is left out (pass
``stream_log=True`` to a writer to have it), log records go to dcnum's loggers, and warnings are
also of dcnum's classes. Attributes "software" of copied logs and tables name dcwrite.

A spawned process starts with a new interpreter, in which dcnum would be as it was installed.
`multiprocessing` sends it a dict of preparation data (working folder, arguments, ...), made by
``multiprocessing.spawn.get_preparation_data`` for every kind of spawned process (`spawn` on POSIX
and Windows, `forkserver`). While the switch is on, that function adds one more entry, whose
unpickling in the child calls `enable`. Assumed is that the child ignores entries that it does not
know (as ``multiprocessing.spawn.prepare`` does, which asks for each entry by name), and nothing
else. The child's module path is not set yet when the entry is unpickled, so the entry sets it.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing.spawn
import runpy
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from ..errors import UsageError
from ..format.compression import set_default_filter_kwargs
from ..store import basins
from ..store.copying import copy_features, copy_metadata
from ..stream.stash import EventStash
from . import pipeline

__all__ = ["TESTED_VERSIONS", "disable", "enable", "enabled", "is_enabled", "main"]

#: Versions of dcnum whose pipeline gives the same recordings with and without the switch.
TESTED_VERSIONS: Final = "0.31"

#: Names of `dcnum.write` and what takes their place.
_REPLACEMENTS: Final[dict[str, Any]] = {
    "ChunkWriter": pipeline.ChunkWriter,
    "EventStash": EventStash,
    "HDF5Writer": pipeline.HDF5Writer,
    "QueueWriterProcess": pipeline.QueueWriterProcess,
    "QueueWriterThread": pipeline.QueueWriterThread,
    "copy_basins": basins.copy_basins,
    "copy_features": copy_features,
    "copy_metadata": copy_metadata,
    "create_with_basins": basins.create_with_basins,
    "set_default_filter_kwargs": set_default_filter_kwargs,
}
#: Warnings that are to be caught under dcnum's names, too.
_WARNINGS: Final = ("CreatingFileWithoutBasinWarning", "IgnoringBasinTypeWarning")

#: The entry in the preparation data of a spawned process.
_ENTRY: Final = "dcwrite_interop_dcnum"

_USAGE: Final = """\
usage: python -m dcwrite.interop.dcnum SCRIPT [ARGUMENTS]
       python -m dcwrite.interop.dcnum -m MODULE [ARGUMENTS]

Run a Python program whose dcnum writes with dcwrite.
"""

_lock = threading.RLock()
#: (theirs, ours) of all that is replaced in dcnum's modules; empty: the switch is off.
_replaced: list[tuple[Any, Any]] = []
#: Warning classes of `dcwrite.store.basins` while the switch is off.
_own_warnings: dict[str, type[Warning]] = {}


def enable() -> None:
    """Let dcnum write with dcwrite, here and in all processes that are spawned from now on.

    Calling it again does nothing.

    Raises
    ------
    UsageError
        dcnum is not installed, or is of a version that was not tested.

    Examples
    --------
    >>> from dcwrite.interop import dcnum
    >>> dcnum.enable()
    >>> import dcnum.write
    >>> dcnum.write.HDF5Writer.__module__
    'dcwrite.interop.pipeline'
    """
    with _lock:
        if _replaced:
            return
        write, common, os_env_st = _import_dcnum()
        pairs = [(getattr(write, name), ours) for name, ours in _REPLACEMENTS.items()]
        pairs.append((common.start_workers_threaded, _noting_workers(common)))
        pairs.append((os_env_st.RequestSingleThreaded, pipeline.one_at_a_time(os_env_st)))
        warnings = {
            name: _as_both(getattr(basins, name), getattr(write.writer, name))
            for name in _WARNINGS
        }
        _replaced.extend(pairs)
        for theirs, ours in pairs:
            _rebind(theirs, ours)
        for name, warning in warnings.items():
            _own_warnings[name] = getattr(basins, name)
            setattr(basins, name, warning)
        _hook_spawned_processes()


def disable() -> None:
    """Let dcnum write as it was installed to; does nothing where the switch is off.

    Writers that exist go on.
    """
    with _lock:
        for theirs, ours in _replaced:
            _rebind(ours, theirs)
        _replaced.clear()
        for name, warning in _own_warnings.items():
            setattr(basins, name, warning)
        _own_warnings.clear()


def is_enabled() -> bool:
    """Whether dcnum writes with dcwrite."""
    return bool(_replaced)


@contextmanager
def enabled() -> Iterator[None]:
    """Let dcnum write with dcwrite in a ``with`` block; where it did before, it does after.

    Raises
    ------
    UsageError
        As `enable`.
    """
    was_enabled = is_enabled()
    enable()
    try:
        yield
    finally:
        if not was_enabled:
            disable()


def _import_dcnum() -> tuple[ModuleType, ModuleType, ModuleType]:
    """`dcnum.write`, `dcnum.common` and `dcnum.os_env_st` of a version that was tested."""
    try:
        package = importlib.import_module("dcnum")
    except ModuleNotFoundError as exc:
        if exc.name != "dcnum":
            raise
        raise UsageError(
            f"dcnum is not installed, so there is nothing that could write with dcwrite; install "
            f"it: pip install 'dcnum=={TESTED_VERSIONS}.*'"
        ) from exc
    version = str(getattr(package, "__version__", "unknown"))
    if not version.startswith(f"{TESTED_VERSIONS}."):
        raise UsageError(
            f"dcnum: expected version {TESTED_VERSIONS}.x, got {version}, with which dcwrite was "
            f"not tested; install another one (pip install 'dcnum=={TESTED_VERSIONS}.*'), or use "
            f"dcnum's own writer"
        )
    write, common, os_env_st = (
        importlib.import_module(f"dcnum.{name}") for name in ("write", "common", "os_env_st")
    )
    return write, common, os_env_st


def _rebind(old: Any, new: Any) -> None:
    """Replace an object in all loaded modules of dcnum; nothing else of the same name."""
    for name, module in list(sys.modules.items()):
        if name == "dcnum" or name.startswith("dcnum."):
            for attribute, value in list(vars(module).items()):
                if value is old:
                    setattr(module, attribute, new)


def _noting_workers(common: ModuleType) -> Callable[..., Any]:
    """Start a pipeline's workers as dcnum does, and note them for its writer."""
    original: Callable[..., Any] = common.start_workers_threaded

    @functools.wraps(original)
    def start_workers_threaded(worker_list: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        pipeline.remember_workers(worker_list)
        return original(worker_list, *args, **kwargs)

    return start_workers_threaded


def _as_both(ours: type[Warning], theirs: type[Warning]) -> type[Warning]:
    """A warning that is caught under both names."""
    return type(ours.__name__, (ours, theirs), {"__module__": __name__, "__doc__": ours.__doc__})


class _EnableInChild:
    """Its unpickling calls `enable`."""

    def __init__(self, module_path: Sequence[str]) -> None:
        self._module_path = [str(entry) for entry in module_path]

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str, dict[str, Any]]]:
        # `exec`, because no function of ours can be imported before the module path is set
        code = (
            f"import sys; sys.path[:] = {self._module_path!r}; "
            f"from dcwrite.interop import dcnum; dcnum.enable()"
        )
        return exec, (code, {})


def _hook_spawned_processes() -> None:
    """Let the preparation data of spawned processes hold the switch, while it is on."""
    original: Any = multiprocessing.spawn.get_preparation_data
    if hasattr(original, _ENTRY):
        return

    @functools.wraps(original)
    def get_preparation_data(name: str) -> dict[str, Any]:
        data: dict[str, Any] = original(name)
        if is_enabled():
            data[_ENTRY] = _EnableInChild(data.get("sys_path", sys.path))
        return data

    setattr(get_preparation_data, _ENTRY, True)
    multiprocessing.spawn.get_preparation_data = get_preparation_data


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a program whose dcnum writes with dcwrite.

    Parameters
    ----------
    arguments
        ``SCRIPT ...`` or ``-m MODULE ...``; default: those of the command line.

    Raises
    ------
    SystemExit
        Nothing can be run (status 2), dcnum cannot be switched (status 1), or the program's own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in {"-h", "--help"}:
        sys.stdout.write(_USAGE)
        return
    as_module = bool(given) and given[0] == "-m"
    if as_module:
        del given[0]
    if not given or given[0].startswith("-"):
        sys.stderr.write(_USAGE)
        sys.exit(2)
    try:
        enable()
    except UsageError as exc:
        sys.exit(f"dcwrite: {exc}")
    sys.argv[:] = given
    if as_module:
        runpy.run_module(given[0], run_name="__main__", alter_sys=True)
        return
    if not sys.flags.safe_path:  # else there is no entry for the script's folder
        sys.path[0] = str(Path(given[0]).resolve().parent)
    runpy.run_path(given[0], run_name="__main__")


if __name__ == "__main__":
    # the module by its name, not a second one named __main__: its state exists once
    importlib.import_module("dcwrite.interop.dcnum").main()
