"""Recovery with a journal: chunks are moved by their offsets, compressed as they are.

Alone here: how a journal and the bytes beside it become a recording. Invariant: HDF5 never opens
the unfinished file; a chunk is taken only if its checksum is the journal's.
"""

from __future__ import annotations

import math
import shutil
from bisect import bisect_right
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from ..format.basin import BASIN_GROUP
from .background import BACKGROUND, BackgroundBasin
from .basins import describe_basin
from .copying import copy_features, copy_metadata
from .encoder import ChunkCodec, EncoderPool
from .hdf5 import datasets_of, storage_errors
from .journal import CONTOURS, FeatureRecord
from .journal_reader import JournalState, TailRows, is_being_written, read_journal
from .recovery_report import RecoveryReport, copy_basin_groups, note_rows, whole_rows
from .rows import take_rows
from .writer import HDF5Writer

__all__ = ["recover_stream"]

AnyArray = npt.NDArray[Any]

#: Contours that are in memory together.
CONTOURS_AT_ONCE: Final = 10_000


def recover_stream(
    part: Path, journal: Path, temporary: Path, report: RecoveryReport, *, cut_damaged: bool
) -> None:
    """Write the whole events of an unfinished stream.

    Parameters
    ----------
    part, journal
        The unfinished file and its journal; they are only read.
    temporary
        The file to write.
    report
        What was found is noted there.
    cut_damaged
        Whether to leave damaged events out; else the output ends before the first.
    """
    state = read_journal(journal)
    report.torn_bytes = state.torn_bytes
    if is_being_written(journal):
        report.notes.append("it is still being written: what came after this is not in the output")
    if state.head.get("appends"):
        original = part.with_name(state.head["target"])
        with storage_errors(original, "copying the recording that was appended to"):
            shutil.copyfile(original, temporary)
    kwds = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in state.head["ds_kwds"].items()
    }
    with (
        storage_errors(part, "reading the unfinished file"),
        part.open("rb") as data,
        HDF5Writer(temporary, "r+" if state.head.get("appends") else "x", kwds) as writer,
    ):
        damaged = _Moving(state, data, writer, report).move()
        name = f"{BASIN_GROUP}/{BACKGROUND}"
        shares = BackgroundBasin.MAPPING in writer.events and name in writer.h5
    if damaged:
        _keep(temporary, damaged, report, cut_damaged=cut_damaged, shares_backgrounds=shares)


