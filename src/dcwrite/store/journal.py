"""Journal: an append-only file beside a stream that says what would survive a kill now.

Alone here: the format of its records, and when they are synced. Invariant: a commit record is
written after the chunks that it names (with "power": after they are synced), so that all that a
complete record names is in the files; a torn last record is told by its checksum.

The file: 8 bytes magic, then records of ``<4s I I I``: b"REC1", length of the JSON head, length of
the body, CRC-32 of both; then head and body (Zstandard). Heads have a key "type": open, feature,
rows (which count with the commit after them), commit. Rows of unfinished chunks become obsolete
soon: from time to time the journal is replaced by one that begins with all that still counts.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import sys
import time
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numcodecs.zstd import Zstd

from ..errors import UsageError
from .checksum import chunk_checksum, without_fletcher32
from .hdf5 import storage_errors
from .whole_file import sync_folder

__all__ = [
    "BODY_CODEC",
    "CONTOURS",
    "CRC32",
    "FLETCHER32",
    "HEADER",
    "MAGIC",
    "MAX_BODY_BYTES",
    "RECORD",
    "VERSIONS",
    "Commit",
    "Durability",
    "FeatureRecord",
    "Journal",
    "Tail",
    "sync_file",
]

#: What a stream survives: nothing before its end; a kill of its process; a power cut.
Durability = Literal["none", "process", "power"]

MAGIC: Final = b"DCWRITEJ"
#: 2 has records of type "rows", and says in its head which stream it belongs to; 3 says of each
#: feature which checksum its chunks have.
VERSIONS: Final = (1, 2, 3)
HEADER: Final = struct.Struct("<4sIII")
RECORD: Final = b"REC1"
#: Checksums that chunks have in the journal: of the stored bytes; or that at the end of them.
CRC32: Final = "crc32"
FLETCHER32: Final = "fletcher32"
#: Feature number of the contours, which are no dataset.
CONTOURS: Final = -1
#: The journal is replaced when it has grown by this much: about 100 commits of 500 events.
REPLACE_BYTES: Final = 64 * 1024**2
#: Level 1: rows of unfinished chunks are written some 300 MB/s fast, and are not kept.
BODY_CODEC: Final = Zstd(level=1)
#: Rows of one record, before they are packed: what a reader has to hold in memory.
MAX_BODY_BYTES: Final = 256 * 1024**2


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
    checksum
        What the journal has of each chunk: `CRC32` of the stored bytes, or, of compressed ones,
        the `FLETCHER32` that stands at their end, and so need not be computed. Journals before
        version 3 have the first.
    """

    number: int
    path: str
    dtype: str
    item_shape: tuple[int, ...]
    chunk_events: int
    start_events: int
    checksum: str = CRC32

    def has_written(self, stored: bytes, checksum: int) -> bool:
        """Whether the bytes of a chunk are those of which the journal has this checksum."""
        if self.checksum == CRC32:
            return zlib.crc32(stored) == checksum
        try:
            without_fletcher32(stored)
        except ValueError:
            return False
        return chunk_checksum(stored) == checksum


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
        (feature number, first row, offset in the file, size, checksum) of each whole chunk.
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


def _lock(file: Any) -> bool:
    """Hold a file as long as this process lives, so that others see whether it does."""
    if os.name != "nt":
        import fcntl  # noqa: PLC0415 - not on Windows

        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


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
        #: a reader tells from stream and generation whether it is the journal that it knows
        self._head = {
            "type": "open",
            "version": VERSIONS[-1],
            "stream": secrets.token_hex(8),
            "generation": 0,
            **head,
        }
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
                self._head["locked"] = _lock(self._file)
                self._file.write(MAGIC)
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
                self._append_commit(commit, commit.chunks)
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
            self._head["generation"] += 1
            self._head["locked"] = _lock(self._file)
            self._file.write(MAGIC)
            self._append(self._head, b"")
            for feature in self._features:
                self._append({"type": "feature", **asdict(feature)}, b"")
            self._append_commit(commit, chunks)
            if self._power:
                sync_file(self._file.fileno(), data_only=False)
            if os.name != "nt":  # open files cannot be renamed there
                new_path.replace(self.path)
        except BaseException:
            self._file.close()
            self._file = old
            new_path.unlink(missing_ok=True)
            raise
        old.close()
        if os.name == "nt":
            self._file.close()
            new_path.replace(self.path)
            self._file = self.path.open("r+b", buffering=0)
            self._file.seek(0, os.SEEK_END)
        if self._power:
            sync_folder(self.path.parent)
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

    def _append_commit(self, commit: Commit, chunks: Sequence[tuple[int, ...]]) -> None:
        """A commit, its rows in as many records as they need."""
        *others, last = _parts(commit.tails)
        for tails in others:
            self._append(*_packed({"type": "rows"}, tails))
        head = {
            "type": "commit",
            "n_events": commit.n_events,
            "n_frames": commit.n_frames,
            "lengths": list(commit.lengths.items()),
            "chunks": chunks,
        }
        self._append(*_packed(head, last))

    def _append(self, head: dict[str, Any], body: bytes) -> None:
        text = json.dumps(head, separators=(",", ":")).encode()
        checksum = zlib.crc32(body, zlib.crc32(text))
        record = memoryview(HEADER.pack(RECORD, len(text), len(body), checksum) + text + body)
        written = 0
        while written < len(record):  # an unbuffered write may be partial on a full disk
            written += self._file.write(record[written:]) or 0


def _parts(tails: Sequence[Tail]) -> Iterator[list[Tail]]:
    """Tails in parts of at most `MAX_BODY_BYTES` (or one row); the last part may be empty."""
    part: list[Tail] = []
    size = 0
    for tail in tails:
        first = 0
        while first < len(tail.rows):
            if isinstance(tail.rows, list):
                sizes = [item.nbytes for item in tail.rows[first:]]
                ends = np.cumsum(sizes, dtype=np.int64)
                fit = int(np.searchsorted(ends, MAX_BODY_BYTES - size, side="right"))
            else:
                fit = (MAX_BODY_BYTES - size) // max(1, tail.rows[0].nbytes)
            if not fit and part:
                yield part
                part, size = [], 0
                continue
            rows = tail.rows[first : first + max(1, fit)]
            part.append(Tail(tail.number, tail.start + first, rows))
            size += sum(item.nbytes for item in rows) if isinstance(rows, list) else rows.nbytes
            first += len(rows)
    yield part


def _packed(head: dict[str, Any], tails: Sequence[Tail]) -> tuple[dict[str, Any], bytes]:
    """Head and body of a record with rows."""
    parts: list[Any] = []
    described = []
    for tail in tails:
        items = tail.rows if isinstance(tail.rows, list) else [tail.rows]
        shapes = []
        for item in items:
            rows = np.ascontiguousarray(item)
            parts.append(rows.reshape(-1).view(np.uint8).data)
            shapes.append([list(rows.shape), rows.dtype.str])
        described.append([tail.number, tail.start, isinstance(tail.rows, list), shapes])
    body = b"".join(parts)
    packed = BODY_CODEC.encode(body) if body else b""
    return {**head, "tails": described, "body_bytes": len(body)}, packed
