"""Undo files: what a file had, kept beside it while it is added to in place.

Alone here: which bytes of an open file HDF5 may overwrite, and how long they are kept. Invariant:
from before the first change until the file is whole again, NAME and NAME.undo together give the
file as it was, byte by byte, whenever the program is killed.

HDF5 writes the chunks of events that were full nowhere but in their places, and never again. All
else (its metadata, the last chunk of a feature, which moves when it grows, texts) may be
overwritten, or its place be used for something else: that is what an undo file has.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import h5py

from ..errors import StorageError
from .hdf5 import chunks_of, datasets_of, descriptor_of, own_item, storage_errors
from .sentry import is_open_here
from .undo_file import copy_pieces
from .whole_file import TEMPORARY_NAME, sync_folder

__all__ = ["Undo", "keeping", "refuse_leftover_undo", "undo_of", "undo_path"]

#: Drivers of HDF5 whose file is one file of the system.
_DRIVERS: Final = frozenset({"sec2", "stdio", "windows"})
#: The folder may not be written, though the file may.
_NOT_ALLOWED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
#: Files that are nobody's only copy.
_UNFINISHED: Final = re.compile(rf"{TEMPORARY_NAME}|.*\.part", re.DOTALL)


def undo_path(path: Path) -> Path:
    """Name of the undo file: NAME.rtdc.undo, beside the file itself where NAME is a link."""
    file = path.resolve() if path.is_symlink() else path
    return file.with_name(file.name + ".undo")


def undo_of(path: Path) -> tuple[Path, Path] | None:
    """File and undo file that belong to a name; None where there are none that were left.

    Parameters
    ----------
    path
        NAME.rtdc or NAME.rtdc.undo.
    """
    name = path.name.removesuffix(".undo")
    if not name:
        return None
    file = path.with_name(name)
    undo = undo_path(file)
    is_left = undo.is_file() and file.is_file() and _key(file) not in _running
    return (file, undo) if is_left else None


def refuse_leftover_undo(path: Path) -> None:
    """Refuse to write a file whose last writer was killed.

    Raises
    ------
    StorageError
        An undo file is there that none of this process's writers made (errno EEXIST; EAGAIN:
        another program adds to the file now).
    """
    undo = undo_path(path)
    if undo.exists() and _key(path) not in _running:
        if _is_written_elsewhere(path):
            raise StorageError(
                errno.EAGAIN,
                f"another program adds to '{path.name}' now; wait until it has closed the file",
                os.fspath(path),
            )
        if not path.exists():
            raise StorageError(
                errno.EEXIST,
                f"this file keeps what was in a recording '{path.name}' that is not there any "
                f"more; put that back beside it, or delete '{undo.name}'",
                os.fspath(undo),
            )
        raise StorageError(
            errno.EEXIST,
            f"a program was killed while it added to '{path.name}', and this file keeps what was "
            f"in it before; get a whole recording with `dcwrite recover {path.name}`, or delete "
            f"'{undo.name}' if `dcwrite verify` finds nothing else",
            os.fspath(undo),
        )


class Undo:
    """The undo file of an open file, as long as anybody adds to it.

    Several writers of one open file share it: `keep` counts them, `release` ends it with the last.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.path = undo_path(file)
        self._n_writers = 0
        self._is_needed = False
        self._owner = os.getpid()

    @classmethod
    def keep(cls, h5: h5py.File, path: Path) -> Undo | None:
        """Keep what a file has now.

        Parameters
        ----------
        h5
            The file, open for writing.
        path
            Its path.

        Returns
        -------
        Undo or None
            None: there is nothing to keep, or no place (which is logged).

        Raises
        ------
        StorageError
            The disk refuses, or has an undo file of a program that was killed.
        """
        if not len(h5) or h5.driver not in _DRIVERS or _UNFINISHED.fullmatch(path.name):
            return None
        file = _place_of(h5, path)
        if file is None:
            _warn(path, "the file has no name any more, or another than it was opened with")
            return None
        key = _key(file)
        with _lock:
            undo = _running.get(key)
            if undo is None:
                refuse_leftover_undo(file)
                undo = cls(file)
                if not undo._write(h5):
                    return None
                _running[key] = undo
            undo._n_writers += 1
            return undo

    def release(self, *, is_whole: bool) -> None:
        """One writer has ended.

        Parameters
        ----------
        is_whole
            Whether all that it wrote is in the file.
        """
        if self._owner != os.getpid():
            return  # a fork: the file, and so what it had, is the parent's
        with _lock:
            self._is_needed |= not is_whole
            self._n_writers -= 1
            if self._n_writers:
                return
            for key in [key for key, undo in _running.items() if undo is self]:
                del _running[key]
            if self._is_needed:
                return
            with storage_errors(self._file, "completing the file"):
                _sync(self._file)
                self.path.unlink(missing_ok=True)

    def _write(self, h5: h5py.File) -> bool:
        """Write the undo file; False: it may not be written here."""
        path = self._file
        with storage_errors(path, "flushing the file"):
            h5.flush()
        temporary = self.path.with_name(self.path.name + ".new")
        try:
            with path.open("rb") as source, temporary.open("wb") as target:
                size = source.seek(0, os.SEEK_END)
                copy_pieces(source, target, size, _changeable(h5, size))
                target.flush()
                os.fsync(target.fileno())
            temporary.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as exc:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if exc.errno in _NOT_ALLOWED:
                _warn(path, exc.strerror)
                return False
            raise StorageError(
                exc.errno or errno.EIO,
                f"keeping what is in '{path.name}' failed: {exc.strerror}; nothing was written",
                os.fspath(self.path),
            ) from exc
        return True