class _Moving:
    """Moves all that a journal names into a new file.

    Parameters
    ----------
    state
        What the journal says.
    data
        The unfinished file.
    writer
        For the new one.
    report
        What was found is noted there.
    """

    def __init__(
        self, state: JournalState, data: Any, writer: HDF5Writer, report: RecoveryReport
    ) -> None:
        self._state = state
        self._data = data
        self._writer = writer
        self._report = report
        self._in_events = {
            number: feature
            for number, feature in state.features.items()
            if feature.path.startswith("events/")
        }
        self._contours = [item for _, rows in state.contours for item in rows]

    def move(self) -> list[tuple[int, int]]:
        """Write all events; returns first and last + 1 of those that are not whole."""
        state, writer, report = self._state, self._writer, self._report
        start = max((f.start_events for f in self._in_events.values()), default=0)
        n_new = self._n_whole()
        report.n_announced += start
        bad_rows: list[tuple[int, int]] = []
        bad_backgrounds: list[tuple[int, int]] = []
        for number, feature in state.features.items():
            if number not in state.lengths:
                continue  # it was announced, and no commit has it
            if number in self._in_events:
                self._put_feature(feature, n_new, bad_rows)
            else:
                n_rows = min(state.lengths.get(number, 0), state.known_rows(number))
                self._put_feature(feature, max(0, n_rows - feature.start_events), bad_backgrounds)
        if bad_backgrounds and BackgroundBasin.MAPPING in writer.events:
            mapping = writer.events[BackgroundBasin.MAPPING][:]
            for first, last in bad_backgrounds:
                events = np.flatnonzero((mapping >= first) & (mapping < last))
                bad_rows += [(int(event), int(event) + 1) for event in events]
        if CONTOURS in state.lengths:
            for first in range(0, n_new, CONTOURS_AT_ONCE):
                items = self._contours[first : min(first + CONTOURS_AT_ONCE, n_new)]
                writer.store_feature_chunk("contour", [item.rows() for item in items])
        if state.head.get("dedup_background") and n_new:
            describe_basin(writer, BackgroundBasin.description())
        if not n_new:  # of features that were not announced, too
            start = min(_lengths_of(writer.events).values(), default=0)
        report.n_events = start + n_new
        return bad_rows

    def _n_whole(self) -> int:
        """New events of which every feature has a place."""
        state, report = self._state, self._report
        lengths, known = [], []
        for number, length in state.lengths.items():
            if number in self._in_events:
                start = self._in_events[number].start_events
                lengths.append(max(0, length - start))
                known.append(state.known_rows(number) - start)
            elif number == CONTOURS:
                lengths.append(length)
                known.append(len(self._contours))
        n_new, n_known = min(lengths, default=0), min(known, default=0)
        report.n_announced = max(lengths, default=0)
        if n_new > n_known:
            report.damaged.append(
                f"expected {n_new} events, and the journal knows where {n_known} are"
            )
        return min(n_new, n_known)

    def _put_feature(
        self, feature: FeatureRecord, n_new: int, bad_rows: list[tuple[int, int]]
    ) -> None:
        """One feature: chunks moved as they are, the rest from the journal."""
        group_name, _, name = feature.path.partition("/")
        size = feature.chunk_events
        dset, _ = self._writer.require_feature(
            name,
            feature.item_shape,
            np.dtype(feature.dtype),
            ds_kwds={"chunks": (size, *feature.item_shape)},
            group_name=group_name,
        )
        end = feature.start_events + n_new
        chunks = self._state.chunks.get(feature.number, {})
        tails = sorted(self._state.tails.get(feature.number, []), key=lambda item: item[0])
        codec = ChunkCodec.for_dataset(dset)
        zeros = (0,) * len(feature.item_shape)
        nbytes = size * math.prod(feature.item_shape) * np.dtype(feature.dtype).itemsize
        dset.id.set_extent((end, *feature.item_shape))
        for first in range(feature.start_events // size * size, end, size):
            last = min(first + size, end)
            begin = max(first, feature.start_events)
            if begin >= last:
                continue
            stored = _stored_chunk(self._data, feature, chunks.get(first))
            is_moved = (
                stored is not None
                and codec is not None
                and (begin, last) == (first, first + size)
                and codec.holds(stored, nbytes)
            )
            if is_moved:
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
            if begin + len(rows) < last:  # those before were committed before the chunk was whole
                bad_rows.append((begin + len(rows), last))
                self._report.damaged.append(
                    f"{feature.path}: events {begin + len(rows)} to {last - 1}"
                )


def _stored_chunk(
    data: Any, feature: FeatureRecord, entry: tuple[int, int, int] | None
) -> bytes | None:
    """Bytes of a chunk, if they are what the journal says."""
    if entry is None:
        return None
    offset, size, checksum = entry
    data.seek(offset)
    stored: bytes = data.read(size)
    return stored if len(stored) == size and feature.has_written(stored, checksum) else None


def _rows_of_tails(
    tails: list[tuple[int, TailRows]], begin: int, end: int, dset: h5py.Dataset
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
        part = rows.rows()[row - start : end - start]
        parts.append(part)
        row += len(part)
    return np.concatenate(parts)


def _lengths_of(events: h5py.Group) -> dict[str, int]:
    lengths = {name: int(dset.shape[0]) for name, dset in datasets_of(events).items()}
    if isinstance(events.get("contour"), h5py.Group):
        lengths["contour"] = len(events["contour"])
    return lengths


def _keep(
    path: Path,
    bad_rows: list[tuple[int, int]],
    report: RecoveryReport,
    *,
    cut_damaged: bool,
    shares_backgrounds: bool,
) -> None:
    """Reduce a file, in place of itself, to its whole events."""
    good = np.ones(report.n_events, dtype=bool)
    for first, last in bad_rows:
        good[first:last] = False
    rows = whole_rows(good, cut_damaged=cut_damaged)
    source = path.with_name(path.name + ".damaged")
    path.rename(source)
    try:
        with h5py.File(source, "r") as h5, h5py.File(path, "x") as out:
            copy_features(h5, out, list(h5["events"]), mapping=rows)
            copy_metadata(h5, out)
            if shares_backgrounds:
                _copy_used_backgrounds(h5, out)
            else:
                copy_basin_groups(h5, out)
        if cut_damaged:
            note_rows(path, rows)
    finally:
        source.unlink()
    report.n_events = len(rows)


def _copy_used_backgrounds(h5: h5py.File, out: h5py.File) -> None:
    """Of backgrounds that are stored once, those that an event of the output still has."""
    dset = h5[f"{BASIN_GROUP}/{BACKGROUND}"]
    mapping = out["events"][BackgroundBasin.MAPPING]
    used, numbers = np.unique(mapping[:], return_inverse=True)
    mapping[:] = numbers.astype(mapping.dtype)
    h5py.h5o.copy(h5.id, b"basins", out.id, b"basins")
    with HDF5Writer(out) as writer:
        dataset, _ = writer.require_feature(
            BACKGROUND,
            dset.shape[1:],
            dset.dtype,
            ds_kwds={"chunks": dset.chunks},
            group_name=BASIN_GROUP,
        )
        dataset.resize(len(used), axis=0)
        step = dset.chunks[0]
        for first in range(0, len(used), step):
            wanted = used[first : first + step]
            dataset[first : first + step] = take_rows(dset, wanted, EncoderPool(1))
