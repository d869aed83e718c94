"""Journal: an append-only file beside a stream that says what would survive a kill now.

Alone here: the format of its records, and when they are synced. Invariant: a commit record is
written after the chunks that it names (with "power": after they are synced), so that all that a
complete record names is in the files; a torn last record is told by its checksum.

The file: 8 bytes magic, then records of ``<4s I I I``: b"REC1", length of the JSON head, length of
the body, CRC-32 of both; then head and body (Zstandard). Heads have a key "type": open, feature,
commit. Rows of unfinished chunks become obsolete soon: from time to time the journal is replaced
by one that begins with all that still counts.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
import time
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

from ..errors import DamagedFileError, UsageError
from ..format.basin import BASIN_GROUP
from ..format.features import check_feature_name
from .encoder import zstd_content_size
from .hdf5 import storage_errors
from .whole_file import sync_folder

__all__ = [
    "CONTOURS",
    "Commit",
    "Durability",
    "FeatureRecord",
    "Journal",
    "JournalState",
    "Tail",
    "read_journal",
    "sync_file",
]

#: What a stream survives: nothing before its end; a kill of its process; a power cut.
Durability = Literal["none", "process", "power"]

_MAGIC: Final = b"DCWRITEJ"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sIII")
_RECORD: Final = b"REC1"
#: Feature number of the contours, which are no dataset.
CONTOURS: Final = -1
#: The journal is replaced when it has grown by this much: about 100 commits of 500 events.
REPLACE_BYTES: Final = 64 * 1024**2
#: Level 1: rows of unfinished chunks are written some 300 MB/s fast, and are not kept.
_BODY_CODEC: Final = Zstd(level=1)
#: No chunk is larger (HDF5 allows 4 GiB).
_MAX_CHUNK_BYTES: Final = 1024**3
#: A Zstandard block of 4 bytes can stand for 128 KiB (RFC 8878, section 3.1.1.2).
_MAX_RATIO: Final = 32 * 1024
#: A head is text of a few kB; larger ones are damage.
_MAX_HEAD_BYTES: Final = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class FeatureRecord:
    """A dataset of the stream.

    Attributes
    ----------
    number
        By which chunks and tails refer to it.
    path
        In the file, such as "events/deform".
    dtype, item_shape, chunk_events
        Its make-up.
    start_events
        Rows that were there before the stream.
    """

    number: int
    path: str
    dtype: str
    item_shape: tuple[int, ...]
    chunk_events: int
    start_events: int


@dataclass(frozen=True, slots=True)
class Tail:
    """Rows that are in no whole chunk yet.

    Attributes
    ----------
    number
        Of the feature; `CONTOURS`: contours.
    start
        Row of the first.
    rows
        The rows; for contours a list of one array per event.
    """

    number: int
    start: int
    rows: Any


@dataclass(frozen=True, slots=True)
class Commit:
    """What became part of the recording at once.

    Attributes
    ----------
    n_events, n_frames
        So far, in all.
    lengths
        Rows per feature number, or `CONTOURS`.
    chunks
        (feature number, first row, offset in the file, size, CRC-32) of each whole chunk.
    tails
        Rows that are in no whole chunk yet.
    """

    n_events: int
    n_frames: int
    lengths: dict[int, int]
    chunks: Sequence[tuple[int, int, int, int, int]]
    tails: Sequence[Tail]


def sync_file(file_number: int, *, data_only: bool = True) -> None:
    """Let the disk have what was written; as far as the system offers it."""
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415 - not on Windows

        with suppress(OSError):
            fcntl.fcntl(file_number, fcntl.F_FULLFSYNC)
            return
    fdatasync = getattr(os, "fdatasync", None)
    if data_only and fdatasync is not None:
        fdatasync(file_number)
    else:
        os.fsync(file_number)


class Journal:
    """Writes the journal of one stream.

    Parameters
    ----------
    path
        The journal's file; it must not exist.
    data_path
        The file whose chunks it names.
    head
        What recovery has to know besides: target name, filter arguments.
    durability
        "process" or "power".
    sync_interval_s
        With "power": the shortest time between two syncs; commits in between are durable with
        the next one.
    """

    def __init__(
        self,
        path: Path,
        data_path: Path,
        head: dict[str, Any],
        *,
        durability: Durability = "process",
        sync_interval_s: float = 0.0,
    ) -> None:
        if durability not in get_args(Durability):
            raise UsageError(
                f"durability: expected one of {get_args(Durability)}, got {durability!r}"
            )
        self.path = path
        self._head = {"type": "open", "version": _VERSION, **head}
        self._features: list[FeatureRecord] = []
        #: all chunks so far, five numbers each (40 bytes per chunk)
        self._chunks = array("q")
        self._size_at_replacement = 0
        self._power = durability == "power"
        self._interval_s = sync_interval_s
        self._last_sync = 0.0
        self._unsynced = False
        self._data_file: Any = None
        with storage_errors(path, "creating the journal"):
            # unbuffered: what was written survives a kill of the process
            self._file = path.open("xb", buffering=0)
            try:
                self._file.write(_MAGIC)
                self._append(self._head, b"")
                if self._power:
                    self._data_file = data_path.open("rb+", buffering=0)
                    sync_file(self._file.fileno(), data_only=False)
                    sync_folder(path.parent)  # both files keep their names
            except BaseException:
                self._file.close()
                path.unlink(missing_ok=True)
                raise

    def add_feature(self, feature: FeatureRecord) -> None:
        """Announce a dataset."""
        self._features.append(feature)
        with storage_errors(self.path, "writing the journal"):
            self._append({"type": "feature", **asdict(feature)}, b"")

    @property
    def wants_replacement(self) -> bool:
        """Whether the next commit should bring all rows that are in no whole chunk."""
        return self._file.tell() - self._size_at_replacement > REPLACE_BYTES

    def commit(self, commit: Commit, *, replace: bool = False) -> bool:
        """Add a record.

        Parameters
        ----------
        commit
            What became part of the recording.
        replace
            Whether its tails hold all rows that are in no whole chunk: then the journal begins
            anew with it.

        Returns
        -------
        bool
            Whether it is durable now; else with a later record, or `sync`.

        Raises
        ------
        StorageError
            The disk refused; the record does not count.
        """
        for chunk in commit.chunks:
            self._chunks.extend(chunk)
        with storage_errors(self.path, "writing the journal"):
            due = self._power and time.monotonic() - self._last_sync >= self._interval_s
            if due or (replace and self._power):
                sync_file(self._data_file.fileno())
            if replace:
                self._begin_anew(commit)
            else:
                self._append(*_packed(commit, commit.chunks))
            self._unsynced = self._power
            if due or (replace and self._power):
                self._sync_journal()
        return not self._unsynced

    def _begin_anew(self, commit: Commit) -> None:
        """Replace the file by one with all that still counts; a kill leaves one of the two."""
        new_path = self.path.with_name(self.path.name + ".new")
        flat = self._chunks
        chunks = [tuple(flat[ii : ii + 5]) for ii in range(0, len(flat), 5)]
        old = self._file
        self._file = new_path.open("wb", buffering=0)
        try:
            self._file.write(_MAGIC)
            self._append(self._head, b"")
            for feature in self._features:
                self._append({"type": "feature", **asdict(feature)}, b"")
            self._append(*_packed(commit, chunks))
            if self._power:
                sync_file(self._file.fileno(), data_only=False)
        except BaseException:
            self._file.close()
            self._file = old
            new_path.unlink(missing_ok=True)
            raise
        # open files cannot be renamed on Windows
        self._file.close()
        old.close()
        new_path.replace(self.path)
        if self._power:
            sync_folder(self.path.parent)
        self._file = self.path.open("r+b", buffering=0)
        self._file.seek(0, os.SEEK_END)
        self._size_at_replacement = self._file.tell()

    def sync(self) -> None:
        """Make all commits durable."""
        if self._unsynced and not self._file.closed:
            with storage_errors(self.path, "syncing the journal"):
                sync_file(self._data_file.fileno())
                self._sync_journal()

    def _sync_journal(self) -> None:
        sync_file(self._file.fileno())
        self._unsynced = False
        self._last_sync = time.monotonic()

    def close(self, *, remove: bool) -> None:
        """Close it; remove it when the recording is complete under its own name."""
        self._file.close()
        if self._data_file is not None:
            self._data_file.close()
        if remove:
            with storage_errors(self.path, "removing the journal"):
                self.path.unlink(missing_ok=True)

    def _append(self, head: dict[str, Any], body: bytes) -> None:
        text = json.dumps(head, separators=(",", ":")).encode()
        checksum = zlib.crc32(body, zlib.crc32(text))
        record = memoryview(_HEADER.pack(_RECORD, len(text), len(body), checksum) + text + body)
        written = 0
        while written < len(record):  # an unbuffered write may be partial on a full disk
            written += self._file.write(record[written:]) or 0


def _packed(commit: Commit, chunks: Sequence[tuple[int, ...]]) -> tuple[dict[str, Any], bytes]:
    """Head and body of a commit."""
    parts: list[bytes] = []
    tails = []
    for tail in commit.tails:
        items = tail.rows if isinstance(tail.rows, list) else [tail.rows]
        shapes = []
        for item in items:
            rows = np.ascontiguousarray(item)
            parts.append(rows.tobytes())
            shapes.append([list(rows.shape), rows.dtype.str])
        tails.append([tail.number, tail.start, isinstance(tail.rows, list), shapes])
    body = b"".join(parts)
    head = {
        "type": "commit",
        "n_events": commit.n_events,
        "n_frames": commit.n_frames,
        "lengths": list(commit.lengths.items()),
        "chunks": chunks,
        "tails": tails,
        "body_bytes": len(body),
    }
    return head, _BODY_CODEC.encode(body) if body else b""


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
        By feature number and first row: (offset, size, CRC-32).
    tails
        By feature number: (first row, rows), in the order of the commits.
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
    tails: dict[int, list[tuple[int, Any]]] = field(default_factory=dict)
    n_events: int = 0
    n_frames: int = 0
    lengths: dict[int, int] = field(default_factory=dict)
    n_commits: int = 0
    torn_bytes: int = 0
    position: int = 0

    def drop_obsolete_tails(self) -> None:
        """Forget rows that whole chunks have by now."""
        for number, tails in self.tails.items():
            chunks = self.chunks.get(number)
            if chunks:
                end = max(chunks) + self.features[number].chunk_events
                self.tails[number] = [item for item in tails if item[0] + len(item[1]) > end]


def read_journal(path: Path, since: JournalState | None = None) -> JournalState:
    """Read a journal up to its last complete record.

    Parameters
    ----------
    path
        The journal.
    since
        What was read of the same file before; it is completed.

    Raises
    ------
    StorageError
        It cannot be read.
    DamagedFileError
        It is no journal, or of a later version.
    """
    with storage_errors(path, "reading the journal"), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(len(_MAGIC)) != _MAGIC:
            raise DamagedFileError(f"'{path}': expected a journal of dcwrite, got another file")
        state = since
        complete = len(_MAGIC) if since is None else since.position
        file.seek(complete)
        for head, body in _records(file, size):
            try:
                if head["type"] == "open":
                    state = _opened(path, head)
                elif state is not None:
                    _apply(state, head, body)
            except (LookupError, MemoryError, TypeError, ValueError, OverflowError) as exc:
                raise DamagedFileError(
                    f"'{path}': a record with a right checksum cannot be understood ({exc!r})"
                ) from exc
            complete = file.tell()
    if state is None:
        raise DamagedFileError(f"'{path}': no complete record in the journal; nothing was durable")
    state.torn_bytes = size - complete
    state.position = complete
    return state


def _opened(path: Path, head: dict[str, Any]) -> JournalState:
    if head["version"] != _VERSION:
        raise DamagedFileError(
            f"'{path}': expected journal version {_VERSION}, got {head['version']}; use a newer "
            f"dcwrite"
        )
    return JournalState(head)


def _records(file: Any, size: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Complete records; ends at the first that is not."""
    while True:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return
        magic, head_size, body_size, checksum = _HEADER.unpack(header)
        if magic != _RECORD or head_size > _MAX_HEAD_BYTES:
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


