"""HDF5Writer: one open recording to which features, basins, logs, tables and metadata are written.

Alone here: the order of things at the end, and one lock for all of it. It has no algorithms of
its own: features are in `event_store`, the file's life in `open_file`, basins in `basins`.
Invariant: a call that raises has added nothing, neither rows nor groups.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import ClosedError, DataError, StorageError, UsageError
from ..format.chunking import best_chunk_shape
from ..format.compression import Compression, set_default_filter_kwargs
from ..format.metadata import check_metadata
from ..format.text import encode_lines
from . import basins
from .append import GrowingDataset
from .background import BackgroundBasin
from .encoder import EncoderPool
from .event_store import EventStore
from .hdf5 import storage_errors
from .load import LevelPolicy
from .moving import MoveCounts
from .open_file import OpenFile, text_filters
from .texts import as_table, store_whole_dataset
from .write_behind import ChunkWatcher

__all__ = ["HDF5Writer"]


#: Writers that nobody has closed yet: rows that wait in their memory are written at exit.
_open_writers: weakref.WeakSet[HDF5Writer] = weakref.WeakSet()


@atexit.register
def _close_forgotten() -> None:
    for writer in list(_open_writers):
        writer.__del__()


class HDF5Writer:
    """Write deformability cytometry data to an HDF5 file.

    Parameters
    ----------
    obj
        Path of the file, or an open :class:`h5py.File`, which stays open when the writer closes.
    mode
        How to open a path: "a" opens or creates, "r+" opens, "x" creates, "w" replaces.
    ds_kwds
        Keyword arguments for new datasets (compression, fletcher32, ...); not changed. Default:
        Zstandard level 5 and Fletcher-32 checksums.
    compression
        Settings or the name of a preset ("archive", "fast", "none") instead of `ds_kwds`.
    threads
        Threads that compress; default: the usable cores; 1: none beside the caller's.
    event_count
        Whether to set the attribute "experiment:event count" on close.
    scalar_attributes
        Whether to set min, max and mean on each scalar feature that was written, on close, as
        dclab does (its readers on network shares ask for them).
    dedup_background
        Whether to store backgrounds ("image_bg") that repeat once, as an internal basin mapped to
        the events, which dclab and dcnum read as the same feature. For new recordings.
    stream
        For streams: arrays are taken over without a copy (they must not be changed after the
        call), and the rows of a file that was passed open are visible after `flush` only.

    Attributes
    ----------
    h5 : h5py.File
        The open file; what was stored can be read through it at once. Until it is looked at for
        the first time, rows wait in memory until their chunk is whole, which is faster.
    events : h5py.Group
        The group "events"; as `h5`.
    ds_kwds : dict
        Arguments with which new datasets are created.

    Raises
    ------
    StorageError
        The file cannot be opened.
    DamagedFileError
        The file is no HDF5 file.

    Examples
    --------
    >>> import numpy as np
    >>> with HDF5Writer(path, mode="x") as writer:
    ...     writer.store_feature_chunk("deform", np.array([0.1, 0.2]))
    """

    def __init__(
        self,
        obj: h5py.File | Path | str,
        mode: str = "a",
        ds_kwds: Mapping[str, Any] | None = None,
        *,
        compression: Compression | str | None = None,
        threads: int | None = None,
        event_count: bool = False,
        scalar_attributes: bool = False,
        dedup_background: bool = False,
        stream: bool = False,
    ) -> None:
        if isinstance(compression, str):
            compression = Compression.preset(compression)
        if compression is not None:
            if ds_kwds:
                raise UsageError("expected `ds_kwds` or `compression`, got both; pass one of them")
            ds_kwds = compression.filter_kwargs()
        self.ds_kwds = set_default_filter_kwargs(ds_kwds)
        self._pool = EncoderPool(threads)
        self._file = OpenFile(obj, mode)
        self.path = self._file.path
        self._lock = threading.RLock()
        self._stream = stream
        self._event_count = event_count
        self._scalar_attributes = scalar_attributes
        self._policy = LevelPolicy(compression)
        self._store = EventStore(
            self._file,
            self.ds_kwds,
            self._pool,
            self._policy,
            borrow=stream,
            # somebody who passes a file open may look at it at any time
            visible=not self._file.owned and not stream,
            summarise=scalar_attributes,
            background=BackgroundBasin() if dedup_background else None,
            exact=compression is not None and compression.exact,
        )
        _open_writers.add(self)

    @property
    def h5(self) -> h5py.File:
        """The open file; what was stored is in it."""
        self._show()
        return self._file.h5

    @property
    def events(self) -> h5py.Group:
        """The group "events"; what was stored is in it."""
        self._show()
        return self._file.events

    @property
    def h5_owned(self) -> bool:
        """Whether the file was opened here, and is closed with the writer."""
        return self._file.owned

    @property
    def text_kwds(self) -> dict[str, Any]:
        """Arguments for datasets of texts and tables: the filters, not what is for events."""
        return text_filters(self.ds_kwds)

    def _show(self) -> None:
        """From now on the caller may look at the file at any time: put rows there at once."""
        with self._lock:
            if not (self._stream or self._file.closed or self._file.failed):
                self._store.show()

    def __del__(self) -> None:
        """A writer that nobody closed: keep what it was given."""
        if hasattr(self, "_store") and not self._file.closed:
            with suppress(Exception):
                self._close(finish=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.close()
            return
        try:
            self._close(finish=False)
        except StorageError:
            if not isinstance(exc_val, OSError):  # else the disk's first error is the one to tell
                raise

    def close(self) -> None:
        """Write what waits, set the attributes that were asked for, close an owned file.

        Calling it again does nothing.

        Raises
        ------
        StorageError
            The disk refused.
        DataError
            `event_count` was asked for, and the features have different lengths.
        """
        self._close(finish=True)

    def _close(self, *, finish: bool) -> None:
        with self._lock:
            if self._file.closed:
                return
            try:
                if not self._file.failed:
                    self._flush()
                    self._store.require_indexed()
                    if finish:
                        self._finish()
            except OSError:
                self._file.give_up()  # or the clean-up fails, too, and hides this error's errno
                raise
            finally:
                _open_writers.discard(self)
                self._store.discard()
                self._pool.close()
                self._file.release(self._store.drop_handles)

    def _finish(self) -> None:
        """What a complete recording has besides its events."""
        background = self._store.background
        if background is not None and background.n_stored:
            basins.describe_basin(self, background.description())
        if not (self._scalar_attributes or self._event_count):
            return
        if not self._file.h5.id.valid:
            raise ClosedError(
                f"'{self.path}': the file was closed before the writer, which could not set the "
                f"attributes that were asked for; close the writer first"
            )
        with storage_errors(self.path, "setting attributes"):
            if self._scalar_attributes:
                self._store.set_scalar_attributes()
            if self._event_count and (lengths := self._store.lengths_in_file()):
                if len(set(lengths.values())) > 1:
                    raise DataError(
                        f"'{self.path}': expected features of one length, got {lengths}; the "
                        f"event count was not set; store the missing events"
                    )
                self._file.h5.attrs["experiment:event count"] = next(iter(lengths.values()))

    def flush(self) -> None:
        """Hand all rows to HDF5 and HDF5's buffers to the operating system."""
        with self._lock:
            self._require_open()
            self._flush()

    def _flush(self) -> None:
        self._store.settle()
        self._file.flush()

    def settled_file(self) -> h5py.File:
        """The open file with all rows in it, for a look that is over before the next store."""
        self.flush()
        return self._file.h5

    def flush_dataset(self, dset: h5py.Dataset) -> None:
        """Write a dataset's buffers now, where an error is seen, and not when it is dropped.

        Raises
        ------
        StorageError
            The disk refused.
        """
        self._file.flush_dataset(dset)

    def _require_open(self) -> None:
        self._file.require_open(look=self._store.visible)

    @staticmethod
    def get_best_nd_chunks(
        item_shape: Sequence[int], feat_dtype: npt.DTypeLike = np.float64
    ) -> tuple[int, ...]:
        """Chunk shape of about 1 MiB with 10 to 1000 whole events.

        Parameters
        ----------
        item_shape
            Shape of one event.
        feat_dtype
            Dtype of the feature.
        """
        return best_chunk_shape(item_shape, feat_dtype)

    def require_feature(
        self,
        feat: str,
        item_shape: Sequence[int],
        feat_dtype: npt.DTypeLike,
        ds_kwds: Mapping[str, Any] | None = None,
        group_name: str = "events",
    ) -> tuple[h5py.Dataset, int]:
        """Dataset of a feature; created empty where it does not exist.

        Parameters
        ----------
        feat
            Feature name; "trace/fl1_raw" for a trace.
        item_shape
            Shape of one event: () for a scalar feature, (H, W) for an image.
        feat_dtype
            Dtype of the feature.
        ds_kwds
            Arguments for the new dataset, over those of the writer.
        group_name
            Group in the file.

        Returns
        -------
        dataset
            The dataset.
        offset
            Number of events that it holds.

        Raises
        ------
        EventError
            The feature exists with another shape, or the name does not fit.
        """
        with self._lock:
            self._require_open()
            self._show()
            dataset = self._store.require(
                feat, tuple(item_shape), np.dtype(feat_dtype), ds_kwds, group_name
            )
            return dataset.dset, dataset.n_events

    def store_feature_chunk(self, feat: str, data: Any, group_name: str = "events") -> None:
        """Append events of one feature.

        Parameters
        ----------
        feat
            Feature name.
        data
            Array of shape (n, ...) whose first axis is the event. For "trace": a mapping of trace
            names to arrays of shape (n, samples). For "contour": a list of n arrays of shape
            (points, 2).
        group_name
            Group in the file.

        Raises
        ------
        EventError
            Shape, dtype or values do not fit the events that are there; nothing was written.
        StorageError
            The disk refused; the feature has the length that it had before.
        """
        with self._lock:
            self._require_open()
            self._store.store(feat, data, group_name)

    def store_feature_rows(
        self,
        feat: str,
        source: h5py.Dataset | h5py.Group,
        rows: slice | npt.ArrayLike | None = None,
        group_name: str = "events",
        *,
        recode: bool = False,
        on_rows: Callable[[int], None] | None = None,
    ) -> MoveCounts:
        """Append events of a dataset of another open file.

        Whole chunks that land on chunks of the same shape, dtype and filters are taken over as
        they are stored (Zstandard of the wanted level or a higher one counts as the same, and a
        missing checksum is added); all others are decoded and encoded on the writer's threads.
        A new dataset has the chunks of the source where these make sense. Attributes of the
        source are not copied.

        Parameters
        ----------
        feat
            Feature name; "trace/fl1_raw" for a trace.
        source
            Dataset of an open file, shape (n, ...); for "contour", the group.
        rows
            Which events: None for all, a slice, or indices of shape (m,) in any order.
        group_name
            Group in the file.
        recode
            Whether to compress anew also what could be taken over.
        on_rows
            Called with the number of events of this call that were accepted so far; what it
            raises ends the call.

        Returns
        -------
        MoveCounts
            ``(n_moved, n_recoded)``: numbers of chunks.

        Raises
        ------
        EventError
            Shape, dtype or values do not fit the events that are there; nothing was added.
        DataError
            `rows` names events that do not exist.
        DamagedFileError
            The source is damaged, or its data are where they are not read; nothing was added.
        StorageError
            The disk refused.
        """
        with self._lock:
            self._require_open()
            return self._store.store_rows(
                feat, source, rows, group_name, recode=recode, on_rows=on_rows
            )

    def store_basin(
        self,
        name: str,
        paths: Sequence[str | Path] | None = None,
        features: Sequence[str] | None = None,
        description: str | None = None,
        mapping: npt.ArrayLike | None = None,
        internal_data: Mapping[str, Any] | None = None,
        identifier: str | None = None,
        *,
        urls: Sequence[str] | None = None,
        basin_format: str | None = None,
        perishable: bool = False,
    ) -> str:
        """Refer to data in another file, at a URL, or in this file for several events at once.

        Parameters
        ----------
        name
            Name of the basin; need not be unique.
        paths
            Locations of a file basin, tried in this order; relative ones are relative to the
            folder of this recording.
        features
            Features that the basin provides; None: all.
        description
            Free text.
        mapping
            Integer array of shape (events,): for each event of this recording the index of the
            basin's event. Stored as basinmap0 ... basinmap9; an equal one is used again.
        internal_data
            Feature names to arrays that are stored in this file; needs `mapping`, excludes
            `features`, `paths` and `urls`.
        identifier
            Measurement identifier of the basin.
        urls
            Locations of a remote basin.
        basin_format
            Of a remote basin: "http" (default), "s3" or "dcor".
        perishable
            Of a remote basin: whether the URLs will stop working.

        Returns
        -------
        str
            Name of the dataset in the group "basins".

        Raises
        ------
        BasinError
            The arguments do not fit; nothing was written.
        """
        with self._lock:  # or two threads take one mapping's name
            self._require_open()
            return basins.store_basin(
                self,
                name=name,
                paths=paths,
                features=features,
                description=description,
                mapping=mapping,
                internal_data=internal_data,
                identifier=identifier,
                urls=urls,
                basin_format=basin_format,
                perishable=perishable,
            )

    def store_log(
        self, log: str, data: Iterable[str | bytes] | str, override: bool = False
    ) -> h5py.Dataset:
        """Store a log.

        Parameters
        ----------
        log
            Name of the log.
        data
            Lines of text; a single text is split at its line ends. May be empty.
        override
            Whether to replace a log of that name.

        Returns
        -------
        h5py.Dataset
            Fixed-length UTF-8 byte strings, shape (lines,).

        Raises
        ------
        MetadataError
            The log exists already, or the data are no text; the old log stays.
        """
        return self._store_whole("logs", log, encode_lines(data, f"log '{log}'"), override)

    def store_table(
        self,
        name: str,
        columns: Mapping[str, npt.ArrayLike] | npt.NDArray[Any],
        *,
        override: bool = False,
    ) -> h5py.Dataset:
        """Store a table.

        Parameters
        ----------
        name
            Name of the table.
        columns
            Column names to arrays of shape (rows,), or a structured array of that shape.
        override
            Whether to replace a table of that name.

        Returns
        -------
        h5py.Dataset
            Compound dataset, shape (rows,).

        Raises
        ------
        MetadataError
            The columns differ in length or are not numeric, or the table exists.
        """
        return self._store_whole("tables", name, as_table(name, columns), override)

    def _store_whole(
        self, group_name: str, name: str, data: npt.NDArray[Any], override: bool
    ) -> h5py.Dataset:
        with self._lock:
            self._require_open()
            return store_whole_dataset(
                self._file, group_name, name, data, override=override, ds_kwds=self.ds_kwds
            )

    def store_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Set root attributes.

        Parameters
        ----------
        metadata
            "section:key" to value, for instance ``{"setup:channel width": 20.0}``.

        Raises
        ------
        MetadataError
            A key is unknown or a value has the wrong type; none was set.
        """
        checked = check_metadata(metadata)
        with self._lock, storage_errors(self.path, "setting attributes"):
            self._require_open()
            for key, value in checked.items():
                self._file.h5.attrs[key] = value

    # -- for streams --------------------------------------------------------------------------

    def truncate(self, lengths: Mapping[str, int] | int) -> None:
        """Give back events at the end of the features that this writer wrote.

        Parameters
        ----------
        lengths
            Number of events to keep: one for all features, or one per feature; a feature that is
            not named keeps what it had when this writer first wrote to it, and none ever less.

        Raises
        ------
        StorageError
            The disk refused.
        """
        with self._lock:
            self._require_open()
            self._store.truncate(lengths)

    def lengths(self) -> dict[str, int]:
        """Number of events of each feature that this writer wrote, those that wait included."""
        return self._store.lengths()

    def forget(self, group_name: str, feat: str) -> None:
        """Drop the handle of a dataset that is about to be deleted."""
        self._store.forget(group_name, feat)

    def bound_waiting(self, max_bytes: int) -> None:
        """Let at most so many bytes wait in chunks that are being encoded, plus one chunk."""
        self._store.bound_waiting(max_bytes)

    def hold_level_while(self, is_pressed: Callable[[], bool]) -> None:
        """Let a level that fits the load not rise while `is_pressed` says so."""
        self._store.hold_level_while(is_pressed)

    def watch_chunks(self, watcher: ChunkWatcher, *, runs_ahead: bool = False) -> None:
        """Have each chunk told that was written: dataset, row, offset, size, checksum.

        Parameters
        ----------
        watcher
            Who is told.
        runs_ahead
            Whether nobody looks at the lengths in the file before its end.
        """
        self._store.watch_chunks(watcher, runs_ahead=runs_ahead)

    def when_written(self, action: Callable[[], None]) -> None:
        """Call `action` when all whole chunks that were stored before it are written."""
        with self._lock:
            self._store.when_written(action)

    def write_waiting(self) -> None:
        """Write all whole chunks now."""
        with self._lock:
            if not self._file.failed and not self._file.closed:
                self._store.write_waiting()

    def start_swmr(self) -> None:
        """Let other programs read while it is written (HDF5's SWMR mode).

        All datasets have to exist; none, and no attribute, can be created until `end_swmr`.
        """
        with self._lock:
            self._file.start_swmr()

    def flush_swmr(self) -> None:
        """Let the readers see all whole chunks."""
        with self._lock:
            self._store.flush_datasets()

    def end_swmr(self) -> None:
        """Close the file for its readers, and open it again for the rest."""
        with self._lock:
            self._flush()
            self._file.reopen()
            self._store.reopened()

    def datasets(self) -> list[tuple[str, GrowingDataset]]:
        """Paths and states of the datasets that this writer wrote."""
        return self._store.datasets()

    @property
    def level_counts(self) -> dict[int, int]:
        """Number of chunks by Zstandard level, of those that were encoded in the background."""
        return self._store.level_counts

    @property
    def has_failed(self) -> bool:
        """Whether the disk refused, so that nothing more can be written."""
        return self._file.failed

    @property
    def has_contours(self) -> bool:
        """Whether this writer wrote contours."""
        return self._store.contours.count is not None

    def take_contours(self) -> tuple[int, list[npt.NDArray[Any]]] | None:
        """Number of the first contour since the last call, and the contours; None: none."""
        return self._store.contours.take()

    def abandon(self) -> None:
        """Let go of the file without another write, after an error of the disk.

        HDF5 would write its buffers again and again, and crash the interpreter at its end; the
        file cannot be opened afterwards, but its chunks are in it.
        """
        with self._lock:
            _open_writers.discard(self)
            self._store.discard()
            self._pool.close()
            if not self._file.closed:
                self._file.abandon()
            self._store.drop_handles()
