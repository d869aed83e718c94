"""Is this file whole and right? Every chunk is read; nothing is changed.

Alone here: the list of checks. Invariant: a file of any content ends in a report, and no chunk is
unpacked to more than its dataset says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from ..errors import BasinError, DamagedFileError, DCWriteError, WriterDiedError
from ..format.basin import BASIN_GROUP, FORMATS, Basin
from ..format.metadata import check_attribute_name
from .contained import run_contained
from .encoder import ChunkCodec, EncoderPool, require_count
from .hdf5 import chunks_of, open_for_reading, own_item, read_whole
from .recording import MAX_CHUNK_BYTES, BasinStatus, Recording
from .stream_file import unfinished_of
from .undo import undo_of

__all__ = ["Finding", "Report", "verify"]

#: Data without chunks are read in parts of this size.
PART_BYTES: Final = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not right.

    Attributes
    ----------
    where
        Path in the file.
    message
        What was expected and what is there.
    """

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(slots=True)
class Report:
    """Result of `verify`.

    Attributes
    ----------
    path
        The file.
    findings
        What is not right.
    notes
        What was not looked at: basins in folders that are not allowed.
    unreadable
        Whether the file could not be opened.
    n_events, n_chunks, n_bytes
        What was read: events, chunks, and their stored bytes.
    """

    path: Path
    findings: list[Finding] = field(default_factory=list)
    unreadable: bool = False
    n_events: int = 0
    n_chunks: int = 0
    n_bytes: int = 0
    notes: list[Finding] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: right; 1: findings; 2: unreadable."""
        if self.unreadable:
            return 2
        return 1 if self.findings else 0

    def add(self, where: str, message: str) -> None:
        """Note a finding."""
        self.findings.append(Finding(where, message))

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            **{key: value for key, value in asdict(self).items() if key != "path"},
            "path": str(self.path),
            "exit_code": self.exit_code,
        }


def verify(
    path: str | os.PathLike[str],
    *,
    basin_roots: Iterable[str | os.PathLike[str]] = (),
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    contained: bool = False,
) -> Report:
    """Check a recording from end to end.

    Every chunk of every dataset is read and its checksum compared; lengths are compared with the
    event count; basins, their mappings, data and files, and the names of attributes are checked.

    Parameters
    ----------
    path
        The file.
    basin_roots
        Folders below which file basins may be opened, besides the recording's own folder.
    threads
        Threads that decode; default: the usable cores.
    progress
        Called with (stored bytes read so far, size of the file).
    contained
        Whether to read the file in a process of its own: on files that were made or damaged for
        it, the HDF5 library crashes or hangs, which is then a finding.

    Returns
    -------
    Report
        Findings instead of exceptions, for any content of the file.
    """
    require_count("threads", threads)
    report = Report(Path(path))
    if contained:
        return _verify_contained(report, tuple(basin_roots), threads, progress)
    unfinished = unfinished_of(report.path)
    if unfinished is not None and not (report.path.suffix == ".rtdc" and report.path.exists()):
        report.unreadable = True
        report.add(
            "/",
            f"an unfinished recording; get a clean one with `dcwrite recover {unfinished[0]}`",
        )
        return report
    if (left := undo_of(report.path)) is not None:
        report.add(
            "/",
            f"a program was killed while it added to this file; get a whole recording with "
            f"`dcwrite recover {left[0]}`, or delete '{left[1].name}' if this is the only finding",
        )
    try:
        with open_for_reading(path) as h5:
            size = report.path.stat().st_size
            _check_datasets(h5, report, EncoderPool(threads), progress, size)
        with Recording(path, basin_roots=basin_roots) as recording:
            report.n_events = len(recording)
            _check_lengths(recording, report)
            for name in recording.h5.attrs:
                if problem := check_attribute_name(name):
                    report.add("/", problem)
            for status in recording.basins:
                _check_basin(recording, status, report)
    except (
        ArithmeticError, AttributeError, DCWriteError, LookupError, MemoryError, OSError,
        RuntimeError, TypeError, ValueError,
    ) as exc:  # fmt: skip
        report.unreadable = True
        reason = exc.strerror if isinstance(exc, OSError) else None
        report.add("/", f"cannot be read: {reason or exc}")
    return report


def _verify_contained(
    report: Report,
    basin_roots: tuple[str | os.PathLike[str], ...],
    threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> Report:
    try:
        found: Report = run_contained(
            verify, report.path, path=report.path, progress=progress, basin_roots=basin_roots,
            threads=threads,
        )  # fmt: skip
    except (DamagedFileError, WriterDiedError) as exc:
        report.unreadable = True
        report.add("/", str(exc))
        return report
    return found


def _walk(group: h5py.Group, report: Report, depth: int = 0) -> Iterator[h5py.Dataset]:
    """All datasets of the file, each once; links to elsewhere are findings."""
    for name in group:
        where = f"{group.name.rstrip('/')}/{name}"
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            report.add(where, f"expected data in the file, got a link to '{link.filename}'")
            continue
        item = own_item(group, name)
        if item is None:
            report.add(where, "cannot be opened; a broken link or a damaged object")
        elif isinstance(item, h5py.Dataset):
            yield item
        elif isinstance(link, h5py.HardLink) and depth < 8:
            yield from _walk(item, report, depth + 1)


def _check_datasets(
    h5: h5py.File,
    report: Report,
    pool: EncoderPool,
    progress: Callable[[int, int], None] | None,
    size: int,
) -> None:
    waiting: list[Future[None]] = []
    try:
        for dset in _walk(h5, report):
            if dset.is_virtual or dset.external:
                report.add(str(dset.name), "expected data in the file, got a reference elsewhere")
                continue
            for future in _read_dataset(dset, report, pool):
                waiting.append(future)
                if len(waiting) > 4 * pool.threads:
                    waiting.pop(0).result()
                if progress is not None:
                    progress(report.n_bytes, size)
        for future in waiting:
            future.result()
    finally:
        pool.close()
    if progress is not None:
        progress(size, size)


def _read_dataset(dset: h5py.Dataset, report: Report, pool: EncoderPool) -> Iterator[Future[None]]:
    """Read all stored chunks; decoding goes on in the pool."""
    where = str(dset.name)
    chunks = dset.chunks
    if chunks is None or dset.shape is None:
        _read_parts(dset, where, report)
        return
    chunk_bytes = int(np.prod(chunks, dtype=object)) * dset.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        report.add(where, f"expected chunks of at most 1 GiB, got {chunk_bytes} bytes")
        return
    expected = int(np.prod([-(-n // c) for n, c in zip(dset.shape, chunks, strict=True)]))
    try:
        stored = chunks_of(dset) if dset.size else []
    except (OSError, RuntimeError, ValueError) as exc:
        report.add(where, f"cannot be read: the index of its chunks is damaged ({exc})")
        return
    if dset.size and len(stored) < expected:
        report.add(
            where,
            f"expected {expected} chunks, got {len(stored)}; the rows of the missing ones read as "
            f"zeros but were never written",
        )
    codec = ChunkCodec.for_dataset(dset)
    for info in stored:
        report.n_chunks += 1
        report.n_bytes += info.size
        offset = info.chunk_offset
        place = f"{where}, chunk at row {offset[0]}"
        if codec is None or info.filter_mask:
            region = tuple(slice(o, o + c) for o, c in zip(offset, chunks, strict=True))
            _read_through_hdf5(dset, region, place, report)
            continue
        try:
            _, data = dset.id.read_direct_chunk(offset)
        except (OSError, RuntimeError, ValueError) as exc:
            report.add(place, f"cannot be read: {exc}")
            continue
        yield pool.submit(_decode, codec, data, dset.dtype, chunks, place, report)


def _read_parts(dset: h5py.Dataset, where: str, report: Report) -> None:
    """Read a dataset without chunks, if the file can hold it."""
    shape = dset.shape
    if not shape:
        _read_through_hdf5(dset, (), where, report)
        return
    row_bytes = int(np.prod(shape[1:], dtype=object)) * max(1, dset.dtype.itemsize)
    file_bytes = report.path.stat().st_size
    if shape[0] * row_bytes > file_bytes:
        report.add(
            where, f"expected at most the file's {file_bytes} bytes, got {shape[0] * row_bytes}"
        )
        return
    step = max(1, PART_BYTES // max(1, row_bytes))
    for start in range(0, shape[0] if row_bytes else 0, step):
        _read_through_hdf5(dset, slice(start, start + step), where, report)


def _decode(
    codec: ChunkCodec,
    data: bytes,
    dtype: np.dtype[Any],
    chunks: tuple[int, ...],
    place: str,
    report: Report,
) -> None:
    try:
        codec.decode(data, dtype, chunks)
    except (RuntimeError, ValueError) as exc:
        report.add(place, f"damaged: {exc}")


def _read_through_hdf5(dset: h5py.Dataset, region: Any, place: str, report: Report) -> None:
    try:
        dset[region]
    except (MemoryError, OSError, RuntimeError, TypeError, ValueError) as exc:
        report.add(place, f"damaged: {exc}")


def _check_lengths(recording: Recording, report: Report) -> None:
    count = recording.metadata.get("experiment:event count")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        report.add("/", f"expected the attribute 'experiment:event count', got {count!r}")
        return
    for name, length in recording.lengths().items():
        if length != count:
            report.add(f"/events/{name}", f"expected {count} events (event count), got {length}")


def _check_basin(recording: Recording, status: BasinStatus, report: Report) -> None:
    where = f"/basins/{status.key}"
    basin = status.basin
    if basin is None:
        report.add(where, status.reason or "")
        return
    if basin.format not in FORMATS.get(basin.type, ()):
        report.add(where, f"type '{basin.type}' with format '{basin.format}' is not known")
        return
    if status.outside:
        report.notes.append(
            Finding(where, f"basin '{basin.name}' was not looked at: {status.reason}")
        )
    elif not status.reachable and basin.type != "remote" and basin.format != "h5datasetchop":
        report.add(where, f"basin '{basin.name}' cannot be reached: {status.reason}")
    if basin.format == "h5datasetchop":
        for feat in basin.features or ():
            if f"{basin.locations[0]}/{feat}" not in recording.h5:
                report.add(where, f"expected the data of '{feat}' in '{basin.locations[0]}'")
    if basin.mapping is not None:
        try:
            _check_mapping(recording, basin, status, report)
        except (DCWriteError, OSError, RuntimeError) as exc:
            report.add(where, str(exc))
    for problem in _unreadable(status):
        report.add(where, problem)


def _unreadable(status: BasinStatus) -> list[str]:
    """Why features of a file basin cannot be read; virtual datasets may have lost their files."""
    problems: list[str] = []
    if status.recording is None:
        return problems
    for feat in status.features:
        try:
            status.recording[feat]
        except (DCWriteError, OSError, RuntimeError) as exc:
            problems.append(str(exc))
    return problems


def _check_mapping(
    recording: Recording, basin: Basin, status: BasinStatus, report: Report
) -> None:
    """The mapping is there, one integer per event, inside the basin's range."""
    where = f"/events/{basin.mapping}"
    item = own_item(recording.h5["events"], basin.mapping or "")
    if not isinstance(item, h5py.Dataset):
        raise BasinError(
            f"expected the mapping '{basin.mapping}' of basin '{basin.name}', got none"
        )
    if item.dtype.kind not in "iu" or item.ndim != 1:
        report.add(where, f"expected a list of integers, got {item.dtype} of {item.ndim} axes")
        return
    if not item.size:
        return
    n_source = None
    if basin.type == "internal":
        group = own_item(recording.h5, BASIN_GROUP)
        lengths = [
            data.shape[0]
            for feat in basin.features or ()
            if isinstance(group, h5py.Group)
            and isinstance(data := own_item(group, feat), h5py.Dataset)
            and data.shape
        ]
        n_source = min(lengths, default=None)
    elif status.recording is not None:
        n_source = len(status.recording)
    rows = read_whole(item)
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or (n_source is not None and high >= n_source):
        report.add(
            where,
            f"expected indices from 0 to below {n_source} (events of basin '{basin.name}'), got "
            f"{low} to {high}",
        )