@contextmanager
def keeping(h5: h5py.File) -> Iterator[None]:
    """Keep what an open file has while something is added to it.

    Raises
    ------
    StorageError
        The disk refuses.
    """
    path = Path(os.fsdecode(h5.filename))
    undo = Undo.keep(h5, path)
    if undo is None:
        yield
        return
    is_whole = False
    try:
        yield
    finally:
        try:
            with storage_errors(path, "flushing the file"):
                h5.flush()
            is_whole = True
        finally:
            undo.release(is_whole=is_whole)


def _warn(path: Path, reason: str | None) -> None:
    logging.getLogger("dcwrite.store").warning(
        "'%s': no undo file can be kept beside it (%s); if the program is killed while it writes, "
        "what was in the file may be lost",
        path,
        reason,
    )


def _place_of(h5: h5py.File, path: Path) -> Path | None:
    """Where an open file is now, links followed; None: nobody knows.

    The working folder may be another than when it was opened, and the file may have been moved.
    """
    path = path.resolve()
    descriptor = descriptor_of(h5)
    if descriptor is None:
        return path if path.exists() else None
    number, status = descriptor
    with suppress(OSError):
        if os.path.samestat(path.stat(), status):
            return path
    with suppress(OSError):  # Linux knows
        path = Path(f"/proc/self/fd/{number}").readlink()
        if os.path.samestat(path.stat(), status):
            return path
    return None


def _is_written_elsewhere(path: Path) -> bool:
    """Whether another program has HDF5's lock of a file that this one has not opened."""
    if os.name == "nt":
        return False
    import fcntl  # noqa: PLC0415 - not there on Windows

    try:
        with path.open("rb") as file:
            if not is_open_here(os.fstat(file.fileno())):
                fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here, or no file
        return False
    return False


def _sync(path: Path) -> None:
    """Let the disk have a file, if it is still there."""
    try:
        file = path.open("rb+")
    except OSError:  # somebody moved it: the system has what HDF5 has written
        return
    with file:
        os.fsync(file.fileno())


def _forget() -> None:
    """In a fork: what is written is the parent's, and another thread may have held the lock."""
    global _lock  # noqa: PLW0603 - one for this process
    _lock = threading.RLock()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

_lock = threading.RLock()
#: undo files of this process, by what is written
_running: dict[tuple[int, int] | str, Undo] = {}


def _key(path: Path) -> tuple[int, int] | str:
    try:
        status = path.stat()
    except OSError:
        return os.fspath(path)
    return status.st_dev, status.st_ino


def _changeable(h5: h5py.File, size: int) -> list[tuple[int, int]]:
    """Offsets and lengths of all that HDF5 may overwrite."""
    try:
        if h5.userblock_size:
            return [(0, size)]
        kept = _lasting(h5)
    except (AttributeError, OSError, RuntimeError, ValueError, TypeError):  # an unusual file
        return [(0, size)]
    pieces, position = [], 0
    for first, stop in kept:
        if first > position:
            pieces.append((position, min(first, size) - position))
        position = max(position, int(stop))
        if position >= size:
            break
    if position < size:
        pieces.append((position, size - position))
    return [(first, length) for first, length in pieces if length > 0]


def _lasting(h5: h5py.File) -> list[tuple[int, int]]:
    """First and last + 1 byte of what stays where it is, in order."""
    events = own_item(h5, "events")
    found: list[tuple[int, int]] = []
    if not isinstance(events, h5py.Group):
        return found
    for dset in datasets_of(events).values():
        if dset.is_virtual or dset.external:
            continue
        if dset.chunks is None:
            offset = dset.id.get_offset()
            if offset is not None:
                found.append((offset, offset + dset.id.get_storage_size()))
            continue
        n_whole = dset.shape[0] // dset.chunks[0] * dset.chunks[0]
        found += [
            (info.byte_offset, info.byte_offset + info.size)
            for info in chunks_of(dset)
            if info.chunk_offset[0] < n_whole
        ]
    return sorted(found)
