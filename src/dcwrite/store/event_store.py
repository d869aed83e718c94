"""EventStore: the features of an open file, as they grow.

Alone here: which dataset the events of a feature go to, when they may wait in memory, and how
events are taken back. Invariant: a call that raises has added no event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import DataError, EventError, UsageError
from ..format.basin import BASIN_GROUP
from ..format.chunking import best_chunk_shape, kept_chunk_shape
from ..format.features import (
    IMAGE_ATTRIBUTES,
    as_item_arrays,
    cast_lossless,
    check_feature_name,
    flatten_group_features,
    is_contour,
    mask_to_stored,
    require_item_shape,
    to_stored,
)
from .append import GrowingDataset
from .background import BACKGROUND, BackgroundBasin
from .compact_rows import AnyRows, CompactRows, as_array
from .contours import ContourStore
from .encoder import EncoderPool
from .hdf5 import datasets_of, storage_errors
from .load import LevelPolicy
from .mould import Mould
from .moving import MoveCounts, RowMover
from .open_file import OpenFile
from .places import ChunkPlaces
from .row_source import rows_of
from .write_behind import BUNDLE_BYTES, ChunkWatcher, MakeChunk, WriteBehind

__all__ = ["EventStore"]

#: Unfinished chunks and the future of their bytes.
_Tails: TypeAlias = tuple[
    list[tuple[GrowingDataset, npt.NDArray[Any]]], Future[list[bytes | memoryview]]
]


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
    exact
        Whether chunks are encoded with their level's own parameters only.
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
        exact: bool = False,
    ) -> None:
        self.background = background
        self.visible = visible
        self._file = file
        self._ds_kwds = ds_kwds
        self._pool = pool
        self._policy = policy
        self._behind = WriteBehind(pool, policy, on_stored=file.begin_writeback)
        self._borrow = borrow
        self._summarise = summarise
        self._exact = exact
        self._datasets: dict[tuple[str, str], GrowingDataset] = {}
        #: open groups, while nobody else looks at the file
        self._groups: dict[str, h5py.Group] = {}
        #: what the datasets of one shape and dtype are made of
        self._moulds: dict[tuple[str, tuple[int, ...], np.dtype[Any]], Mould] = {}
        self.contours = ContourStore(file, ds_kwds)

    def show(self) -> None:
        """Put all rows into the file, and from now on each at once."""
        if not self.visible:
            self.write_waiting()
            for dataset in self._datasets.values():
                dataset.reveal()
            self._forget_handles()
            self.visible = True

    def write_waiting(self) -> None:
        """Write all whole chunks."""
        self._guard(self._behind.drain)

    def _guard(self, work: Callable[[], None]) -> None:
        """An error of the disk is the end of the file, and of what waits for it."""
        try:
            self._file.guard(work)
        except OSError:
            if self._file.failed:
                self._behind.discard()
            raise

    def settle(self) -> None:
        """Write all rows, those of unfinished chunks included."""
        # encoded beside the whole chunks that still wait
        tails = self._encode_tails()
        self.write_waiting()
        self._guard(lambda: self._settle_datasets(tails))

    def _encode_tails(self) -> list[_Tails]:
        """The unfinished chunks of all datasets, small ones together."""
        tails: list[_Tails] = []
        bundle: list[tuple[GrowingDataset, npt.NDArray[Any]]] = []
        for dataset in self._datasets.values():
            rows = dataset.padded_tail()
            if rows is None:
                continue
            bundle.append((dataset, rows))
            if sum(rows.nbytes for _, rows in bundle) >= BUNDLE_BYTES:
                tails.append((bundle, self._pool.submit(_encode_bundle, bundle)))
                bundle = []
        if bundle:
            tails.append((bundle, self._pool.submit(_encode_bundle, bundle)))
        return tails

    def _settle_datasets(self, tails: list[_Tails]) -> None:
        encoded = {
            dataset: stored
            for bundle, future in tails
            for (dataset, _), stored in zip(bundle, future.result(), strict=True)
        }
        for dataset in self._datasets.values():
            dataset.settle(encoded.get(dataset))

    def discard(self) -> None:
        """Drop the chunks that wait."""
        self._behind.discard()

    def drop_handles(self) -> None:
        """Let go of all datasets."""
        self._forget_handles()
        self._datasets.clear()

    def _forget_handles(self) -> None:
        self._groups.clear()
        self._moulds.clear()
        self._behind.buffers.clear()

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
            group = self._group(group_name)
            is_new = feat not in group
            if not is_new:
                dset, mould = group[feat], None
                if not isinstance(dset, h5py.Dataset):
                    raise EventError(
                        f"feature '{feat}': expected a dataset in '{self._file.path}', got a "
                        f"group; name the dataset in it, such as 'trace/fl1_raw'"
                    )
            else:
                dset, mould = self._create(group, feat, item_shape, dtype, ds_kwds)
            if mould is None and dset.chunks is None:
                raise EventError(
                    f"feature '{feat}': expected a chunked dataset in '{self._file.path}', got "
                    f"one that cannot grow; rewrite the recording with `dcwrite replay` first"
                )
            dataset = GrowingDataset(
                group,
                feat,
                dset=dset,
                like=None if mould is None else mould.first,
                summarise=self._summarise,
            )
        if dataset.codec is not None:
            dataset.codec.exact = self._exact
        self._datasets[group_name, feat] = dataset
        if is_new and mould is None and ds_kwds is None and not self.visible:
            key = (group_name, dataset.item_shape, dataset.dtype)
            self._moulds.setdefault(key, Mould.of(dataset))
        return dataset

    def _group(self, name: str) -> h5py.Group:
        group = self._groups.get(name)
        if group is None:
            group = self._file.h5.require_group(name)
            if not self.visible:
                self._groups[name] = group
        return group

    def _create(
        self,
        group: h5py.Group,
        feat: str,
        item_shape: tuple[int, ...],
        dtype: np.dtype[Any],
        ds_kwds: Mapping[str, Any] | None,
    ) -> tuple[h5py.Dataset, Mould | None]:
        """New empty dataset; and, if it is like an earlier one, what that was made of."""
        if feat == "mask" and dtype == np.bool_:
            dtype = np.dtype(np.uint8)  # as masks are stored
        mould = self._moulds.get((group.name[1:], item_shape, dtype)) if ds_kwds is None else None
        if mould is not None and feat.isascii() and "/" not in feat:
            dset = mould.cast(group, feat)
            _brand(dset, item_shape)
            return dset, mould
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
        _brand(dset, item_shape)
        return dset, None

    def store(self, feat: str, data: Any, group_name: str) -> None:
        """Append events of one feature, trace group or contours included."""
        if is_contour(feat):
            self.contours.store(as_item_arrays(feat, data), group_name)
        elif isinstance(data, Mapping) or feat == "trace":
            self._store_several(feat, data, group_name)
        elif feat == BACKGROUND and self.background is not None and group_name == "events":
            self._store_background(self.background, data)
        else:
            array, dataset = self._fit(feat, _to_append(feat, data), group_name)
            self._append(feat, array, dataset, group_name, is_ours=_is_ours(array, data))

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
        self, feat: str, array: AnyRows, group_name: str
    ) -> tuple[AnyRows, GrowingDataset | None]:
        """Rows in shape and dtype of the dataset, if there is one; nothing is created."""
        dataset = self._current(feat, group_name)
        if dataset is None:
            check_feature_name(feat)
            if not self._exists(group_name, feat):
                return array, None
            dataset = self._open(feat, array.shape[1:], array.dtype, group_name)
        is_bool_mask = feat == "mask" and array.dtype == np.bool_ and dataset.dtype == np.uint8
        if (array.dtype == dataset.dtype or is_bool_mask) and (
            array.shape[1:] == dataset.item_shape
        ):
            return array, dataset
        where = f" in '{self._file.path}', event {dataset.n_events} and following"
        require_item_shape(feat, array.shape[1:], dataset.item_shape, where)
        array = as_array(array)
        if feat == "mask" and dataset.dtype == np.bool_:
            return array != 0, dataset  # another program's file
        return cast_lossless(array, dataset.dtype, feat, where), dataset

    def _exists(self, group_name: str, feat: str) -> bool:
        group = self._groups.get(group_name)
        if group is None:
            return f"{group_name}/{feat}" in self._file.h5
        return feat in group

    def _append(
        self,
        feat: str,
        array: AnyRows,
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
        is_at_once = self.visible or dataset.codec is None
        if not isinstance(array, CompactRows) or is_at_once:
            array = np.ascontiguousarray(array)
            if is_at_once and array.dtype != dataset.dtype:
                array = mask_to_stored(array)
        try:
            if self.visible:
                dataset.append_visible(as_array(array), self._pool)
            else:
                dataset.append_deferred(array, self._behind, borrow=self._borrow or is_ours)
        except OSError:
            self._file.failed = True
            raise

    # -- rows of other files --------------------------------------------------------------------

    def store_rows(
        self,
        feat: str,
        source: h5py.Dataset | h5py.Group,
        rows: slice | npt.ArrayLike | None,
        group_name: str,
        *,
        recode: bool = False,
        on_rows: Callable[[int], None] | None = None,
    ) -> MoveCounts:
        """Append events of another open file's dataset; of its group, for contours."""
        if is_contour(feat):
            return MoveCounts(self.contours.store_rows(source, rows, group_name, on_rows))
        if not isinstance(source, h5py.Dataset) or not source.shape:
            raise EventError(
                f"feature '{feat}': expected an open dataset whose first axis is the event, got "
                f"{source!r}; for traces, pass 'trace/NAME' and each dataset of the group"
            )
        wanted = rows_of(rows, source.shape[0], f"rows of feature '{feat}'")
        if feat == BACKGROUND and self.background is not None and group_name == "events":
            raise UsageError(
                f"feature '{feat}': expected a writer without dedup_background for rows of "
                f"another file; store them with store_feature_chunk"
            )
        is_new = f"{group_name}/{feat}" not in self._file.h5
        chunks = kept_chunk_shape(source.chunks, source.shape[1:], source.dtype)
        ds_kwds = None if "chunks" in self._ds_kwds else {"chunks": chunks}
        dataset = self.require(feat, source.shape[1:], source.dtype, ds_kwds, group_name)
        if source.id == dataset.dset.id:
            raise UsageError(
                f"feature '{feat}': expected a dataset of another file, got that of "
                f"'{self._file.path}' itself"
            )
        before = dataset.n_events
        try:
            mover = RowMover(
                source,
                dataset,
                _Sink(self, dataset),
                self._pool,
                convert=self._conversion(feat, source.dtype, dataset),
                recode=recode,
                on_rows=on_rows,
            )
            counts = mover.move(wanted)
            if self.visible:
                self.write_waiting()
                self._guard(dataset.reveal)
        except BaseException:
            if not self._file.failed:
                self._behind.withdraw(dataset, before)
                self.write_waiting()
                self._guard(lambda: dataset.truncate(before))
                if is_new and self._behind.watcher is None:
                    self.forget(group_name, feat)
                    del self._file.h5[group_name][feat]
            raise
        return counts

    def _conversion(
        self, feat: str, dtype: np.dtype[Any], dataset: GrowingDataset
    ) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None:
        """What turns rows of a source into the dataset's dtype; None: nothing."""
        if dtype == dataset.dtype:
            return None
        if feat == "mask" and dtype == np.bool_:
            return mask_to_stored
        if feat == "mask" and dataset.dtype == np.bool_:
            return lambda rows: rows != 0
        where = f" in '{self._file.path}'"
        return lambda rows: cast_lossless(rows, dataset.dtype, feat, where)

    def put_rows(self, dataset: GrowingDataset, rows: npt.NDArray[Any]) -> None:
        """Append rows that nobody else has, in the dataset's dtype; they wait."""
        if len(rows):
            rows = np.ascontiguousarray(rows)
            self._guard(lambda: dataset.append_deferred(rows, self._behind, borrow=True))

    def put_chunk(self, dataset: GrowingDataset, make: MakeChunk, *, encodes: bool) -> None:
        """Append a whole chunk whose bytes are made by the caller; it waits."""
        self._guard(lambda: dataset.append_chunk(make, self._behind, encodes=encodes))

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
        self.contours.truncate(lengths)

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

    def hold_level_while(self, is_pressed: Callable[[], bool]) -> None:
        """Let the level not rise while `is_pressed` says so; see `LevelPolicy`."""
        self._policy.is_pressed = is_pressed

    def watch_chunks(self, watcher: ChunkWatcher, *, runs_ahead: bool = False) -> None:
        """Have each chunk told that was written; see `WriteBehind.watch`."""
        self._behind.watch(watcher, ChunkPlaces(self._file.h5), runs_ahead=runs_ahead)
        self.contours.keeps_items = True

    def flush_datasets(self) -> None:
        """Let the readers of a file in SWMR mode see all whole chunks."""
        with storage_errors(self._file.path, "flushing the datasets"):
            for dataset in self._datasets.values():
                dataset.dset.id.flush()

    def reopened(self) -> None:
        """The file was closed and opened again; all rows were in it."""
        self._forget_handles()
        for key, dataset in list(self._datasets.items()):
            self._datasets[key] = dataset.reopened(self._file.h5[key[0]])
        if self._behind.watcher is not None:
            self.watch_chunks(self._behind.watcher)

    def require_indexed(self) -> None:
        """Refuse a file in whose index chunks are missing, of those that waited to be written.

        Raises
        ------
        StorageError
            Rows that were written would be read as zeros.
        """
        if self.visible:
            return  # each call has written its rows, and they may have been changed since
        for dataset in self._datasets.values():
            dataset.require_indexed()

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

    def forget(self, group_name: str, feat: str) -> None:
        """Drop the handle of a dataset that is about to be deleted."""
        self._datasets.pop((group_name, feat), None)

    def lengths(self) -> dict[str, int]:
        """Number of events of each feature that this writer wrote, those that wait included."""
        found = {feat: dataset.n_events for feat, dataset in self._event_datasets().items()}
        if self.contours.count is not None:
            found["contour"] = self.contours.count
        return found

    def _event_datasets(self) -> dict[str, GrowingDataset]:
        return {feat: ds for (group, feat), ds in self._datasets.items() if group == "events"}