def _apply(state: JournalState, head: dict[str, Any], body: bytes) -> None:
    if head["type"] == "feature":
        record = FeatureRecord(
            int(head["number"]),
            str(head["path"]),
            str(head["dtype"]),
            tuple(int(n) for n in head["item_shape"]),
            int(head["chunk_events"]),
            int(head["start_events"]),
        )
        _check_feature(record)
        state.features[record.number] = record
    elif head["type"] == "commit":
        state.n_events = int(head["n_events"])
        state.n_frames = int(head["n_frames"])
        state.lengths = {int(number): int(length) for number, length in head["lengths"]}
        if min(state.lengths.values(), default=0) < 0:
            raise ValueError(f"expected lengths from 0 on, got {state.lengths}")
        for number, start, offset, size, checksum in head["chunks"]:
            state.chunks.setdefault(number, {})[start] = (offset, size, checksum)
        body = _unpacked(body, int(head["body_bytes"]))
        position = 0
        for number, start, is_list, shapes in head["tails"]:
            items: list[npt.NDArray[Any]] = []
            for shape, dtype in shapes:
                count = int(np.prod(shape, dtype=np.int64))
                items.append(np.frombuffer(body, np.dtype(dtype), count, position).reshape(shape))
                position += items[-1].nbytes
            state.tails.setdefault(number, []).append((start, items if is_list else items[0]))
        state.n_commits += 1


def _check_feature(record: FeatureRecord) -> None:
    """What no writer writes would make recovery use up time or memory."""
    dtype = np.dtype(record.dtype)
    chunk_bytes = math.prod(record.item_shape) * dtype.itemsize * record.chunk_events
    group_name, _, name = record.path.partition("/")
    check_feature_name(name)
    if (
        group_name not in {"events", BASIN_GROUP}
        or dtype.kind not in "biuf"
        or record.chunk_events < 1
        or record.start_events < 0
        or min(record.item_shape, default=0) < 0
        or chunk_bytes > _MAX_CHUNK_BYTES
    ):
        raise ValueError(f"expected a feature, got {record}")


def _unpacked(body: bytes, size: int) -> bytes:
    """Body of a commit; not larger than the journal says, and than Zstandard can pack."""
    if not body:
        return b""
    if size > len(body) * _MAX_RATIO:
        raise ValueError(f"expected no {size} bytes in {len(body)}")
    if zstd_content_size(body) != size:
        raise ValueError(f"expected a body of {size} bytes")
    return bytes(_BODY_CODEC.decode(body))
