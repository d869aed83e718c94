"""HDF5Writer: one open recording to which features, basins, logs, tables and metadata are written.

Alone here: which dataset a feature goes to, and what happens at the end. It has no algorithms of
its own: chunks are in `append`, basins in `basins`. Invariant: a call that raises has added
nothing, neither rows nor groups.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import ClosedError, DataError, EventError, MetadataError, UsageError
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
from .append import GrowingDataset, WriteBehind
from .encoder import EncoderPool
from .hdf5 import datasets_of, open_for_writing, storage_errors

__all__ = ["HDF5Writer"]


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
    write_behind
        Whether rows may wait in memory until their chunk is whole; then each chunk is written
        once, `h5` shows the rows only after `flush`, and arrays must not be changed after they
        were stored. For streams.

    Attributes
    ----------
    h5 : h5py.File
        The open file; what was stored can be read through it at once.
    events : h5py.Group
        The group "events".
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
        write_behind: bool = False,
    ) -> None:
        if isinstance(compression, str):
            compression = Compression.preset(compression)
        if compression is not None:
            if ds_kwds:
                raise UsageError("expected `ds_kwds` or `compression`, got both; pass one of them")
            ds_kwds = compression.filter_kwargs()
        self.ds_kwds = set_default_filter_kwargs(ds_kwds)
        self.h5_owned = not isinstance(obj, h5py.File)
        self.h5: h5py.File = obj if isinstance(obj, h5py.File) else open_for_writing(obj, mode)
        self.path = Path(os.fsdecode(self.h5.filename))
        self._event_count = event_count
        self._scalar_attributes = scalar_attributes
        self._pool = EncoderPool(threads)
        self._behind = WriteBehind(self._pool) if write_behind else None
        self._datasets: dict[tuple[str, str], GrowingDataset] = {}
        #: contours that were there before, and that are there now; None: none were written
        self._contours: tuple[int, int] | None = None
        self._closed = False
        self._failed = False
        try:
            with storage_errors(self.path, "creating the group 'events'"):
                self.events: h5py.Group = self.h5.require_group("events")
        except BaseException:
            if self.h5_owned:
                self.h5.close()
            raise

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
        if self._closed:
            return
        self._closed = True
        try:
            if not self._failed:
                self._flush()
                if finish:
                    self._set_final_attributes()
        finally:
            if self._behind is not None:
                self._behind.discard()
            self._pool.close()
            self._datasets.clear()
            with storage_errors(self.path, "closing the file"):
                if self.h5_owned:
                    self.h5.close()
                elif self.h5.id.valid:
                    self.h5.flush()

    def flush(self) -> None:
        """Hand all rows to HDF5 and HDF5's buffers to the operating system."""
        self._require_open()
        self._flush()

    def _flush(self) -> None:
        if self._behind is not None:
            self._behind.drain()
        for dataset in self._datasets.values():
            if dataset.is_current:
                dataset.settle()
        with storage_errors(self.path, "flushing the file"):
            self.h5.flush()

    def _set_final_attributes(self) -> None:
        with storage_errors(self.path, "setting attributes"):
            if self._scalar_attributes:
                for dataset in self._event_datasets().values():
                    if not dataset.item_shape and dataset.n_events:
                        for key, value in dataset.scalar_attributes().items():
                            dataset.dset.attrs[key] = value
            if self._event_count and (lengths := self._event_lengths()):
                if len(set(lengths.values())) > 1:
                    raise DataError(
                        f"'{self.path}': expected features of one length, got {lengths}; the "
                        f"event count was not set; store the missing events"
                    )
                self.h5.attrs["experiment:event count"] = next(iter(lengths.values()))

    def _event_lengths(self) -> dict[str, int]:
        lengths = {name: dset.shape[0] for name, dset in datasets_of(self.events).items()}
        if "contour" in self.events:
            lengths["contour"] = len(self.events["contour"])
        return lengths

    def _require_open(self) -> None:
        if self._closed or not self.h5.id.valid:
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
        dataset = self._require(feat, tuple(item_shape), np.dtype(feat_dtype), group_name, ds_kwds)
        require_item_shape(feat, tuple(item_shape), dataset.item_shape)
        if self._behind is not None:
            self._flush()
        return dataset.dset, dataset.n_events

    def _require(
        self,
        feat: str,
        item_shape: tuple[int, ...],
        dtype: np.dtype[Any],
        group_name: str,
        ds_kwds: Mapping[str, Any] | None = None,
    ) -> GrowingDataset:
        self._require_open()
        key = (group_name, feat)
        dataset = self._datasets.get(key)
        if dataset is not None and dataset.is_current:
            return dataset
        check_feature_name(feat)
        with storage_errors(self.path, f"creating '{group_name}/{feat}'"):
            group = self.h5.require_group(group_name)
            if feat in group:
                if not isinstance(group[feat], h5py.Dataset):
                    raise EventError(
                        f"feature '{feat}': expected a dataset in '{self.path}', got a group; "
                        f"name the dataset in it, such as 'trace/fl1_raw'"
                    )
            else:
                self._create(group, feat, item_shape, dtype, ds_kwds)
            dataset = GrowingDataset(
                group, feat, self._pool, self._behind, summarise=self._scalar_attributes
            )
        self._datasets[key] = dataset
        return dataset

    def _create(
        self,
        group: h5py.Group,
        feat: str,
        item_shape: tuple[int, ...],
        dtype: np.dtype[Any],
        ds_kwds: Mapping[str, Any] | None,
    ) -> None:
        kwds = {
            "chunks": best_chunk_shape(item_shape, dtype),
            **self.ds_kwds,
            **(ds_kwds or {}),
        }
        if dtype.kind not in "biuf":
            raise EventError(f"feature '{feat}': expected a numeric dtype, got {dtype}")
        dset = group.create_dataset(
            feat,
            shape=(0, *item_shape),
            maxshape=(None, *item_shape),
            dtype=dtype,
            **kwds,
        )
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
        self._require_open()
        check_feature_name(feat)
        if is_contour(feat):
            self._store_contours(as_item_arrays(feat, data), group_name)
            return
        arrays = {
            name: to_stored(name, value)
            for name, value in flatten_group_features({feat: data}).items()
        }
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise EventError(f"feature '{feat}': expected one number of events, got {lengths}")
        ready = [(name, self._fit(name, array, group_name)) for name, array in arrays.items()]
        for name, array in ready:
            dataset = self._require(name, array.shape[1:], array.dtype, group_name)
            try:
                dataset.append(array)
            except OSError:
                self._failed = True
                raise

    def _fit(self, feat: str, array: npt.NDArray[Any], group_name: str) -> npt.NDArray[Any]:
        """Rows in shape and dtype of the dataset, if there is one; nothing is created."""
        dataset = self._datasets.get((group_name, feat))
        if dataset is None or not dataset.is_current:
            if f"{group_name}/{feat}" not in self.h5:
                check_feature_name(feat)
                return array
            dataset = self._require(feat, array.shape[1:], array.dtype, group_name)
        if array.dtype == dataset.dtype and array.shape[1:] == dataset.item_shape:
            return array
        where = f" in '{self.path}', event {dataset.n_events} and following"
        require_item_shape(feat, array.shape[1:], dataset.item_shape, where)
        return cast_lossless(array, dataset.dtype, feat, where)

    def _store_contours(self, items: list[npt.NDArray[Any]], group_name: str) -> None:
        """Ragged data: one dataset per event, named by its number."""
        with storage_errors(self.path, "writing 'contour'"):
            group = self.h5.require_group(f"{group_name}/contour")
            in_events = group_name == "events"
            first, start = (self._contours if in_events else None) or (len(group), len(group))
            made = []
            try:
                for number, item in enumerate(items):
                    name = str(start + number)
                    # an empty contour cannot be chunked, so it cannot be filtered either
                    kwds = {"chunks": item.shape, **self.ds_kwds} if item.size else {}
                    group.create_dataset(name, data=item, **kwds)
                    made.append(name)
            except BaseException:
                for name in made:
                    del group[name]
                raise
            if in_events:
                self._contours = (first, start + len(items))

    def truncate(self, lengths: Mapping[str, int] | int) -> None:
        """Give back events at the end of the features that this writer wrote.

        Parameters
        ----------
        lengths
            Number of events to keep: one for all features, or one per feature; a feature that is
            not named keeps what it had when this writer first wrote to it.

        Raises
        ------
        StorageError
            The disk refused.
        """
        self._require_open()
        if self._behind is not None:
            self._behind.drain()
        for feat, dataset in self._event_datasets().items():
            keep = lengths if isinstance(lengths, int) else lengths.get(feat, dataset.start_events)
            dataset.truncate(keep)
        if self._contours is not None:
            start, count = self._contours
            keep = lengths if isinstance(lengths, int) else lengths.get("contour", start)
            for number in range(keep, count):
                del self.events[f"contour/{number}"]
            self._contours = (start, min(keep, count))

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
                self.h5.attrs[key] = value

    def _replace(
        self, group_name: str, name: str, data: npt.NDArray[Any], override: bool
    ) -> h5py.Dataset:
        """Store a whole dataset; an old one is unlinked only after the new one is complete."""
        self._require_open()
        what = group_name[:-1].capitalize()
        if not isinstance(name, str) or not name or "/" in name:
            raise MetadataError(f"{what} name: expected a text without '/', got {name!r}")
        with storage_errors(self.path, f"writing '{group_name}/{name}'"):
            group = self.h5.require_group(group_name)
            exists = name in group
            if exists and not override:
                raise MetadataError(
                    f"{what} '{name}' already exists in '{self.path}'; pass override=True to "
                    f"replace it"
                )
            temporary = f".{name}.new" if exists else name
            if exists and temporary in group:
                del group[temporary]  # left behind by a process that was killed
            kwds = {"chunks": True, **self.ds_kwds}
            dset = group.create_dataset(
                temporary, data=data, maxshape=None if data.size else (None,), **kwds
            )
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
