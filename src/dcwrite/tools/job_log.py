"""Job logs: what made a file, out of what, with which options; kept in the file itself.

Alone here: what such a log holds, and when a file is the result of the same job. Invariant: a log
that was there already is kept under another name.

The lines are JSON with the keys that dclab's commands use ("utc", "system", "python",
"libraries", "files" with "index", "name" and "md5-5M"), and more.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from .._version import __version__
from ..errors import DCWriteError
from ..store.basins import get_measurement_identifier
from ..store.hdf5 import HDF5_VERSION, open_for_reading
from ..store.recording import Recording
from ..store.writer import HDF5Writer

__all__ = ["describe_input", "is_result_of", "job_lines", "log_name", "store_job_log"]

#: So many bytes at the beginning of an input are hashed, as dclab does.
HASHED_BYTES: Final = 80 * 65536
_LIBRARIES: Final = ("h5py", "hdf5plugin", "numcodecs", "numpy")


def log_name(command: str) -> str:
    """Name of the log of a command."""
    return f"dcwrite-{command}"


def describe_input(path: str | os.PathLike[str], index: int = 1) -> dict[str, Any]:
    """What tells an input from others; quick also for large files.

    Parameters
    ----------
    path
        The file.
    index
        Its number among the inputs, from 1.

    Raises
    ------
    OSError
        It cannot be read.
    """
    path = Path(path)
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        checksum = hashlib.md5(file.read(HASHED_BYTES), usedforsecurity=False).hexdigest()
    identifier = None
    with suppress(DCWriteError, OSError), open_for_reading(path) as h5:
        identifier = get_measurement_identifier(h5)
    return {
        "index": index,
        "name": path.name,
        "size": state.st_size,
        "modified_ns": state.st_mtime_ns,
        "identifier": identifier,
        "md5-5M": checksum,
    }


def job_lines(
    command: str,
    options: Mapping[str, Any],
    inputs: Iterable[str | os.PathLike[str] | Mapping[str, Any]],
) -> list[str]:
    """Lines of a job log.

    Parameters
    ----------
    command
        Name of the command: "compress".
    options
        What decides about the result, and nothing else (no numbers of threads).
    inputs
        The input files, or what `describe_input` says of them.

    Raises
    ------
    OSError
        An input cannot be read.
    """
    now = datetime.now(UTC)
    libraries = {"dcwrite": __version__, "hdf5": HDF5_VERSION}
    for name in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            libraries[name] = importlib.metadata.version(name)
    content = {
        "program": "dcwrite",
        "command": command,
        "options": _plain(options),
        "files": _described(inputs),
        "utc": {"date": f"{now:%Y-%m-%d}", "time": f"{now:%H:%M:%S}"},
        "system": {
            "info": platform.platform(),
            "machine": platform.machine(),
            "name": platform.system(),
            "release": platform.release(),
            "version": platform.version(),
        },
        "python": {
            "build": ", ".join(platform.python_build()),
            "implementation": platform.python_implementation(),
            "version": platform.python_version(),
        },
        "libraries": libraries,
    }
    return json.dumps(content, indent=2, sort_keys=True).split("\n")


def store_job_log(writer: HDF5Writer, command: str, lines: Iterable[str]) -> None:
    """Store a job log; one of that name gets the next free number: "dcwrite-compress-1".

    Parameters
    ----------
    writer
        Of the output; to be called when all events are stored.
    command
        Name of the command.
    lines
        From `job_lines`.

    Raises
    ------
    StorageError
        The disk refused.
    """
    name = log_name(command)
    logs = writer.settled_file().require_group("logs")
    if name in logs:
        number = 1
        while f"{name}-{number}" in logs:
            number += 1
        logs.move(name, f"{name}-{number}")
    writer.store_log(name, lines)


def is_result_of(
    path_out: str | os.PathLike[str],
    command: str,
    options: Mapping[str, Any],
    inputs: Iterable[str | os.PathLike[str] | Mapping[str, Any]],
) -> bool:
    """Whether a file was made by this job: same command and options, unchanged inputs.

    Outputs appear under their names only when they are whole, so such a file is complete.

    Parameters
    ----------
    path_out
        The file; need not exist.
    command, options, inputs
        As for `job_lines`.

    Raises
    ------
    OSError
        An input cannot be read.
    """
    if not Path(path_out).is_file():
        return False
    try:
        with Recording(path_out) as recording:
            lines = recording.logs.get(log_name(command), [])
        found = json.loads("\n".join(lines))
    except (DCWriteError, ValueError):
        return False
    wanted = {
        "program": "dcwrite",
        "command": command,
        "options": _plain(options),
        "files": _described(inputs),
    }
    return isinstance(found, dict) and {key: found.get(key) for key in wanted} == wanted


def _described(
    inputs: Iterable[str | os.PathLike[str] | Mapping[str, Any]],
) -> list[dict[str, Any]]:
    return [
        {**item, "index": number} if isinstance(item, Mapping) else describe_input(item, number)
        for number, item in enumerate(inputs, 1)
    ]


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON gives them back."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(options), default=_as_json))
    return plain


def _as_json(value: Any) -> Any:
    """Sets in order, arrays as lists, everything else as text."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    to_list = getattr(value, "tolist", None)
    return to_list() if callable(to_list) else str(value)
