"""HDF5Writer: one open recording to which features, basins, logs, tables and metadata are written.

Alone here: which dataset a feature goes to, and what happens at the end. It has no algorithms of
its own: chunks are in `append`, basins in `basins`. Invariant: a call that raises has added
nothing, neither rows nor groups.
"""

from __future__ import annotations

import atexit
import os
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

from ..errors import (
    ClosedError,
    DataError,
    EventError,
    MetadataError,
    RecordingError,
    UsageError,
)
from ..format.basin import BASIN_GROUP
from ..format.chunking import best_chunk_shape
from ..format.compression import Compression, set_default_filter_kwargs
from ..format.features import (
    IMAGE_ATTRIBUTES,
    as_item_arrays,
    cast_lossless,
    check_feature_name,
    flatten_group_features,
    is_contour,
    require_item_shape,
    to_stored,
)
from ..format.metadata import check_metadata
from ..format.text import encode_lines
from . import basins
from .append import GrowingDataset
from .background import BACKGROUND, BackgroundBasin
from .encoder import EncoderPool
from .hdf5 import datasets_of, descriptor_of, divert, open_for_writing, storage_errors
from .load import LevelPolicy
from .write_behind import ChunkWatcher, WriteBehind

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
        self.h5_owned = not isinstance(obj, h5py.File)
        if isinstance(obj, h5py.File):
            if not obj.id.valid:
                raise ClosedError("expected an open file, got a closed one; open it again")
            if obj.mode == "r":
                raise UsageError(
                    f"'{obj.filename}': expected a file that is open for writing, got mode 'r'"
                )
        self._h5: h5py.File = obj if isinstance(obj, h5py.File) else open_for_writing(obj, mode)
        self.path = Path(os.fsdecode(self._h5.filename))
        self._stream = stream
        #: whether somebody may look at the file: then rows are put there at once
        self._visible = not self.h5_owned and not stream
        self._lock = threading.RLock()
        self._event_count = event_count
        self._scalar_attributes = scalar_attributes
        self._pool = EncoderPool(threads)
        self._behind = WriteBehind(self._pool, LevelPolicy(compression))
        self._background = BackgroundBasin() if dedup_background else None
        self._datasets: dict[tuple[str, str], GrowingDataset] = {}
        #: contours that were there before, and that are there now; None: none were written
        self._contours: tuple[int, int] | None = None
        self._new_contours: list[npt.NDArray[Any]] = []
        self._closed = False
        _open_writers.add(self)
        self._failed = False
        #: whether what HDF5 still has to write goes nowhere
        self._gave_up = False
        try:
            self._events = self._require_events()
        except BaseException:
            if self.h5_owned:
                self._h5.close()
            raise

    @property
    def text_kwds(self) -> dict[str, Any]:
        """Arguments for datasets of texts and tables: the filters, not what is for events."""
        filters = ("compression", "compression_opts", "shuffle", "fletcher32")
        return {
            "chunks": True,
            **{key: self.ds_kwds[key] for key in filters if key in self.ds_kwds},
        }

    def _require_events(self) -> h5py.Group:
        if isinstance(self._h5.get("events"), h5py.Dataset):
            raise RecordingError(
                f"'{self.path}': expected 'events' to be a group, got a dataset; this is no "
                f"recording, and nothing was changed"
            )
        with storage_errors(self.path, "creating the group 'events'"):
            return self._h5.require_group("events")

    @property
    def h5(self) -> h5py.File:
        """The open file; what was stored is in it."""
        self._show()
        return self._h5

    @property
    def events(self) -> h5py.Group:
        """The group "events"; what was stored is in it."""
        self._show()
        return self._events

    def _show(self) -> None:
        """From now on the caller may look at the file at any time: put rows there at once."""
        with self._lock:
            if self._visible or self._stream or self._closed or self._failed:
                return
            self._write_waiting()
            for dataset in self._datasets.values():
                dataset.reveal()
            self._visible = True

    def _write_waiting(self) -> None:
        self._guard(self._behind.drain)

    def _guard(self, work: Callable[[], None]) -> None:
        """Work with chunks; an error of the disk is the end of this file."""
        try:
            work()
        except OSError:
            self._failed = True
            self._behind.discard()
            raise

    def __del__(self) -> None:
        """A writer that nobody closed: keep what it was given."""
        if not getattr(self, "_closed", True):
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
        else:
            self._close(finish=False)

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
            if self._closed:
                return
            try:
                if not self._failed:
                    self._flush()
                    if finish and self._background is not None and self._background.n_stored:
                        basins.describe_basin(self, self._background.description())
                    if finish:
                        self._set_final_attributes()
            except OSError:
                self._give_up()  # or the clean-up fails as well, and hides this error's errno
                raise
            finally:
                self._closed = True
                _open_writers.discard(self)
                self._release()

    def _give_up(self) -> None:
        """What HDF5 has in its buffers cannot be written: from now on it goes nowhere.

        Else it is tried again by whatever handle is dropped next, where errors are lost, and at
        the interpreter's end, which crashes.
        """
        self._failed = True
        self._behind.discard()
        if self.h5_owned:
            self._gave_up = True
            divert(descriptor_of(self._h5))

    def flush_dataset(self, dset: h5py.Dataset) -> None:
        """Write a dataset's buffers now, where an error is seen, and not when it is dropped.

        Raises
        ------
        StorageError
            The disk refused.
        """
        try:
            with storage_errors(self.path, f"writing '{dset.name}'"):
                dset.flush()
        except OSError:
            self._give_up()
            raise

    def _release(self) -> None:
        """Let go of threads, datasets and an owned file."""
        self._behind.discard()
        self._pool.close()
        descriptor = descriptor_of(self._h5) if self.h5_owned else None
        try:
            if self._gave_up:
                with suppress(OSError, RuntimeError):
                    self._h5.close()
                return
            with storage_errors(self.path, "closing the file"):
                if self._h5.id.valid:
                    self._h5.flush()
                if self.h5_owned:
                    self._h5.close()
        except OSError:
            divert(descriptor)
            raise
        finally:
            self._datasets.clear()

    def flush(self) -> None:
        """Hand all rows to HDF5 and HDF5's buffers to the operating system."""
        with self._lock:
            self._require_open()
            self._flush()

    def settled_file(self) -> h5py.File:
        """The open file with all rows in it, for a look that is over before the next store."""
        self.flush()
        return self._h5

    def _flush(self) -> None:
        self._write_waiting()
        for dataset in self._datasets.values():
            dataset.settle()
        if self._h5.id.valid:  # a foreign file may have been closed by its owner
            with storage_errors(self.path, "flushing the file"):
                self._h5.flush()

    def _set_final_attributes(self) -> None:
        if not self._h5.id.valid:
            if self._scalar_attributes or self._event_count:
                raise ClosedError(
                    f"'{self.path}': the file was closed before the writer, which could not set "
                    f"the attributes that were asked for; close the writer first"
                )
            return
        with storage_errors(self.path, "setting attributes"):
            if self._scalar_attributes:
                for feat, dataset in self._event_datasets().items():
                    if not dataset.is_current():  # changed through `h5`
                        if not isinstance(self._events.get(feat), h5py.Dataset):
                            continue
                        dataset = GrowingDataset(self._events, feat)  # noqa: PLW2901
                    if not dataset.item_shape and dataset.n_events:
                        for key, value in dataset.scalar_attributes().items():
                            dataset.dset.attrs[key] = value
            if self._event_count and (lengths := self._event_lengths()):
                if len(set(lengths.values())) > 1:
                    raise DataError(
                        f"'{self.path}': expected features of one length, got {lengths}; the "
                        f"event count was not set; store the missing events"
                    )
                self._h5.attrs["experiment:event count"] = next(iter(lengths.values()))

    def _event_lengths(self) -> dict[str, int]:
        lengths = {name: dset.shape[0] for name, dset in datasets_of(self._events).items()}
        if "contour" in self._events:
            lengths["contour"] = len(self._events["contour"])
        return lengths

    def _require_open(self) -> None:
        if self._closed or (self._visible and not self._h5.id.valid):
            raise ClosedError(f"'{self.path}': the writer is closed; open a new one")
        if self._failed:
            raise UsageError(
                f"'{self.path}': an earlier write failed, and nothing can be added after it; "
                f"close the writer, and keep what was written before"
            )

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
        shape, dtype = tuple(item_shape), np.dtype(feat_dtype)
        with self._lock:
            self._require_open()
            self._show()
            dataset = self._current(feat, group_name)
            if dataset is None:
                dataset = self._open(feat, shape, dtype, group_name, ds_kwds)
            require_item_shape(feat, shape, dataset.item_shape)
            return dataset.dset, dataset.n_events

    def _current(self, feat: str, group_name: str) -> GrowingDataset | None:
        """The dataset of a feature, if it was used before and is still the same."""
        dataset = self._datasets.get((group_name, feat))
        if dataset is None or not self._visible or dataset.is_current():
            return dataset
        del self._datasets[group_name, feat]
        return None

    def _open(
        self,
        feat: str,
        item_shape: tuple[int, ...],
        dtype: np.dtype[Any],
        group_name: str,
        ds_kwds: Mapping[str, Any] | None = None,
    ) -> GrowingDataset:
        """Open the dataset of a feature, or create it."""
        check_feature_name(feat)
        with storage_errors(self.path, f"creating '{group_name}/{feat}'"):
            group = self._h5.require_group(group_name)
            if feat in group:
                if not isinstance(group[feat], h5py.Dataset):
                    raise EventError(
                        f"feature '{feat}': expected a dataset in '{self.path}', got a group; "
                        f"name the dataset in it, such as 'trace/fl1_raw'"
                    )
            else:
                self._create(group, feat, item_shape, dtype, ds_kwds)
            dataset = GrowingDataset(group, feat, summarise=self._scalar_attributes)
        self._datasets[group_name, feat] = dataset
        return dataset

    def _create(
        self,
        group: h5py.Group,
        feat: str,
        item_shape: tuple[int, ...],
        dtype: np.dtype[Any],
        ds_kwds: Mapping[str, Any] | None,
    ) -> None:
        if feat == "mask" and dtype == np.bool_:
            dtype = np.dtype(np.uint8)  # as masks are stored
        kwds = {"chunks": best_chunk_shape(item_shape, dtype), **self.ds_kwds}
        if ds_kwds and "compression" in ds_kwds:
            kwds["compression_opts"] = None  # those of the writer are for another filter
        kwds.update(ds_kwds or {})
        if dtype.kind not in "biuf":
            raise EventError(f"feature '{feat}': expected a numeric dtype, got {dtype}")
        try:
            dset = group.create_dataset(
                feat,
                shape=(0, *item_shape),
                maxshape=(None, *item_shape),
                dtype=dtype,
                **kwds,
            )
        except (TypeError, ValueError) as exc:
            raise DataError(
                f"feature '{feat}': expected `ds_kwds` that fit shape {item_shape} and dtype "
                f"{dtype}, got {kwds} ({exc})"
            ) from exc
        if len(item_shape) == 2:
            for name, value in IMAGE_ATTRIBUTES.items():
                dset.attrs.create(name, np.bytes_(value))

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
            if is_contour(feat):
                self._store_contours(as_item_arrays(feat, data), group_name)
                return
            if isinstance(data, Mapping) or feat == "trace":
                self._store_several(feat, data, group_name)
                return
            if feat == BACKGROUND and self._background is not None and group_name == "events":
                self._store_background(self._background, data)
                return
            array = to_stored(feat, data)
            self._append(feat, *self._fit(feat, array, group_name), group_name)

    def _store_background(self, background: BackgroundBasin, data: Any) -> None:
        """Only backgrounds that differ from the one before, and the mapping to them."""
        if not background.n_stored and f"events/{background.MAPPING}" in self._h5:
            raise UsageError(
                f"'{self.path}': expected a new recording for dedup_background, got one with "
                f"mapped basins; store the backgrounds without it"
            )
        rows, mapping = background.split(data)
        array, dataset = self._fit(BACKGROUND, rows, BASIN_GROUP)
        self._append(BACKGROUND, array, dataset, BASIN_GROUP)
        array, dataset = self._fit(background.MAPPING, mapping, "events")
        self._append(background.MAPPING, array, dataset, "events")

    def _store_several(self, feat: str, data: Mapping[str, Any], group_name: str) -> None:
        """All traces or none."""
        arrays = {
            name: to_stored(name, value)
            for name, value in flatten_group_features({feat: data}).items()
        }
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise EventError(f"feature '{feat}': expected one number of events, got {lengths}")
        ready = [(name, self._fit(name, array, group_name)) for name, array in arrays.items()]
        for name, (array, dataset) in ready:
            self._append(name, array, dataset, group_name)

    def _fit(
        self, feat: str, array: npt.NDArray[Any], group_name: str
    ) -> tuple[npt.NDArray[Any], GrowingDataset | None]:
        """Rows in shape and dtype of the dataset, if there is one; nothing is created."""
        dataset = self._current(feat, group_name)
        if dataset is None:
            check_feature_name(feat)
            if f"{group_name}/{feat}" not in self._h5:
                return array, None
            dataset = self._open(feat, array.shape[1:], array.dtype, group_name)
        if array.dtype == dataset.dtype and array.shape[1:] == dataset.item_shape:
            return array, dataset
        where = f" in '{self.path}', event {dataset.n_events} and following"
        require_item_shape(feat, array.shape[1:], dataset.item_shape, where)
        if feat == "mask" and dataset.dtype == np.bool_:
            return array != 0, dataset  # another program's file
        return cast_lossless(array, dataset.dtype, feat, where), dataset

    def _append(
        self,
        feat: str,
        array: npt.NDArray[Any],
        dataset: GrowingDataset | None,
        group_name: str,
    ) -> None:
        if dataset is None:
            dataset = self._open(feat, array.shape[1:], array.dtype, group_name)
        if not len(array):
            return
        array = np.ascontiguousarray(array)
        try:
            if self._visible:
                dataset.append_visible(array, self._pool)
            else:
                dataset.append_deferred(array, self._behind, borrow=self._stream)
        except OSError:
            self._failed = True
            raise

    def _store_contours(self, items: list[npt.NDArray[Any]], group_name: str) -> None:
        """Ragged data: one dataset per event, named by its number."""
        with storage_errors(self.path, "writing 'contour'"):
            group = self._h5.require_group(f"{group_name}/contour")
            in_events = group_name == "events"
            start = len(group)  # not what was stored before: `h5` is open to others
            first = min(self._contours[0], start) if in_events and self._contours else start
            made = []
            try:
                for number, item in enumerate(items):
                    name = str(start + number)
                    # an empty contour cannot be chunked, so it cannot be filtered either
                    kwds = {**self.ds_kwds, "chunks": item.shape} if item.size else {}
                    dset = group.create_dataset(name, data=item, **kwds)
                    made.append(name)
                    self.flush_dataset(dset)
            except BaseException:
                if not self._failed:
                    for name in made:
                        del group[name]
                raise
            if in_events:
                self._contours = (first, start + len(items))
                if self._behind.watcher is not None:
                    self._new_contours += items

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
        self._require_open()
        self._write_waiting()
        for feat, dataset in self._event_datasets().items():
            keep = lengths if isinstance(lengths, int) else lengths.get(feat, dataset.start_events)
            dataset.truncate(max(keep, dataset.start_events))
        if self._contours is not None:
            start, count = self._contours
            keep = lengths if isinstance(lengths, int) else lengths.get("contour", start)
            keep = min(max(keep, start), count)
            for number in range(keep, count):
                del self._events[f"contour/{number}"]
            self._contours = (start, keep)

    # -- for streams --------------------------------------------------------------------------

    def watch_chunks(self, watcher: ChunkWatcher) -> None:
        """Have each chunk told that was written: dataset, row, offset, size, CRC-32."""
        self._behind.watcher = watcher

    def start_swmr(self) -> None:
        """Let other programs read while it is written (HDF5's SWMR mode).

        All datasets have to exist; none, and no attribute, can be created until `end_swmr`.
        """
        with self._lock, storage_errors(self.path, "starting SWMR"):
            self._h5.flush()
            self._h5.swmr_mode = True

    def flush_swmr(self) -> None:
        """Let the readers see all whole chunks."""
        with self._lock, storage_errors(self.path, "flushing the datasets"):
            for dataset in self._datasets.values():
                dataset.dset.id.flush()

    def end_swmr(self) -> None:
        """Close the file for its readers, and open it again for the rest."""
        with self._lock:
            self._flush()
            with storage_errors(self.path, "ending SWMR"):
                self._h5.close()
            self._h5 = open_for_writing(self.path, "r+")
            self._events = self._require_events()
            for key, dataset in list(self._datasets.items()):
                self._datasets[key] = dataset.reopened(self._h5[key[0]])

    def when_written(self, action: Callable[[], None]) -> None:
        """Call `action` when all whole chunks that were stored before it are written."""
        with self._lock:
            self._guard(lambda: self._behind.then(action))

    def write_waiting(self) -> None:
        """Write all whole chunks now."""
        with self._lock:
            if not self._failed and not self._closed:
                self._write_waiting()

    def datasets(self) -> list[tuple[str, GrowingDataset]]:
        """Paths and states of the datasets that this writer wrote."""
        return [(f"{group}/{feat}", ds) for (group, feat), ds in self._datasets.items()]

    @property
    def level_counts(self) -> dict[int, int]:
        """Number of chunks by Zstandard level, of those that were encoded in the background."""
        return dict(sorted(self._behind.policy.counts.items(), reverse=True))

    @property
    def has_failed(self) -> bool:
        """Whether the disk refused, so that nothing more can be written."""
        return self._failed

    @property
    def has_contours(self) -> bool:
        """Whether this writer wrote contours."""
        return self._contours is not None

    def take_contours(self) -> tuple[int, list[npt.NDArray[Any]]] | None:
        """Number of the first contour since the last call, and the contours; None: none."""
        if self._contours is None:
            return None
        items, self._new_contours = self._new_contours, []
        return self._contours[1] - len(items), items

    def abandon(self) -> None:
        """Let go of the file without another write, after an error of the disk.

        HDF5 would write its buffers again and again, and crash the interpreter at its end; the
        file cannot be opened afterwards, but its chunks are in it.
        """
        with self._lock:
            if self._closed:
                return
            self._failed = self._closed = self._gave_up = True
            divert(descriptor_of(self._h5))
            self._release()

    def forget(self, group_name: str, feat: str) -> None:
        """Drop the handle of a dataset that is about to be deleted."""
        self._datasets.pop((group_name, feat), None)

    def lengths(self) -> dict[str, int]:
        """Number of events of each feature that this writer wrote, those that wait included."""
        found = {feat: dataset.n_events for feat, dataset in self._event_datasets().items()}
        if self._contours is not None:
            found["contour"] = self._contours[1]
        return found

    def _event_datasets(self) -> dict[str, GrowingDataset]:
        return {feat: ds for (group, feat), ds in self._datasets.items() if group == "events"}

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
        return self._replace("logs", log, encode_lines(data, f"log '{log}'"), override)

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
        return self._replace("tables", name, _as_table(name, columns), override)

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
        self._require_open()
        checked = check_metadata(metadata)
        with storage_errors(self.path, "setting attributes"):
            for key, value in checked.items():
                self._h5.attrs[key] = value

    def _replace(
        self, group_name: str, name: str, data: npt.NDArray[Any], override: bool
    ) -> h5py.Dataset:
        """Store a whole dataset; an old one is unlinked only after the new one is complete."""
        self._require_open()
        what = group_name[:-1].capitalize()
        if not isinstance(name, str) or name in {"", ".", ".."} or {"/", "\0"} & set(name):
            raise MetadataError(f"{what} name: expected a text without '/', got {name!r}")
        with storage_errors(self.path, f"writing '{group_name}/{name}'"):
            group = self._h5.require_group(group_name)
            exists = name in group
            if exists and not override:
                raise MetadataError(
                    f"{what} '{name}' already exists in '{self.path}'; pass override=True to "
                    f"replace it"
                )
            temporary = f".{name}.new" if exists else name
            if exists and temporary in group:
                del group[temporary]  # left behind by a process that was killed
            try:
                dset = group.create_dataset(
                    temporary,
                    data=data,
                    maxshape=None if data.size else (None,),
                    **self.text_kwds,
                )
            except (TypeError, ValueError) as exc:
                raise DataError(
                    f"{what} '{name}': expected `ds_kwds` that fit, got {self.ds_kwds} ({exc})"
                ) from exc
            self.flush_dataset(dset)
            if exists:
                del group[name]
                group.move(temporary, name)
                dset = group[name]
        return dset


def _as_table(
    name: str, columns: Mapping[str, npt.ArrayLike] | npt.NDArray[Any]
) -> npt.NDArray[Any]:
    if not isinstance(columns, Mapping):
        table = np.asarray(columns)
        if table.dtype.names is None or table.ndim != 1:
            raise MetadataError(
                f"table '{name}': expected a mapping of columns or a one-dimensional structured "
                f"array, got shape {table.shape} and dtype {table.dtype}"
            )
        return table
    arrays = {str(key): np.asarray(value) for key, value in columns.items()}
    shapes = {key: array.shape for key, array in arrays.items()}
    if not arrays or len(set(shapes.values())) > 1 or any(len(s) != 1 for s in shapes.values()):
        raise MetadataError(
            f"table '{name}': expected at least one column, all of one length, got {shapes}"
        )
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise MetadataError(
                f"table '{name}', column '{key}': expected numbers, got dtype {array.dtype}"
            )
    dtype = np.dtype([(key, array.dtype) for key, array in arrays.items()])
    table = np.zeros(next(iter(shapes.values())), dtype=dtype)
    for key, array in arrays.items():
        table[key] = array
    return table
