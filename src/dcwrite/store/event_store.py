"""EventStore: the features of an open file, as they grow.

Alone here: which dataset the events of a feature go to, when they may wait in memory, and how
events are taken back. Invariant: a call that raises has added no event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import DataError, EventError, UsageError
from ..format.basin import BASIN_GROUP
from ..format.chunking import best_chunk_shape
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
from .append import GrowingDataset
from .background import BACKGROUND, BackgroundBasin
from .encoder import EncoderPool
from .hdf5 import datasets_of, storage_errors
from .load import LevelPolicy
from .open_file import OpenFile
from .write_behind import ChunkWatcher, WriteBehind

__all__ = ["EventStore"]


class EventStore:
    """Features of an open file.

    Parameters
    ----------
    file
        The file.
    ds_kwds
        Arguments for new datasets.
    pool
        Threads that encode.
    policy
        Chooses the level of each chunk.
    borrow
        Whether arrays may be kept instead of copied.
    visible
        Whether rows have to be in the file when a call returns; else they wait in memory until
        their chunk is whole.
    summarise
        Whether to keep smallest, largest and mean value of scalar features.
    background
        Takes backgrounds that are stored once; None: they are stored for each event.
    """

    def __init__(
        self,
        file: OpenFile,
        ds_kwds: Mapping[str, Any],
        pool: EncoderPool,
        policy: LevelPolicy,
        *,
        borrow: bool,
        visible: bool,
        summarise: bool,
        background: BackgroundBasin | None,
    ) -> None:
        self.background = background
        self.visible = visible
        self._file = file
        self._ds_kwds = ds_kwds
        self._pool = pool
        self._policy = policy
        self._behind = WriteBehind(pool, policy)
        self._borrow = borrow
        self._summarise = summarise
        self._datasets: dict[tuple[str, str], GrowingDataset] = {}
        #: contours that were there before, and that are there now; None: none were written
        self._contours: tuple[int, int] | None = None
        self._new_contours: list[npt.NDArray[Any]] = []

    def show(self) -> None:
        """Put all rows into the file, and from now on each at once."""
        if not self.visible:
            self.write_waiting()
            for dataset in self._datasets.values():
                dataset.reveal()
            self.visible = True

    def write_waiting(self) -> None:
        """Write all whole chunks."""
        self._guard(self._behind.drain)

    def _guard(self, work: Callable[[], None]) -> None:
        """An error of the disk is the end of the file, and of what waits for it."""
        try:
            self._file.guard(work)
        except OSError:
            self._behind.discard()
            raise

    def settle(self) -> None:
        """Write all rows, those of unfinished chunks included."""
        self.write_waiting()
        self._guard(self._settle_datasets)

    def _settle_datasets(self) -> None:
        # all encoded first: side by side
        tails = [(dataset, dataset.encode_tail(self._pool)) for dataset in self._datasets.values()]
        for dataset, tail in tails:
            dataset.settle(tail)

    def discard(self) -> None:
        """Drop the chunks that wait."""
        self._behind.discard()

    def drop_handles(self) -> None:
        """Let go of all datasets."""
        self._datasets.clear()

    def require(
        self,
        feat: str,
        item_shape: tuple[int, ...],
        dtype: np.dtype[Any],
        ds_kwds: Mapping[str, Any] | None,
        group_name: str,
    ) -> GrowingDataset:
        """Dataset of a feature; created empty where it does not exist."""
        dataset = self._current(feat, group_name)
        if dataset is None:
            dataset = self._open(feat, item_shape, dtype, group_name, ds_kwds)
        require_item_shape(feat, item_shape, dataset.item_shape)
        return dataset

    def _current(self, feat: str, group_name: str) -> GrowingDataset | None:
        """The dataset of a feature, if it was used before and is still the same."""
        dataset = self._datasets.get((group_name, feat))
        if dataset is None or not self.visible or dataset.is_current():
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
        with storage_errors(self._file.path, f"creating '{group_name}/{feat}'"):
            group = self._file.h5.require_group(group_name)
            if feat in group:
                if not isinstance(group[feat], h5py.Dataset):
                    raise EventError(
                        f"feature '{feat}': expected a dataset in '{self._file.path}', got a "
                        f"group; name the dataset in it, such as 'trace/fl1_raw'"
                    )
            else:
                self._create(group, feat, item_shape, dtype, ds_kwds)
            if group[feat].chunks is None:
                raise EventError(
                    f"feature '{feat}': expected a chunked dataset in '{self._file.path}', got "
                    f"one that cannot grow; rewrite the recording with `dcwrite replay` first"
                )
            dataset = GrowingDataset(group, feat, summarise=self._summarise)
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
        kwds = {"chunks": best_chunk_shape(item_shape, dtype), **self._ds_kwds}
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

    def store(self, feat: str, data: Any, group_name: str) -> None:
        """Append events of one feature, trace group or contours included."""
        if is_contour(feat):
            self._store_contours(as_item_arrays(feat, data), group_name)
        elif isinstance(data, Mapping) or feat == "trace":
            self._store_several(feat, data, group_name)
        elif feat == BACKGROUND and self.background is not None and group_name == "events":
            self._store_background(self.background, data)
        else:
            array, dataset = self._fit(feat, to_stored(feat, data), group_name)
            self._append(feat, array, dataset, group_name, is_ours=_is_converted(array, data))

    def _store_background(self, background: BackgroundBasin, data: Any) -> None:
        """Only backgrounds that differ from the one before, and the mapping to them."""
        if not background.n_stored and f"events/{background.MAPPING}" in self._file.h5:
            raise UsageError(
                f"'{self._file.path}': expected a new recording for dedup_background, got one "
                f"with mapped basins; store the backgrounds without it"
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
            if f"{group_name}/{feat}" not in self._file.h5:
                return array, None
            dataset = self._open(feat, array.shape[1:], array.dtype, group_name)
        if array.dtype == dataset.dtype and array.shape[1:] == dataset.item_shape:
            return array, dataset
        where = f" in '{self._file.path}', event {dataset.n_events} and following"
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
        *,
        is_ours: bool = False,
    ) -> None:
        """Append rows in the dataset's dtype; `is_ours`: nobody else can change the array."""
        if dataset is None:
            dataset = self._open(feat, array.shape[1:], array.dtype, group_name)
        if not len(array):
            return
        array = np.ascontiguousarray(array)
        try:
            if self.visible:
                dataset.append_visible(array, self._pool)
            else:
                dataset.append_deferred(array, self._behind, borrow=self._borrow or is_ours)
        except OSError:
            self._file.failed = True
            raise

    def _store_contours(self, items: list[npt.NDArray[Any]], group_name: str) -> None:
        """Ragged data: one dataset per event, named by its number."""
        with storage_errors(self._file.path, "writing 'contour'"):
            group = self._file.h5.require_group(f"{group_name}/contour")
            in_events = group_name == "events"
            start = len(group)  # not what was stored before: `h5` is open to others
            first = min(self._contours[0], start) if in_events and self._contours else start
            made = []
            try:
                for number, item in enumerate(items):
                    name = str(start + number)
                    # an empty contour cannot be chunked, so it cannot be filtered either
                    kwds = {**self._ds_kwds, "chunks": item.shape} if item.size else {}
                    dset = group.create_dataset(name, data=item, **kwds)
                    made.append(name)
                    self._file.flush_dataset(dset)
            except BaseException:
                if not self._file.failed:
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
        self.write_waiting()
        for feat, dataset in self._event_datasets().items():
            keep = lengths if isinstance(lengths, int) else lengths.get(feat, dataset.start_events)
            dataset.truncate(max(keep, dataset.start_events))
        if self._contours is not None:
            start, count = self._contours
            keep = lengths if isinstance(lengths, int) else lengths.get("contour", start)
            keep = min(max(keep, start), count)
            for number in range(keep, count):
                del self._file.events[f"contour/{number}"]
            self._contours = (start, keep)

    def set_scalar_attributes(self) -> None:
        """Set min, max and mean on each scalar feature."""
        for feat, dataset in self._event_datasets().items():
            if not dataset.is_current():  # changed through `h5`
                if not isinstance(self._file.events.get(feat), h5py.Dataset):
                    continue
                dataset = GrowingDataset(self._file.events, feat)  # noqa: PLW2901
            if not dataset.item_shape and dataset.n_events:
                for key, value in dataset.scalar_attributes().items():
                    dataset.dset.attrs[key] = value

    def lengths_in_file(self) -> dict[str, int]:
        """Number of events of each feature of the file, those of others included."""
        events = self._file.events
        lengths = {name: dset.shape[0] for name, dset in datasets_of(events).items()}
        if "contour" in events:
            lengths["contour"] = len(events["contour"])
        return lengths

    # -- for streams --------------------------------------------------------------------------

    def bound_waiting(self, max_bytes: int) -> None:
        """Let at most so many bytes wait in chunks that are being encoded, plus one chunk."""
        self._behind.max_bytes = max(1, max_bytes)

    def watch_chunks(self, watcher: ChunkWatcher) -> None:
        """Have each chunk told that was written: dataset, row, offset, size, CRC-32."""
        self._behind.watcher = watcher

    def flush_datasets(self) -> None:
        """Let the readers of a file in SWMR mode see all whole chunks."""
        with storage_errors(self._file.path, "flushing the datasets"):
            for dataset in self._datasets.values():
                dataset.dset.id.flush()

    def reopened(self) -> None:
        """The file was closed and opened again; all rows were in it."""
        for key, dataset in list(self._datasets.items()):
            self._datasets[key] = dataset.reopened(self._file.h5[key[0]])

    def when_written(self, action: Callable[[], None]) -> None:
        """Call `action` when all whole chunks that were stored before it are written."""
        self._guard(lambda: self._behind.then(action))

    def datasets(self) -> list[tuple[str, GrowingDataset]]:
        """Paths and states of the datasets that this writer wrote."""
        return [(f"{group}/{feat}", ds) for (group, feat), ds in self._datasets.items()]

    @property
    def level_counts(self) -> dict[int, int]:
        """Number of chunks by Zstandard level, of those that were encoded in the background."""
        return dict(sorted(self._policy.counts.items(), reverse=True))

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


def _is_converted(array: npt.NDArray[Any], data: Any) -> bool:
    """Whether an array was made of the caller's (a mask of bool) and shares nothing with it."""
    return (
        array is not data and isinstance(data, np.ndarray) and not np.may_share_memory(array, data)
    )
