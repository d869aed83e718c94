"""Reading a journal: what the complete records say, checked value by value.

Alone here: which records are believed. Invariant: what is returned names rows that a writer could
have written, whatever the file holds, and rows are unpacked when they are asked for, so that a
journal of any size is read with little memory.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import DamagedFileError
from ..format.basin import BASIN_GROUP
from ..format.features import check_feature_name
from .encoder import zstd_content_size
from .hdf5 import storage_errors
from .journal import (
    BODY_CODEC,
    CONTOURS,
    CRC32,
    FLETCHER32,
    HEADER,
    MAGIC,
    RECORD,
    VERSIONS,
    FeatureRecord,
)

__all__ = ["EmptyJournalError", "JournalState", "TailRows", "is_being_written", "read_journal"]

AnyArray = npt.NDArray[Any]

#: No chunk is larger (HDF5 allows 4 GiB).
_MAX_CHUNK_BYTES: Final = 1024**3
#: A Zstandard block of 4 bytes can stand for 128 KiB (RFC 8878, section 3.1.1.2).
_MAX_RATIO: Final = 32 * 1024
#: A head is text of a few kB; larger ones are damage.
_MAX_HEAD_BYTES: Final = 64 * 1024**2
#: Rows of one record; the first version of the format had no limit, a writer's memory was one.
_MAX_BODY_BYTES: Final = 1024**3
#: No file has so many rows or bytes.
_MAX_COUNT: Final = 2**56


class EmptyJournalError(DamagedFileError):
    """There is no complete record (yet)."""


class _Body:
    """The packed rows of one record.

    Parameters
    ----------
    path
        The journal.
    offset
        Where they are in it.
    packed
        They themselves.
    size
        Bytes when they are unpacked.
    keep
        Whether to hold them in memory, packed: the journal may be replaced.
    cache
        Where the last one that was unpacked is kept.
    """

    __slots__ = ("_cache", "_checksum", "_offset", "_packed", "_packed_bytes", "_path", "size")

    def __init__(
        self, path: Path, offset: int, packed: bytes, size: int, *, keep: bool, cache: list[Any]
    ) -> None:
        self._path = path
        self._offset = offset
        self._packed_bytes = len(packed)
        self._checksum = zlib.crc32(packed)
        self._packed = packed if keep else None
        self._cache = cache
        self.size = size

    def unpacked(self) -> bytes:
        """All bytes."""
        if self._cache and self._cache[0] is self:
            data: bytes = self._cache[1]
            return data
        data = bytes(BODY_CODEC.decode(self._packed or self._read()))
        self._cache[:] = [self, data]
        return data

    def _read(self) -> bytes:
        with storage_errors(self._path, "reading the journal"), self._path.open("rb") as file:
            file.seek(self._offset)
            packed = file.read(self._packed_bytes)
        if zlib.crc32(packed) != self._checksum:
            raise DamagedFileError(f"'{self._path}': the journal has changed while it was read")
        return packed


class TailRows:
    """Rows in a record's body.

    Parameters
    ----------
    body
        Where they are.
    position
        Of the first of them there.
    shape, dtype
        What they are.
    """

    __slots__ = ("_body", "_position", "dtype", "shape")

    def __init__(
        self, body: _Body, position: int, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self._body = body
        self._position = position
        self.shape = shape
        self.dtype = dtype

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self) -> AnyArray:
        """All of them."""
        data = self._body.unpacked() if self._body.size else b""
        rows = np.frombuffer(data, self.dtype, math.prod(self.shape), self._position)
        return rows.reshape(self.shape)


@dataclass(slots=True)
class JournalState:
    """What a journal says.

    Attributes
    ----------
    head
        The record "open".
    features
        By number.
    chunks
        By feature number and first row: (offset, size, checksum).
    tails
        By feature number: (first row, rows), in the order of the commits.
    contours
        Index of the first, and one array each, in the order of the commits.
    n_events, n_frames, lengths
        Of the last commit.
    n_commits
        Number of complete commits.
    torn_bytes
        Bytes after the last complete record.
    position
        Where the next record will begin.
    """

    head: dict[str, Any]
    features: dict[int, FeatureRecord] = field(default_factory=dict)
    chunks: dict[int, dict[int, tuple[int, int, int]]] = field(default_factory=dict)
    tails: dict[int, list[tuple[int, TailRows]]] = field(default_factory=dict)
    contours: list[tuple[int, list[TailRows]]] = field(default_factory=list)
    n_events: int = 0
    n_frames: int = 0
    lengths: dict[int, int] = field(default_factory=dict)
    n_commits: int = 0
    torn_bytes: int = 0
    position: int = 0
    cache: list[Any] = field(default_factory=list, repr=False)

    def known_rows(self, number: int) -> int:
        """Row up to which, from its first on, a feature's rows have a place, without a gap."""
        feature = self.features[number]
        size = feature.chunk_events
        end = feature.start_events
        chunks = self.chunks.get(number, {})
        tails = sorted((start, start + len(rows)) for start, rows in self.tails.get(number, []))
        position = 0
        while True:
            before = end
            while end // size * size in chunks:
                end = end // size * size + size
            while position < len(tails) and tails[position][0] <= end:
                end = max(end, tails[position][1])
                position += 1
            if end == before:
                return end

    def drop_obsolete_tails(self) -> None:
        """Forget rows that whole chunks have by now."""
        for number, tails in self.tails.items():
            chunks = self.chunks.get(number)
            if chunks:
                end = max(chunks) + self.features[number].chunk_events
                self.tails[number] = [item for item in tails if item[0] + len(item[1]) > end]


