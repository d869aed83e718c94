"""A recording that is being written, followed from another process through its journal.

Alone here: which rows of an unfinished recording may be read, and how to notice its end.
Invariant: only what a complete commit names is read, so all features have the same length; HDF5
never opens the unfinished file, so a torn one cannot hang it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import (
    ClosedError,
    DamagedFileError,
    DCWriteError,
    FeatureNotFoundError,
    StorageError,
    WriterDiedError,
)
from ..format.features import is_basinmap
from .encoder import ChunkCodec
from .hdf5 import content_errors, own_item
from .journal import FeatureRecord
from .journal_reader import EmptyJournalError, JournalState, is_being_written, read_journal
from .recording import Recording, event_number
from .stream_file import journal_path, part_path

__all__ = ["LiveFeature", "LiveRecording"]

AnyArray = npt.NDArray[Any]


class LiveFeature:
    """One feature of a recording that is being written; its length is that of one commit.

    Parameters
    ----------
    feature
        Its make-up.
    n_events
        Number of events when it was asked for.
    source
        Where the rows are.
    """

    def __init__(self, feature: FeatureRecord, n_events: int, source: LiveRecording) -> None:
        self.name = feature.path.partition("/")[2]
        self.shape: tuple[int, ...] = (n_events, *feature.item_shape)
        self._is_mask = self.name == "mask"
        self.dtype = np.dtype(bool) if self._is_mask else np.dtype(feature.dtype)
        self._feature = feature
        self._source = source

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> AnyArray:
        return np.asarray(self[:], dtype=dtype)

    def __getitem__(self, key: Any) -> Any:
        """Events by index, slice, or integer or bool array; a mask comes as bool."""
        if isinstance(key, (int, np.integer)):
            number = event_number(key, len(self), f"feature '{self.name}'")
            return self[number : number + 1][0]
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)]
            values = self._source.rows(self._feature, start, max(start, stop))
            return values != 0 if self._is_mask else values
        wanted = np.arange(len(self))[np.asarray(key)]
        if not len(wanted):
            return np.empty((0, *self.shape[1:]), dtype=self.dtype)
        first, last = int(wanted.min()), int(wanted.max()) + 1
        return self[first:last][wanted - first]


class LiveRecording(Recording):
    """A recording that is being written; made by ``Recording(path, live=True)``.

    Parameters
    ----------
    path
        NAME.rtdc, also before that name exists.
    live
        True.
    basin_roots
        Used when the recording is finished.

    Raises
    ------
    StorageError
        Neither the recording nor an unfinished one of that name is there.

    Notes
    -----
    Its length changes with `refresh` only; what was asked for before stays as it was. When the
    writer has finished, it reads NAME.rtdc. Of a stream that appends, the events that were there
    before come first, in the features that it continues.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        live: bool = True,  # noqa: ARG002 - as `Recording` is called
        basin_roots: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        name = Path(path).name.removesuffix(".part").removesuffix(".journal")
        self.path = Path(path).with_name(name)
        self._basin_roots = tuple(basin_roots)
        self._done: Recording | None = None
        self._state: JournalState | None = None
        self._data: Any = None
        self._seen: tuple[int, int, int] | None = None
        self._n_looks = 0
        self.refresh()

    @property
    def finished(self) -> bool:
        """Whether the writer has given the recording its name."""
        return self._done is not None

    @property
    def durable_events(self) -> int:
        """Number of events of the last commit."""
        return len(self)

    @property
    def size_bytes(self) -> int:
        """Size of the file on the disk."""
        path = self.path if self.finished else part_path(self.path)
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return self.path.stat().st_size if self.path.exists() else 0

    def refresh(self) -> int:
        """Look for new commits, or for the end.

        Returns
        -------
        int
            Number of events.

        Raises
        ------
        StorageError
            The recording has disappeared.
        WriterDiedError
            For the second time there is nothing new, and the process that wrote it is gone.
        """
        if self._done is not None:
            return len(self)
        journal = journal_path(self.path)
        try:
            status = journal.stat()
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            if seen != self._seen:
                self._read(journal)
                self._seen = seen
                self._n_looks = 0
                return len(self)
        except (FileNotFoundError, StorageError):
            if journal.exists():
                raise
            self._finish()
            return len(self)
        self._n_looks += 1
        if self._n_looks > 1:  # the first look only tells what is there
            self._require_writer(journal)
        return len(self)

    def _read(self, journal: Path) -> None:
        """Read what is new in the journal."""
        before = self._state
        # a journal of rows that HDF5 filters itself is never replaced, and can become large
        keep = before is None or self._codec(before) is not None
        try:
            state = read_journal(journal, before, keep=keep)
        except EmptyJournalError:
            return  # its first record is being written
        state.drop_obsolete_tails()
        state.contours.clear()  # they cannot be read before the end
        if before is not None and before.head.get("stream") != state.head.get("stream"):
            self._finish()  # another stream of the same name has begun
            return
        self._state = state
        try:
            if self._data is None:
                self._data = part_path(self.path).open("rb")
        except FileNotFoundError:
            self._finish()

    def _require_writer(self, journal: Path) -> None:
        state = self._state
        if state is None or not state.head.get("locked") or is_being_written(journal) is not False:
            return
        if not (part_path(self.path).exists() and journal.exists()):  # it has finished meanwhile
            self._finish()
            return
        raise WriterDiedError(
            f"'{self.path}': the process that wrote it ended without finishing; its "
            f"{len(self)} durable events are safe: run "
            f"`dcwrite recover {part_path(self.path).name}`"
        )

    def _finish(self) -> None:
        if not self.path.exists():
            raise StorageError(
                2,
                "expected a recording or an unfinished one of this name, got none",
                str(self.path),
            )
        self._done = Recording(self.path, basin_roots=self._basin_roots)

    def close(self) -> None:
        """Close the files."""
        if self._data is not None:
            self._data.close()
            self._data = None
        if self._done is not None:
            self._done.close()

    def __len__(self) -> int:
        if self._done is not None:
            return len(self._done)
        state = self._state
        if state is None or not state.n_events:
            return 0
        return state.n_events + max((f.start_events for f in state.features.values()), default=0)

    @property
    def own_features(self) -> list[str]:
        """Features that the commits have."""
        if self._done is not None:
            return self._done.own_features
        return sorted(name.split("/")[0] for name in self._records())

    @property
    def features(self) -> list[str]:
        """All features that can be read."""
        if self._done is not None:
            return self._done.features
        return sorted({name for name in self.own_features if not is_basinmap(name)})

    def __contains__(self, feat: object) -> bool:
        return feat in self.features

    def _records(self) -> dict[str, FeatureRecord]:
        state = self._state
        if state is None:
            return {}
        return {
            feature.path.partition("/")[2]: feature
            for feature in state.features.values()
            if feature.path.startswith("events/")
            and state.lengths.get(feature.number, 0) >= len(self)
        }

    def __getitem__(self, feat: str) -> Any:
        """A feature as long as the last commit that was looked at.

        Returns
        -------
        LiveFeature, or dict of LiveFeature ("trace"); of a finished recording as `Recording`.

        Raises
        ------
        FeatureNotFoundError
            There is no such feature (yet).
        """
        if self._done is not None:
            return self._done[feat]
        records = self._records()
        if feat in records:
            return LiveFeature(records[feat], len(self), self)
        below = {
            name.partition("/")[2]: LiveFeature(feature, len(self), self)
            for name, feature in records.items()
            if name.startswith(f"{feat}/")
        }
        if below:
            return below
        raise FeatureNotFoundError(
            f"'{self.path}': expected one of the features {self.features}, got '{feat}'"
        )

    def lengths(self) -> dict[str, int]:
        """Number of events of each feature: that of the last commit."""
        if self._done is not None:
            return self._done.lengths()
        return dict.fromkeys(self._records(), len(self))

    @property
    def metadata(self) -> dict[str, Any]:
        """Root attributes; of an unfinished recording none."""
        return {} if self._done is None else self._done.metadata

    @property
    def logs(self) -> dict[str, list[str]]:
        """Logs; of an unfinished recording none."""
        return {} if self._done is None else self._done.logs

    @property
    def tables(self) -> dict[str, AnyArray]:
        """Tables; of an unfinished recording none."""
        return {} if self._done is None else self._done.tables

    @property
    def basins(self) -> list[Any]:
        """Basins; of an unfinished recording none."""
        return [] if self._done is None else self._done.basins

    def rows(self, feature: FeatureRecord, start: int, stop: int) -> AnyArray:
        """Rows of one feature that commits name."""
        if self._state is None or self._data is None or self._data.closed:
            raise ClosedError(f"'{self.path}': the recording is closed; open a new one")
        begin = min(max(start, feature.start_events), stop)
        new: AnyArray | None = None
        try:
            new = self._new_rows(self._state, feature, begin, stop)
        except StorageError:
            if journal_path(self.path).exists():
                raise
        if new is None:  # it was finished meanwhile: all rows are there
            return self._finished_rows(feature, start, stop)
        if start == begin:
            return new
        return np.concatenate([self._finished_rows(feature, start, begin), new])

    def _new_rows(
        self, state: JournalState, feature: FeatureRecord, start: int, stop: int
    ) -> AnyArray:
        """Rows of the stream: from whole chunks, the rest from the journal."""
        dtype, size = np.dtype(feature.dtype), feature.chunk_events
        out = np.empty((stop - start, *feature.item_shape), dtype=dtype)
        missing = np.ones(stop - start, dtype=bool)
        chunks = state.chunks.get(feature.number, {})
        codec = self._codec_of(state, feature) if chunks else None
        for first in range(start // size * size, stop, size):
            entry = chunks.get(first)
            if entry is not None and codec is not None:
                rows = self._decode(codec, feature, entry, dtype, (size, *feature.item_shape))
                low, high = max(first, start), min(first + size, stop)
                out[low - start : high - start] = rows[low - first : high - first]
                missing[low - start : high - start] = False
        for first, tail in state.tails.get(feature.number, []):
            low, high = max(first, start), min(first + len(tail), stop)
            if low < high and missing[low - start : high - start].any():
                out[low - start : high - start] = tail.rows()[low - first : high - first]
                missing[low - start : high - start] = False
        if missing.any():
            raise DamagedFileError(
                f"'{part_path(self.path)}': expected events {start} to {stop - 1} of "
                f"'{feature.path}', but {int(missing.sum())} of them are not there"
            )
        return out

    def _finished_rows(self, feature: FeatureRecord, start: int, stop: int) -> AnyArray:
        """Rows of NAME.rtdc: those that a stream appends to are there before and after its end."""
        with Recording(self.path) as recording, content_errors(self.path, "reading rows"):
            dset = own_item(recording.h5, feature.path)
            if not isinstance(dset, h5py.Dataset) or dset.shape[1:] != feature.item_shape:
                raise DamagedFileError(
                    f"'{self.path}': expected events of shape {feature.item_shape} in "
                    f"'{feature.path}'"
                )
            return np.asarray(dset[start:stop], dtype=feature.dtype)

    @staticmethod
    def _codec(state: JournalState) -> ChunkCodec | None:
        return ChunkCodec.for_filter_kwargs(state.head.get("ds_kwds", {}))

    def _codec_of(self, state: JournalState, feature: FeatureRecord) -> ChunkCodec | None:
        """Of a feature that was there before: as it was made."""
        if feature.start_events:
            with suppress(DCWriteError), Recording(self.path) as recording:
                dset = own_item(recording.h5, feature.path)
                if isinstance(dset, h5py.Dataset):
                    return ChunkCodec.for_dataset(dset)
        return self._codec(state)

    def _decode(
        self,
        codec: ChunkCodec,
        feature: FeatureRecord,
        entry: tuple[int, int, int],
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
    ) -> AnyArray:
        offset, size, checksum = entry
        self._data.seek(offset)
        stored = self._data.read(size)
        if len(stored) != size or not feature.has_written(stored, checksum):
            raise DamagedFileError(
                f"'{part_path(self.path)}': the chunk at byte {offset} is not what was committed"
            )
        with content_errors(part_path(self.path), f"unpacking the chunk at byte {offset}"):
            return codec.decode(stored, dtype, shape)
