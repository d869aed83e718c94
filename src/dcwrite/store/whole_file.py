"""Whole files: a file appears under its name complete, or not at all.

Alone here: temporary names, syncing and renaming. Invariant: what stood under the output's name
is untouched until the new file is complete and on the disk; an interrupted run leaves nothing, one
that was killed a hidden file ".NAME.*.tmp", which the next run for the same output removes.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ..errors import StorageError, UsageError
from .hdf5 import storage_errors
from .space import require_space

__all__ = [
    "TEMPORARY_NAME",
    "refuse_output",
    "refuse_same_file",
    "rename_without_replacing",
    "sync_folder",
    "whole_file",
]

#: Pattern of the names under which files are written.
TEMPORARY_NAME: Final = r"\..+\.[0-9a-f]{24}\.tmp(\..*)?"


def refuse_same_file(path_out: Path, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse an output that is one of its inputs, also through links and relative paths.

    Raises
    ------
    UsageError
        Output and input are the same file.
    """
    for path in map(Path, inputs):
        with suppress(OSError):
            same = path.resolve() == path_out.resolve() or (
                path.exists() and path_out.exists() and path.samefile(path_out)
            )
            if same:
                raise UsageError(
                    f"'{path_out}': expected an output that is none of the inputs, got the input "
                    f"'{path}'; choose another name (nothing was changed)"
                )


def refuse_output(path_out: Path, *, overwrite: bool) -> None:
    """Refuse an output that cannot be written, before any work is done for it.

    Raises
    ------
    StorageError
        It is a folder, is there (also as a link that leads nowhere) and `overwrite` is not set
        (errno EEXIST), or its folder is not there.
    """
    if path_out.is_dir():
        raise StorageError(
            errno.EISDIR,
            "expected a file to write, got a folder; name a file in it",
            str(path_out),
        )
    if os.path.lexists(path_out) and not overwrite:
        what = "" if path_out.exists() else " as a link that leads nowhere"
        raise StorageError(
            errno.EEXIST,
            f"the output exists already{what}; pass overwrite=True (--overwrite) or choose "
            f"another name",
            str(path_out),
        )
    if not path_out.parent.is_dir():
        raise StorageError(
            errno.ENOENT, "the output's folder does not exist; create it first", str(path_out)
        )


def _scope() -> str:
    """Where a process number means one process: this boot of this machine, this container."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return f"{zlib.crc32(' '.join(parts).encode()):08x}"


def remove_stale(path_out: Path) -> None:
    """Remove what runs for the same output left that were killed; others' are left alone."""
    if os.name == "nt":  # there is no way to ask for a process without ending it
        return
    pattern = re.compile(
        rf"\.{re.escape(path_out.name)}\.{_scope()}([0-9a-f]{{8}})[0-9a-f]{{8}}\.tmp(\..*)?\Z"
    )
    with suppress(OSError):
        for path in path_out.parent.iterdir():
            found = pattern.match(path.name)
            if found and not _is_alive(int(found.group(1), 16)):
                path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Make a rename durable; not needed, and not possible, on Windows."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot sync folders
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def whole_file(
    path_out: str | os.PathLike[str], *, overwrite: bool = False, expected_bytes: int = 0
) -> Iterator[Path]:
    """Give a temporary path in the same folder, renamed to the output's at the end.

    Parameters
    ----------
    path_out
        Name under which the complete file appears.
    overwrite
        Whether it may replace a file of that name.
    expected_bytes
        Estimate of its size: refused at once where the disk has less.

    Yields
    ------
    Path
        Where to write; the file has to be closed when the block ends.

    Raises
    ------
    StorageError
        The output exists and `overwrite` is not set (errno EEXIST), or the disk refuses.
    """
    path_out = Path(path_out)
    refuse_output(path_out, overwrite=overwrite)
    require_space(path_out, expected_bytes)
    remove_stale(path_out)
    token = f"{_scope()}{os.getpid():08x}{secrets.token_hex(4)}"
    temporary = path_out.with_name(f".{path_out.name}.{token}.tmp")
    try:
        yield temporary
        with storage_errors(path_out, "completing the file"):
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if overwrite:
                temporary.replace(path_out)
            else:
                rename_without_replacing(temporary, path_out)
            sync_folder(path_out.parent)
    except OSError as exc:
        if exc.filename is not None and os.fspath(exc.filename) == os.fspath(temporary):
            exc.filename = os.fspath(path_out)  # a name that whoever asked for the file knows
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def rename_without_replacing(temporary: Path, path_out: Path) -> None:
    """Rename; a file that has appeared under the name in the meantime is not replaced."""
    if os.name == "nt":
        temporary.rename(path_out)  # refuses by itself
        return
    try:
        os.link(temporary, path_out)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system
        if path_out.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path_out)) from None
        temporary.rename(path_out)
    else:
        temporary.unlink()
