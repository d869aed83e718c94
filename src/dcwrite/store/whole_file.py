"""Whole files: a file appears under its name complete, or not at all.

Alone here: temporary names, syncing and renaming. Invariant: what stood under the output's name
is untouched until the new file is complete and on the disk; an interrupted run leaves nothing, one
that was killed a hidden file ".NAME.*.tmp" at most.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import StorageError, UsageError
from .hdf5 import storage_errors
from .space import require_space

__all__ = ["refuse_same_file", "sync_folder", "whole_file"]


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
    if path_out.exists() and not overwrite:
        raise StorageError(
            errno.EEXIST,
            "the output exists already; pass overwrite=True (--overwrite) or choose another name",
            str(path_out),
        )
    if not path_out.parent.is_dir():
        raise StorageError(
            errno.ENOENT, "the output's folder does not exist; create it first", str(path_out)
        )
    require_space(path_out, expected_bytes)
    temporary = path_out.with_name(f".{path_out.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with storage_errors(path_out, "completing the file"):
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if overwrite:
                temporary.replace(path_out)
            else:
                _rename_without_replacing(temporary, path_out)
            sync_folder(path_out.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _rename_without_replacing(temporary: Path, path_out: Path) -> None:
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
