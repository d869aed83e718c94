"""Undo files: what a file had, kept beside it while it is added to in place.

Alone here: which bytes of an open file HDF5 may overwrite, and the layout of NAME.undo. Invariant:
from before the first change until the file is whole again, NAME and NAME.undo together give the
file as it was, byte by byte, whenever the program is killed.

HDF5 writes the chunks of events that were full nowhere but in their places, and never again. All
else (its metadata, the last chunk of a feature, which moves when it grows, texts) may be
overwritten, or its place be used for something else: that is what an undo file has.

The file: 8 bytes magic; then ``<QQ``: size of the file, number of pieces; for each piece ``<QQ``:
offset and length; the bytes of all pieces; ``<I``: CRC-32 of all that comes before.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import DamagedFileError, StorageError
from .hdf5 import chunks_of, datasets_of, own_item, storage_errors
from .whole_file import TEMPORARY_NAME, sync_folder

__all__ = ["Undo", "UndoneFile", "keeping", "refuse_leftover_undo", "undo_of", "undo_path"]

_MAGIC: Final = b"DCWRITEU"
_HEAD: Final = struct.Struct("<QQ")
_CHECKSUM: Final = struct.Struct("<I")
_BLOCK_BYTES: Final = 2**20
#: Drivers of HDF5 whose file is one file of the system.
_DRIVERS: Final = frozenset({"sec2", "stdio", "windows"})
#: The folder may not be written, though the file may.
_NOT_ALLOWED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
#: Files that are nobody's only copy.
_UNFINISHED: Final = re.compile(rf"{TEMPORARY_NAME}|.*\.part", re.DOTALL)

Extents = npt.NDArray[np.uint64]


def undo_path(path: Path) -> Path:
    """Name of the undo file: NAME.rtdc.undo."""
    return path.with_name(path.name + ".undo")


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
        An undo file is there that none of this process's writers made (errno EEXIST).
    """
    undo = undo_path(path)
    if undo.exists() and _key(path) not in _running:
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

    def __init__(self, path: Path) -> None:
        self.path = path
        self._n_writers = 0
        self._is_needed = False

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
        key = _key(path)
        with _lock:
            undo = _running.get(key)
            if undo is None:
                refuse_leftover_undo(path)
                undo = cls(undo_path(path))
                if not undo._write(h5, path):
                    return None
                _running[key] = undo
            undo._n_writers += 1
            return undo

    def release(self, path: Path, *, is_whole: bool) -> None:
        """One writer has ended.

        Parameters
        ----------
        path
            The file.
        is_whole
            Whether all that it wrote is in the file.
        """
        with _lock:
            self._is_needed |= not is_whole
            self._n_writers -= 1
            if self._n_writers:
                return
            for key in [key for key, undo in _running.items() if undo is self]:
                del _running[key]
            if self._is_needed:
                return
            with storage_errors(path, "completing the file"):
                _sync(path)
                self.path.unlink(missing_ok=True)

    def _write(self, h5: h5py.File, path: Path) -> bool:
        """Write the undo file; False: it may not be written here."""
        with storage_errors(path, "flushing the file"):
            h5.flush()
        temporary = self.path.with_name(self.path.name + ".new")
        try:
            with path.open("rb") as source, temporary.open("wb") as target:
                size = source.seek(0, os.SEEK_END)
                _copy_pieces(source, target, size, _changeable(h5, size))
                target.flush()
                os.fsync(target.fileno())
            temporary.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as exc:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if exc.errno in _NOT_ALLOWED:
                logging.getLogger("dcwrite.store").warning(
                    "'%s': no undo file can be kept beside it (%s); if the program is killed "
                    "while it writes, what was in the file may be lost",
                    path,
                    exc.strerror,
                )
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
            undo.release(path, is_whole=is_whole)


def _sync(path: Path) -> None:
    """Let the disk have a file, if it is still there."""
    try:
        file = path.open("rb+")
    except OSError:  # somebody moved it: the system has what HDF5 has written
        return
    with file:
        os.fsync(file.fileno())


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


def _copy_pieces(
    source: BinaryIO, target: BinaryIO, size: int, pieces: list[tuple[int, int]]
) -> None:
    checksum = 0

    def put(data: bytes) -> None:
        nonlocal checksum
        target.write(data)
        checksum = zlib.crc32(data, checksum)

    put(_MAGIC + _HEAD.pack(size, len(pieces)))
    put(np.array(pieces, "<u8").tobytes())
    for offset, length in pieces:
        source.seek(offset)
        while length:
            data = source.read(min(length, _BLOCK_BYTES))
            if not data:
                raise OSError(errno.EIO, "the file is shorter than it was")
            put(data)
            length -= len(data)  # noqa: PLW2901 - what is left of the piece
    target.write(_CHECKSUM.pack(checksum))


class UndoneFile(io.RawIOBase):
    """A file as it was before it was added to; read-only.

    Parameters
    ----------
    path
        The file.
    undo
        Its undo file.

    Raises
    ------
    DamagedFileError
        The undo file is not one, or not whole.
    """

    def __init__(self, path: Path, undo: Path) -> None:
        super().__init__()
        self._undo = undo.open("rb")
        try:
            self._size, self._offsets, self._lengths, self._places = _read_head(self._undo, undo)
            self._file = path.open("rb", buffering=0)
        except BaseException:
            self._undo.close()
            raise
        self._position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Current position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read bytes of one piece, or between two."""
        view = memoryview(buffer).cast("B")
        position = self._position
        count = max(0, min(len(view), self._size - position))
        if not count:
            return 0
        number = int(np.searchsorted(self._offsets, position, "right")) - 1
        inside = position - int(self._offsets[number]) if number >= 0 else 0
        if number >= 0 and inside < self._lengths[number]:
            count = min(count, int(self._lengths[number]) - inside)
            self._undo.seek(int(self._places[number]) + inside)
            got = self._undo.readinto(view[:count])
        else:
            if number + 1 < len(self._offsets):
                count = min(count, int(self._offsets[number + 1]) - position)
            self._file.seek(position)
            got = self._file.readinto(view[:count])
        self._position += got or 0
        return got or 0

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._undo.close()
        super().close()


def _read_head(file: BinaryIO, path: Path) -> tuple[int, Extents, Extents, Extents]:
    """Size of the file as it was; of each piece offset, length, and place in the undo file."""
    total = file.seek(0, os.SEEK_END) - _CHECKSUM.size
    first = len(_MAGIC) + _HEAD.size
    file.seek(0)
    head = file.read(first)
    checksum, left = zlib.crc32(head), total - first
    size = n_pieces = 0
    table = b""
    is_ours = len(head) == first and head.startswith(_MAGIC) and left >= 0
    if is_ours:
        size, n_pieces = _HEAD.unpack_from(head, len(_MAGIC))
        is_ours = left >= 16 * n_pieces
    if is_ours:
        table = file.read(16 * n_pieces)
        checksum, left = zlib.crc32(table, checksum), left - len(table)
        while left and (data := file.read(min(left, _BLOCK_BYTES))):
            checksum, left = zlib.crc32(data, checksum), left - len(data)
        is_ours = file.read() == _CHECKSUM.pack(checksum)
    if not is_ours:
        raise DamagedFileError(f"'{path}': expected an undo file of dcwrite, got other bytes")
    offsets, lengths = np.frombuffer(table, "<u8").reshape(-1, 2).T.astype(np.uint64)
    places = first + 16 * n_pieces + np.cumsum(lengths) - lengths
    return int(size), offsets, lengths, places.astype(np.uint64)
