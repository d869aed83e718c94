"""The undo file itself: its layout, and reading a file as it was with it.

Alone here: which bytes are where in NAME.undo. Invariant: what is read is whole, and belongs to
the file.

The file: 8 bytes magic; then ``<QQ``: size of the file, number of pieces; ``<64I``: CRC-32 of the
bytes at 64 places that are in no piece (by which the file is known again); for each piece ``<QQ``:
offset and length; the bytes of all pieces; ``<I``: CRC-32 of all that comes before.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from ..errors import DamagedFileError
from .raw_view import RawView

__all__ = ["UndoneFile", "copy_pieces"]

_MAGIC: Final = b"DCWRITEV"
_HEAD: Final = struct.Struct("<QQ256s")
_CHECKSUM: Final = struct.Struct("<I")
_BLOCK_BYTES: Final = 2**20
#: At so many places between the pieces, so many bytes are looked at to know the file again.
_MARKS: Final = 64
_MARK_BYTES: Final = 64
#: What a file needs of them: some may be damaged, or zeros, which many files have.
_MIN_MARKS: Final = _MARKS // 8
Extents = npt.NDArray[np.uint64]


def copy_pieces(
    source: BinaryIO, target: BinaryIO, size: int, pieces: list[tuple[int, int]]
) -> None:
    """Write an undo file.

    Parameters
    ----------
    source, target
        The file, and its undo file.
    size
        Of the file.
    pieces
        Offset and length of what is copied, in order.
    """
    checksum = 0

    def put(data: bytes) -> None:
        nonlocal checksum
        target.write(data)
        checksum = zlib.crc32(data, checksum)

    table = np.array(pieces, "<u8").reshape(-1, 2)
    put(_MAGIC + _HEAD.pack(size, len(pieces), _marks(source, size, *table.T).tobytes()))
    put(table.tobytes())
    for offset, length in pieces:
        source.seek(offset)
        while length:
            data = source.read(min(length, _BLOCK_BYTES))
            if not data:
                raise OSError(errno.EIO, "the file is shorter than it was")
            put(data)
            length -= len(data)  # noqa: PLW2901 - what is left of the piece
    target.write(_CHECKSUM.pack(checksum))


def _marks(source: Any, size: int, offsets: Extents, lengths: Extents) -> npt.NDArray[np.uint32]:
    """CRC-32 of bytes that are in no piece, at places all over them."""
    firsts = np.concatenate([np.zeros(1, "<u8"), offsets + lengths]).astype(np.int64)
    counts = np.append(offsets, np.uint64(size)).astype(np.int64) - firsts
    ends = np.cumsum(counts)
    marks = np.zeros(_MARKS, "<u4")
    if ends[-1] > 0:
        for number, place in enumerate(np.linspace(0, ends[-1] - 1, _MARKS).astype(np.int64)):
            gap = int(np.searchsorted(ends, place, "right"))
            source.seek(int(firsts[gap] + place - (ends[gap] - counts[gap])))
            marks[number] = zlib.crc32(source.read(min(_MARK_BYTES, int(ends[gap] - place))))
    return marks


class UndoneFile(RawView):
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
        The undo file is not one, or not whole, or that of another file.
    """

    def __init__(self, path: Path, undo: Path) -> None:
        super().__init__()
        self._undo = undo.open("rb")
        try:
            head = _read_head(self._undo, undo)
            self._size, marks, self._offsets, self._lengths, self._places = head
            self._file = path.open("rb", buffering=0)
        except BaseException:
            self._undo.close()
            raise
        found = _marks(self._file, self._size, self._offsets, self._lengths)
        if np.count_nonzero(found == marks) < _MIN_MARKS:
            self.close()
            raise DamagedFileError(
                f"'{undo}': expected what was in '{path.name}' before it was added to, got that "
                f"of a file with other data; was '{path.name}' replaced since? {_without(undo)}"
            )

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


def _without(undo: Path) -> str:
    return (
        f"move '{undo.name}' to another folder, and `dcwrite recover` takes what can be read of "
        f"the file as it is now"
    )


def _read_head(
    file: BinaryIO, path: Path
) -> tuple[int, npt.NDArray[np.uint32], Extents, Extents, Extents]:
    """Size of the file as it was, its marks; of each piece offset, length, place in the undo."""
    total = file.seek(0, os.SEEK_END) - _CHECKSUM.size
    first = len(_MAGIC) + _HEAD.size
    file.seek(0)
    head = file.read(first)
    checksum, left = zlib.crc32(head), total - first
    size = n_pieces = 0
    marks = b""
    table = b""
    is_ours = len(head) == first and head.startswith(_MAGIC) and left >= 0
    if is_ours:
        size, n_pieces, marks = _HEAD.unpack_from(head, len(_MAGIC))
        is_ours = left >= 16 * n_pieces
    if is_ours:
        table = file.read(16 * n_pieces)
        checksum, left = zlib.crc32(table, checksum), left - len(table)
        while left and (data := file.read(min(left, _BLOCK_BYTES))):
            checksum, left = zlib.crc32(data, checksum), left - len(data)
        is_ours = file.read() == _CHECKSUM.pack(checksum)
    if not is_ours:
        raise DamagedFileError(
            f"'{path}': expected a whole undo file of dcwrite, got other bytes, or not all; "
            f"{_without(path)}"
        )
    offsets, lengths = np.frombuffer(table, "<u8").reshape(-1, 2).T.astype(np.uint64)
    places = first + 16 * n_pieces + np.cumsum(lengths) - lengths
    return int(size), np.frombuffer(marks, "<u4"), offsets, lengths, places.astype(np.uint64)