def is_being_written(path: Path) -> bool | None:
    """Whether the writer of a journal is still there; None: that cannot be told."""
    if os.name == "nt":
        return None
    import fcntl  # noqa: PLC0415 - not on Windows

    with suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
    return None


def read_journal(
    path: Path, since: JournalState | None = None, *, keep: bool = False
) -> JournalState:
    """Read a journal up to its last complete record.

    Parameters
    ----------
    path
        The journal.
    since
        What was read of it before; it is completed, unless the journal was replaced meanwhile.
    keep
        Whether to hold rows in memory: the journal may be replaced.

    Raises
    ------
    StorageError
        It cannot be read.
    DamagedFileError
        It is no journal, or of a later version.
    """
    with storage_errors(path, "reading the journal"), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        magic = file.read(len(MAGIC))
        if magic != MAGIC and MAGIC.startswith(magic):
            raise EmptyJournalError(f"'{path}': the journal is empty; nothing was durable")
        if magic != MAGIC:
            raise DamagedFileError(f"'{path}': expected a journal of dcwrite, got another file")
        try:
            return _read(path, file, size, since, keep)
        except (LookupError, MemoryError, TypeError, ValueError, OverflowError) as exc:
            raise DamagedFileError(
                f"'{path}': a record with a right checksum cannot be understood ({exc!r})"
            ) from exc


def _read(
    path: Path, file: Any, size: int, since: JournalState | None, keep: bool
) -> JournalState:
    for head, _ in _records(file, size):
        state = _opened(path, head)
        break
    else:
        raise EmptyJournalError(
            f"'{path}': no complete record in the journal; nothing was durable"
        )
    state.position = file.tell()
    if since is not None and since.head == state.head and since.position <= size:
        state = since
        file.seek(since.position)
    waiting: list[tuple[int, int, bool, list[TailRows]]] = []
    for head, packed in _records(file, size):
        kind = head["type"]
        if kind == "feature":
            feature = _feature(head)
            if state.features.setdefault(feature.number, feature) != feature:
                raise ValueError(f"expected one feature {feature.number}, got two")
        elif kind in {"rows", "commit"}:
            size_of_body = _body_bytes(head, packed)
            offset = file.tell() - len(packed)
            body = _Body(path, offset, packed, size_of_body, keep=keep, cache=state.cache)
            waiting += _tails(state, head, body)
            if kind == "rows":
                continue  # they count with the commit that follows
            _commit(state, head, waiting)
            waiting = []
        else:
            raise ValueError(f"expected a feature, rows or a commit, got '{kind}'")
        state.position = file.tell()
    state.torn_bytes = size - state.position
    return state


