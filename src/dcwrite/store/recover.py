"""Recover: a clean recording from an unfinished or damaged one.

Alone here: which events of such a file are whole. Invariant: the input is only read; the output
appears complete, and holds only events all of whose features are whole.

Two ways. With a journal: its chunks are moved by their offsets, compressed as they are, and HDF5
never opens the unfinished file. Without: HDF5 opens the file, if it can, in a child process with a
time limit, and all chunks are tried.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import shutil
import zlib
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from .._version import __version__
from ..errors import DamagedFileError, DCWriteError, StorageError
from ..format.basin import BASIN_GROUP
from ..format.features import GROUP_FEATURES
from .background import BackgroundBasin
from .basins import copy_basins, describe_basin
from .copying import copy_features, copy_metadata
from .encoder import ChunkCodec, EncoderPool
from .hdf5 import content_errors, datasets_of, storage_errors
from .journal import CONTOURS, FeatureRecord, JournalState, read_journal
from .stream_file import unfinished_of
from .unclean import UncleanFile
from .whole_file import refuse_same_file, whole_file
from .writer import HDF5Writer

__all__ = ["RecoveryReport", "recover"]

AnyArray = npt.NDArray[Any]

#: HDF5 can hang on a torn file: a child that has not said anything for so long is ended.
DEFAULT_TIMEOUT_S: Final = 600.0


@dataclass(slots=True)
class RecoveryReport:
    """What was rescued, and what not.

    Attributes
    ----------
    path_in, path_out
        The files.
    way
        "journal" or "scan".
    n_events
        Events in the output.
    n_announced
        Events that the input says it has: durable ones (journal), or rows of the longest feature.
    damaged
        What could not be read, in words.
    notes
        What else happened.
    torn_bytes
        Bytes at the journal's end that belong to no complete commit.
    """

    path_in: Path
    path_out: Path
    way: str
    n_events: int = 0
    n_announced: int = 0
    damaged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    torn_bytes: int = 0

    @property
    def exit_code(self) -> int:
        """0: all that was announced is there; 1: something is not."""
        return 1 if self.damaged or self.n_events < self.n_announced else 0

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        found = asdict(self)
        return {
            **found,
            "path_in": str(self.path_in),
            "path_out": str(self.path_out),
            "exit_code": self.exit_code,
        }


def recover(
    path_in: str | os.PathLike[str],
    path_out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    cut_damaged: bool = False,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> RecoveryReport:
    """Write a clean recording with all whole events of an unfinished or damaged one.

    Parameters
    ----------
    path_in
        NAME.rtdc.part (or its journal, or NAME.rtdc where these are beside it), or any .rtdc file
        that was not closed or is damaged. It is only read.
    path_out
        The recording to write; default: NAME.rtdc, or NAME_recovered.rtdc where that is taken.
        It may be on another disk.
    overwrite
        Whether to replace an existing output.
    cut_damaged
        Whether to go on after a damaged chunk: its events are left out of all features, and the
        table "dcwrite-recover" says which events of the input are left. Default: the output ends
        before the first damaged event.
    timeout_s
        Time limit for reading a file without journal.

    Returns
    -------
    RecoveryReport

    Raises
    ------
    DamagedFileError
        Nothing can be rescued.
    StorageError
        Input or output cannot be read or written; the output exists already.
    UsageError
        Output and input are the same file.
    """
    path_in = Path(path_in)
    unfinished = unfinished_of(path_in)
    if unfinished is None and not path_in.is_file():
        raise StorageError(2, "expected an unfinished recording or a file, got none", str(path_in))
    target = Path(path_out) if path_out is not None else _default_output(path_in)
    refuse_same_file(target, [path_in, *(unfinished or ())])
    report = RecoveryReport(path_in, target, "scan" if unfinished is None else "journal")
    size = (path_in if unfinished is None else unfinished[0]).stat().st_size
    with whole_file(target, overwrite=overwrite, expected_bytes=size) as temporary:
        if unfinished is None:
            _scan_in_child(path_in, temporary, report, cut_damaged, timeout_s)
        else:
            with content_errors(unfinished[1], "recovering from the journal"):
                _recover_journal(*unfinished, temporary, report, cut_damaged)
        _sign(temporary, report)
    return report


def _default_output(path_in: Path) -> Path:
    name = path_in.name.removesuffix(".part").removesuffix(".journal")
    target = path_in.with_name(name)
    return (
        target.with_name(f"{target.stem}_recovered{target.suffix}") if target.exists() else target
    )


def _sign(path: Path, report: RecoveryReport) -> None:
    """Event count and log."""
    with HDF5Writer(path, mode="r+") as writer:
        lines = json.dumps(report.to_dict(), indent=2).split("\n")
        writer.store_log("dcwrite-recover", [f"dcwrite {__version__}", *lines], override=True)
        writer.h5.attrs["experiment:event count"] = report.n_events


# -- with a journal ---------------------------------------------------------------------------


def _recover_journal(
    part: Path, journal: Path, temporary: Path, report: RecoveryReport, cut_damaged: bool
) -> None:
    state = read_journal(journal)
    report.torn_bytes = state.torn_bytes
    in_events = {
        number: feature
        for number, feature in state.features.items()
        if feature.path.startswith("events/")
    }
    lengths = [
        length - (in_events[number].start_events if number in in_events else 0)
        for number, length in state.lengths.items()
        if number in in_events or number == CONTOURS
    ]
    n_new = min(lengths, default=0)
    report.n_announced = max([n_new, *lengths]) if lengths else 0
    known = min((_known_rows(state, f) for f in in_events.values()), default=0)
    if in_events and n_new > known:
        report.damaged.append(f"expected {n_new} events, and the journal knows where {known} are")
        n_new = known
    appends = bool(state.head.get("appends"))
    if appends:
        original = part.with_name(str(state.head["target"]))
        with storage_errors(original, "copying the recording that was appended to"):
            shutil.copyfile(original, temporary)
    bad_rows: list[tuple[int, int]] = []
    bad_backgrounds: list[tuple[int, int]] = []
    kwds = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in state.head.get("ds_kwds", {}).items()
    }
    with (
        storage_errors(part, "reading the unfinished file"),
        part.open("rb") as data,
        HDF5Writer(temporary, "r+" if appends else "x", kwds) as writer,
    ):
        report.n_announced += max((f.start_events for f in in_events.values()), default=0)
        for number, feature in state.features.items():
            n_rows = n_new
            if number not in in_events:
                n_rows = min(state.lengths.get(number, 0), _known_rows(state, feature))
            found = bad_rows if number in in_events else bad_backgrounds
            _put_feature(writer, feature, state, data, n_rows, found, report)
        if bad_backgrounds and BackgroundBasin.MAPPING in writer.events:
            mapping = writer.events[BackgroundBasin.MAPPING][:]
            for first, last in bad_backgrounds:
                events = np.flatnonzero((mapping >= first) & (mapping < last))
                bad_rows += [(int(event), int(event) + 1) for event in events]
        if CONTOURS in state.lengths:
            items = [item for _, rows in state.tails.get(CONTOURS, []) for item in rows]
            writer.store_feature_chunk("contour", items[:n_new])
        if state.head.get("dedup_background") and n_new:
            describe_basin(writer, BackgroundBasin.description())
        start = max((f.start_events for f in in_events.values()), default=0)
        if not n_new:  # of features that were not announced, too
            start = min(_lengths_of(writer.events).values(), default=0)
    report.n_events = start + n_new
    if bad_rows:
        good = np.ones(start + n_new, dtype=bool)
        for first, last in bad_rows:
            good[first:last] = False
        _keep(temporary, good, report, cut_damaged)


def _known_rows(state: JournalState, feature: FeatureRecord) -> int:
    """Rows of the stream, from its first on, for which the journal could have a place."""
    chunks = state.chunks.get(feature.number, {})
    tails = state.tails.get(feature.number, [])
    end = max(
        [feature.start_events]
        + [start + feature.chunk_events for start in chunks]
        + [start + len(rows) for start, rows in tails]
    )
    return end - feature.start_events


def _put_feature(
    writer: HDF5Writer,
    feature: FeatureRecord,
    state: JournalState,
    data: Any,
    n_new: int,
    bad_rows: list[tuple[int, int]],
    report: RecoveryReport,
) -> None:
    """One feature: chunks moved as they are, the rest from the journal."""
    group_name, _, name = feature.path.partition("/")
    size = feature.chunk_events
    dset, _ = writer.require_feature(
        name,
        feature.item_shape,
        np.dtype(feature.dtype),
        ds_kwds={"chunks": (size, *feature.item_shape)},
        group_name=group_name,
    )
    end = feature.start_events + n_new
    chunks = state.chunks.get(feature.number, {})
    tails = sorted(state.tails.get(feature.number, []), key=lambda item: item[0])
    codec = ChunkCodec.for_dataset(dset)
    zeros = (0,) * len(feature.item_shape)
    dset.id.set_extent((end, *feature.item_shape))
    for first in range(feature.start_events // size * size, end, size):
        last = min(first + size, end)
        begin = max(first, feature.start_events)
        if begin >= last:
            continue
        stored = _stored_chunk(data, chunks.get(first))
        if stored is not None and codec is not None and (begin, last) == (first, first + size):
            dset.id.write_direct_chunk((first, *zeros), stored)
            continue
        rows: AnyArray | None = None
        if stored is not None and codec is not None:
            shape = (size, *feature.item_shape)
            with suppress(RuntimeError, ValueError):
                rows = codec.decode(stored, np.dtype(feature.dtype), shape)[begin - first :]
        if rows is None:
            rows = _rows_of_tails(tails, begin, last, dset)
        rows = rows[: last - begin]
        if len(rows):
            dset[begin : begin + len(rows)] = rows
        if begin + len(rows) < last:  # the rows before were committed before the chunk was whole
            bad_rows.append((begin + len(rows), last))
            report.damaged.append(f"{feature.path}: events {begin + len(rows)} to {last - 1}")


def _stored_chunk(data: Any, entry: tuple[int, int, int] | None) -> bytes | None:
    """Bytes of a chunk, if they are what the journal says."""
    if entry is None:
        return None
    offset, size, checksum = entry
    data.seek(offset)
    stored: bytes = data.read(size)
    return stored if len(stored) == size and zlib.crc32(stored) == checksum else None


def _rows_of_tails(
    tails: list[tuple[int, AnyArray]], begin: int, end: int, dset: h5py.Dataset
) -> AnyArray:
    """Rows from the journal, up to the first that is not there."""
    starts = [start for start, _ in tails]
    parts = [np.empty((0, *dset.shape[1:]), dtype=dset.dtype)]
    row = begin
    while row < end:
        number = bisect_right(starts, row) - 1
        while number >= 0 and tails[number][0] + len(tails[number][1]) <= row:
            number -= 1  # a later record that begins here may be longer
        if number < 0:
            break
        start, rows = tails[number]
        part = rows[row - start : end - start]
        parts.append(part)
        row += len(part)
    return np.concatenate(parts)


def _lengths_of(events: h5py.Group) -> dict[str, int]:
    lengths = {name: int(dset.shape[0]) for name, dset in datasets_of(events).items()}
    if isinstance(events.get("contour"), h5py.Group):
        lengths["contour"] = len(events["contour"])
    return lengths


# -- without ----------------------------------------------------------------------------------


def _scan_in_child(
    path_in: Path, temporary: Path, report: RecoveryReport, cut_damaged: bool, timeout_s: float
) -> None:
    """Let a child process read the file: HDF5 may hang or crash on it."""
    context = mp.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(
        target=_scan, args=(sender, path_in, temporary, cut_damaged), daemon=True
    )
    child.start()
    sender.close()
    try:
        message = receiver.recv() if receiver.poll(timeout_s) else None
    except EOFError:
        child.join()
        raise DamagedFileError(
            f"'{path_in}': HDF5 crashed on the file (exit code {child.exitcode}); nothing could "
            f"be rescued"
        ) from None
    finally:
        if child.is_alive():
            child.join(5 if receiver.closed else 1)
        if child.is_alive():
            child.kill()
            child.join()
        receiver.close()
    if message is None:
        raise DamagedFileError(
            f"'{path_in}': HDF5 did not come to an end within {timeout_s} s; raise the time limit"
        )
    if isinstance(message, str):
        raise DamagedFileError(f"'{path_in}': nothing could be rescued: {message}")
    report.n_events, report.n_announced = message["n_events"], message["n_announced"]
    report.damaged, report.notes = message["damaged"], message["notes"]


def _scan(sender: Any, path_in: Path, temporary: Path, cut_damaged: bool) -> None:
    """In the child: copy what can be read."""
    report = RecoveryReport(path_in, temporary, "scan")
    try:
        with _open_any(path_in, report) as h5:
            _copy_whole_events(h5, temporary, report, cut_damaged)
    except (
        AttributeError, DCWriteError, LookupError, MemoryError, OSError, RuntimeError, TypeError,
        ValueError,
    ) as exc:  # fmt: skip
        sender.send(f"{type(exc).__name__}: {exc}")
    else:
        sender.send(
            {
                "n_events": report.n_events,
                "n_announced": report.n_announced,
                "damaged": report.damaged,
                "notes": report.notes,
            }
        )
    sender.close()


def _open_any(path: Path, report: RecoveryReport) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as exc:
        report.notes.append(f"HDF5 cannot open the file as it is: {exc}"[:300])
    return h5py.File(UncleanFile(path), "r")


def _copy_whole_events(
    h5: h5py.File, temporary: Path, report: RecoveryReport, cut_damaged: bool
) -> None:
    events = h5.get("events")
    if not isinstance(events, h5py.Group):
        raise DamagedFileError("there is no group 'events'")
    datasets = {}
    for name, dset in datasets_of(events).items():
        if dset.shape and dset.dtype.kind in "biuf":
            datasets[name] = dset
        else:
            report.notes.append(f"'{name}' is no feature and was left out")
    if not datasets:
        raise DamagedFileError("there is no feature")
    lengths = {name: int(dset.shape[0]) for name, dset in datasets.items()}
    report.n_announced = max(lengths.values())
    good = np.ones(report.n_announced, dtype=bool)
    pool = EncoderPool()
    for name, dset in datasets.items():
        good[lengths[name] :] = False
        if lengths[name] < report.n_announced:
            report.damaged.append(f"{name}: only {lengths[name]} of {report.n_announced} events")
        _try_chunks(name, dset, good, report, pool)
    pool.close()
    if "contour" in events and len(events["contour"]) < report.n_announced:
        good[len(events["contour"]) :] = False
    rows = _whole_rows(good, cut_damaged)
    with h5py.File(temporary, "x") as out:
        names = [name for name in events if name in datasets or name in GROUP_FEATURES]
        copy_features(h5, out, names, mapping=None if len(rows) == len(good) else rows)
        # a mapping that lost events is copied as a feature, and its basin as it is
        basins = copy_basins if len(rows) == len(good) else _copy_basin_groups
        for what, copy in (("metadata", copy_metadata), ("basins", basins)):
            _try_copy(what, copy, h5, out, report)
    if len(rows) < len(good) and cut_damaged:
        _note_rows(temporary, rows)
    report.n_events = len(rows)


def _try_copy(
    what: str,
    copy: Callable[[h5py.File, h5py.File], None],
    source: h5py.File,
    target: h5py.File,
    report: RecoveryReport,
) -> None:
    try:
        copy(source, target)
    except (DCWriteError, OSError, RuntimeError, KeyError, ValueError) as exc:
        report.damaged.append(f"{what}: {exc}")


def _try_chunks(
    name: str, dset: h5py.Dataset, good: AnyArray, report: RecoveryReport, pool: EncoderPool
) -> None:
    """Mark the events whose chunk of this feature cannot be read."""
    if dset.chunks is None:
        return
    size = dset.chunks[0]
    allocated = set()
    with suppress(RuntimeError, OSError, ValueError):
        allocated = {
            dset.id.get_chunk_info(number).chunk_offset
            for number in range(dset.id.get_num_chunks())
        }
    per_row = int(
        np.prod([-(-n // c) for n, c in zip(dset.shape[1:], dset.chunks[1:], strict=True)])
    )
    counts: dict[int, int] = {}
    for offset in allocated:
        counts[offset[0]] = counts.get(offset[0], 0) + 1

    def is_whole(first: int) -> bool:
        if counts.get(first, 0) < per_row:
            return False  # never written: reads as zeros
        try:
            dset[first : first + size]
        except (OSError, RuntimeError, ValueError):
            return False
        return True

    for first in range(0, dset.shape[0], size):
        if not pool.submit(is_whole, first).result():
            good[first : first + size] = False
            report.damaged.append(
                f"{name}: events {first} to {min(first + size, dset.shape[0]) - 1}"
            )


# -- both -------------------------------------------------------------------------------------


def _whole_rows(good: AnyArray, cut_damaged: bool) -> AnyArray:
    """Events to keep: all good ones, or those before the first that is not."""
    if cut_damaged or good.all():
        return np.flatnonzero(good)
    return np.arange(int(np.argmin(good)))


def _keep(path: Path, good: AnyArray, report: RecoveryReport, cut_damaged: bool) -> None:
    """Reduce a file, in place of itself, to its whole events."""
    rows = _whole_rows(good, cut_damaged)
    source = path.with_name(path.name + ".damaged")
    path.rename(source)
    try:
        with h5py.File(source, "r") as h5, h5py.File(path, "x") as out:
            copy_features(h5, out, list(h5["events"]), mapping=rows)
            copy_metadata(h5, out)
            _copy_basin_groups(h5, out)
        if cut_damaged:
            _note_rows(path, rows)
    finally:
        source.unlink()
    report.n_events = len(rows)


def _copy_basin_groups(h5: h5py.File, out: h5py.File) -> None:
    """Basins as they are: their mappings are features, of which the whole events were copied."""
    for name in ("basins", BASIN_GROUP):
        if isinstance(h5.get(name), h5py.Group):
            h5py.h5o.copy(h5.id, name.encode(), out.id, name.encode())


def _note_rows(path: Path, rows: AnyArray) -> None:
    """Table of the events that are left."""
    with HDF5Writer(path, mode="r+") as writer:
        writer.store_table("dcwrite-recover", {"original_index": rows}, override=True)
