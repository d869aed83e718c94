"""Files that HDF5 refuses to open, because their writer was killed: opened read-only all the same.

Alone here: the superblock's bytes. Invariant: the file on the disk is only read; what is mended is
mended in memory.

Source: HDF5 File Format Specification 3.0, section II.A (superblock versions 0, 2 and 3); the
checksum is Jenkins' lookup3 (public domain), as the specification prescribes.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any, Final

from .raw_view import RawView

__all__ = ["UncleanFile", "lookup3"]

_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
_VERSION_AT: Final = 8
_FLAGS_AT: Final = 11
_END_AT: Final = 28
_CHECKSUM_AT: Final = 44
_SUPERBLOCK_BYTES: Final = 48
#: Where superblocks of version 0 have the end of the file; they have no checksum.
_OLD_END_AT: Final = 40
_OLD_OFFSET_SIZE_AT: Final = 13
_MASK: Final = 0xFFFFFFFF


class UncleanFile(RawView):
    """A read-only file whose superblock says that it was closed, and is as long as it claims.

    Bytes that the file has not got read as zeros.

    Parameters
    ----------
    source
        The file, or one that is open; it is closed with this one.
    """

    def __init__(self, source: Path | io.RawIOBase) -> None:
        super().__init__()
        self._file = source.open("rb", buffering=0) if isinstance(source, Path) else source
        self._file_size = self._size = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        self._head = bytearray(self._file.read(_SUPERBLOCK_BYTES) or b"")
        head = self._head
        if len(head) < _SUPERBLOCK_BYTES or not head.startswith(_SIGNATURE):
            return
        version = head[_VERSION_AT]
        if version in {2, 3}:
            head[_FLAGS_AT] = 0
            self._extend_to(_END_AT)
            struct.pack_into("<I", head, _CHECKSUM_AT, lookup3(bytes(head[:_CHECKSUM_AT])))
        elif version == 0 and head[_OLD_OFFSET_SIZE_AT] == 8:
            self._extend_to(_OLD_END_AT)

    def _extend_to(self, place: int) -> None:
        """Be as long as the superblock says there."""
        end = struct.unpack_from("<Q", self._head, place)[0]
        if end < self._size or end > 2 * self._size + 2**30:
            # metadata may be behind the end that was last noted, never far beyond the file
            end = self._size
            struct.pack_into("<Q", self._head, place, end)
        self._size = max(self._size, end)

    def readinto(self, buffer: Any) -> int:
        """Read as many bytes as fit."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._position))
        got = 0
        if self._position < self._file_size:
            self._file.seek(self._position)
        while got < count and self._position < self._file_size:
            part = self._file.readinto(view[got:count])
            if not part:
                break
            got += part
        view[got:count] = bytes(count - got)
        overlap = min(len(self._head), self._position + count) - self._position
        if overlap > 0:
            view[:overlap] = self._head[self._position : self._position + overlap]
        self._position += count
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def lookup3(data: bytes, initial: int = 0) -> int:
    """Jenkins' lookup3 hash of some bytes ("hashlittle"), as HDF5's metadata checksum."""

    def rotate(value: int, bits: int) -> int:
        return ((value << bits) | (value >> (32 - bits))) & _MASK

    a = b = c = (0xDEADBEEF + len(data) + initial) & _MASK
    position = 0
    while len(data) - position > 12:  # three words of 32 bits
        words = struct.unpack_from("<3I", data, position)
        a, b, c = ((x + w) & _MASK for x, w in zip((a, b, c), words, strict=True))
        a = ((a - c) & _MASK) ^ rotate(c, 4)
        c = (c + b) & _MASK
        b = ((b - a) & _MASK) ^ rotate(a, 6)
        a = (a + c) & _MASK
        c = ((c - b) & _MASK) ^ rotate(b, 8)
        b = (b + a) & _MASK
        a = ((a - c) & _MASK) ^ rotate(c, 16)
        c = (c + b) & _MASK
        b = ((b - a) & _MASK) ^ rotate(a, 19)
        a = (a + c) & _MASK
        c = ((c - b) & _MASK) ^ rotate(b, 4)
        b = (b + a) & _MASK
        position += 12
    rest = data[position:]
    if not rest:
        return c
    words = struct.unpack("<3I", rest.ljust(12, b"\x00"))
    a, b, c = ((x + w) & _MASK for x, w in zip((a, b, c), words, strict=True))
    state: dict[str, int] = {"a": a, "b": b, "c": c}
    for x_is, y_is, bits in (
        ("c", "b", 14), ("a", "c", 11), ("b", "a", 25), ("c", "b", 16),
        ("a", "c", 4), ("b", "a", 14), ("c", "b", 24),
    ):  # fmt: skip
        state[x_is] = ((state[x_is] ^ state[y_is]) - rotate(state[y_is], bits)) & _MASK
    return state["c"]