def _records(file: Any, size: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Complete records; ends at the first that is not."""
    while True:
        header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            return
        magic, head_size, body_size, checksum = HEADER.unpack(header)
        if magic != RECORD or head_size > _MAX_HEAD_BYTES:
            return
        if file.tell() + head_size + body_size > size:
            return
        text = file.read(head_size)
        body = file.read(body_size)
        if zlib.crc32(body, zlib.crc32(text)) != checksum:
            return
        try:
            head = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(head, dict):
            return
        yield head, body


# -- what a record may say --------------------------------------------------------------------


def _count(value: Any) -> int:
    """A number of things, or a place."""
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise ValueError(f"expected a count, got {str(value)[:40]}")
    return value


def _opened(path: Path, head: dict[str, Any]) -> JournalState:
    if head["type"] != "open":
        raise ValueError(f"expected the record 'open' first, got '{head['type']}'")
    if head["version"] not in VERSIONS:
        raise DamagedFileError(
            f"'{path}': expected journal version {VERSIONS}, got {head['version']}; use a newer "
            f"dcwrite"
        )
    target, kwds = head["target"], head.get("ds_kwds", {})
    if not isinstance(target, str) or Path(target).name != target:
        raise ValueError(f"expected the name of a file as target, got {target!r}")
    return JournalState({**head, "ds_kwds": dict(kwds)})


def _feature(head: dict[str, Any]) -> FeatureRecord:
    record = FeatureRecord(
        _count(head["number"]),
        str(head["path"]),
        str(head["dtype"]),
        tuple(_count(n) for n in head["item_shape"]),
        _count(head["chunk_events"]),
        _count(head["start_events"]),
        str(head.get("checksum", CRC32)),
    )
    dtype = np.dtype(record.dtype)
    group_name, _, name = record.path.partition("/")
    check_feature_name(name)
    if (
        group_name not in {"events", BASIN_GROUP}
        or dtype.kind not in "biuf"
        or record.checksum not in {CRC32, FLETCHER32}
        or min((record.chunk_events, *record.item_shape)) < 1
        or math.prod(record.item_shape) * dtype.itemsize * record.chunk_events > _MAX_CHUNK_BYTES
    ):
        raise ValueError(f"expected a feature, got {record}")
    return record


def _body_bytes(head: dict[str, Any], packed: bytes) -> int:
    """Size of the rows when they are unpacked: no more than a writer packs."""
    size = _count(head["body_bytes"])
    limit = min(_MAX_BODY_BYTES, len(packed) * _MAX_RATIO)
    if size and (size > limit or zstd_content_size(packed) != size):
        raise ValueError(f"expected at most {limit} bytes in {len(packed)}, got {size}")
    return size


def _tails(
    state: JournalState, head: dict[str, Any], body: _Body
) -> list[tuple[int, int, bool, list[TailRows]]]:
    """Rows of a record, as (feature number, first row, whether contours, rows)."""
    found = []
    position = 0
    for number, start, is_list, shapes in head["tails"]:
        items = []
        for shape, dtype_text in shapes:
            dtype = np.dtype(dtype_text)
            rows = TailRows(body, position, tuple(map(_count, shape)), dtype)
            if not rows.shape or dtype.kind not in "biuf":
                raise ValueError(f"expected rows of numbers, got {shape} of {dtype}")
            position += math.prod(rows.shape) * dtype.itemsize
            items.append(rows)
        if number != CONTOURS:
            feature = state.features[number]
            make_up = (feature.item_shape, np.dtype(feature.dtype))
            if is_list or [(rows.shape[1:], rows.dtype) for rows in items] != [make_up]:
                raise ValueError(f"expected rows of {feature}, got {shapes}")
        found.append((number, _count(start), is_list, items))
    if position > body.size:
        raise ValueError(f"expected {position} bytes of rows, got {body.size}")
    return found


def _commit(
    state: JournalState,
    head: dict[str, Any],
    tails: list[tuple[int, int, bool, list[TailRows]]],
) -> None:
    state.n_events, state.n_frames = _count(head["n_events"]), _count(head["n_frames"])
    lengths = {int(number): _count(length) for number, length in head["lengths"]}
    if unknown := set(lengths) - set(state.features) - {CONTOURS}:
        raise ValueError(f"expected lengths of known features, got {unknown}")
    state.lengths = lengths
    for number, start, offset, size, checksum in head["chunks"]:
        feature = state.features[number]
        if _count(start) % feature.chunk_events:
            raise ValueError(f"expected the first row of a chunk, got {start}")
        place = (_count(offset), _count(size), _count(checksum))
        state.chunks.setdefault(number, {})[start] = place
    for number, start, is_list, items in tails:
        if is_list:
            state.contours.append((start, items))
        else:
            state.tails.setdefault(number, []).append((start, items[0]))
    state.n_commits += 1