class _Sink:
    """Where rows of another file go: the end of one dataset."""

    def __init__(self, store: EventStore, dataset: GrowingDataset) -> None:
        self._store = store
        self._dataset = dataset

    def put_rows(self, rows: npt.NDArray[Any]) -> None:
        self._store.put_rows(self._dataset, rows)

    def put_chunk(self, make: MakeChunk, *, encodes: bool) -> None:
        self._store.put_chunk(self._dataset, make, encodes=encodes)


def _brand(dset: h5py.Dataset, item_shape: tuple[int, ...]) -> None:
    """Say of images that they are."""
    if len(item_shape) == 2:
        for name, value in IMAGE_ATTRIBUTES.items():
            dset.attrs.create(name, np.bytes_(value))


def _to_append(feat: str, data: Any) -> AnyRows:
    """As `to_stored`; masks of bool and compact rows stay what they are until they are encoded."""
    if isinstance(data, CompactRows):
        return data
    if feat == "mask" and type(data) is np.ndarray and data.dtype == np.bool_ and data.ndim:
        return data
    return to_stored(feat, data)


def _encode_bundle(
    bundle: list[tuple[GrowingDataset, npt.NDArray[Any]]],
) -> list[bytes | memoryview]:
    return [dataset.encode(rows) for dataset, rows in bundle]


def _is_ours(array: AnyRows, data: Any) -> bool:
    """Whether nobody else can change rows: an array made of the caller's (a mask), or compact."""
    if isinstance(array, CompactRows):
        return True
    return (
        array is not data and isinstance(data, np.ndarray) and not np.may_share_memory(array, data)
    )
