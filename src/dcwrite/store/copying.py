"""Features and metadata from one open file to another.

Alone here: what a copy keeps and what it recomputes. Invariant: rows come out in the order of the
mapping; a feature that cannot be copied whole is not there afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from .._version import __version__
from ..errors import EventError, FeatureNotFoundError, UnsupportedFeatureError
from ..format.compression import set_default_filter_kwargs
from ..format.features import GROUP_FEATURES, as_mapping, mask_to_stored
from ..format.identifier import as_text
from ..format.text import decode_lines, encode_lines, storable
from .encoder import ChunkCodec, EncoderPool
from .hdf5 import (
    content_errors,
    datasets_of,
    own_item,
    read_whole,
    refuse_unsafe_sources,
    require_open,
    storage_errors,
)
from .objects import copy_object
from .rows import blocks_of_rows, take_rows
from .undo import keeping
from .writer import HDF5Writer

__all__ = ["copy_attributes", "copy_features", "copy_metadata", "copy_text_or_table"]

AnyArray = npt.NDArray[Any]

_EVENT_COUNT = "experiment:event count"
_SUMMARY = ("min", "max", "mean")


def copy_features(
    h5_src: h5py.File,
    h5_dst: h5py.File,
    features: Sequence[str],
    mapping: npt.ArrayLike | None = None,
    ds_kwds: Mapping[str, Any] | None = None,
    *,
    threads: int | None = None,
) -> None:
    """Copy features, all events or those that a mapping names.

    Without a mapping, compressed data are moved as they are. Attributes are kept; min, max and
    mean are computed anew where the source has them. An attribute "experiment:event count" of
    the output is set to the number of events that it then has.

    Parameters
    ----------
    h5_src
        File with the features in the group "events".
    h5_dst
        File that is open for writing; a feature that it has already has to be identical.
    features
        Names; "trace" and "contour" are copied as groups.
    mapping
        Indices of source events, shape (n,), in any order, with repeats.
    ds_kwds
        Arguments for new datasets; used with a mapping only.
    threads
        Threads for decoding and encoding; default: the usable cores.

    Raises
    ------
    FeatureNotFoundError
        The source has no such feature.
    DataError
        The mapping does not fit, or the output has the feature with other data.
    StorageError
        The disk refused; the feature is removed again.
    """
    require_open(h5_src)
    require_open(h5_dst, writable=True)
    names = [features] if isinstance(features, str) else list(features)
    with keeping(h5_dst):
        _copy_features(h5_src, h5_dst, names, mapping, ds_kwds, threads)


def _copy_features(
    h5_src: h5py.File,
    h5_dst: h5py.File,
    features: Sequence[str],
    mapping: npt.ArrayLike | None,
    ds_kwds: Mapping[str, Any] | None,
    threads: int | None,
) -> None:
    with storage_errors(h5_dst.filename, "creating the group 'events'"):
        out = h5_dst.require_group("events")
    source = own_item(h5_src, "events")
    if not isinstance(source, h5py.Group):
        source = {}
    for feat in features:
        with content_errors(h5_src.filename, "looking for features"):
            is_there = feat in source
        if not is_there:
            raise FeatureNotFoundError(
                f"feature '{feat}': object '{feat}' doesn't exist in 'events' of "
                f"'{h5_src.filename}'; it has {sorted(source)}"
            )
    with content_errors(h5_src.filename, "reading the features"):
        plans = [(feat, _mapping_for(feat, source[feat], mapping)) for feat in features]
    pool = EncoderPool(threads)
    try:
        for feat, indices in plans:
            if feat in out:
                with content_errors(h5_src.filename, f"comparing '{feat}'"):
                    same = _is_identical(source[feat], out[feat], indices, pool)
                if not same:
                    raise EventError(
                        f"Output file {h5_dst.filename} already contains the feature {feat} with "
                        f"other data; remove it, or leave it out of `features`"
                    )
                continue
            try:
                with (
                    content_errors(h5_src.filename, f"copying '{feat}'"),
                    storage_errors(h5_dst.filename, f"copying '{feat}'"),
                ):
                    _copy_one(source, out, feat, indices, ds_kwds, threads, pool)
            except BaseException:
                with suppress(KeyError, OSError, RuntimeError):
                    del out[feat]
                raise
    finally:
        pool.close()
    if features and _EVENT_COUNT in h5_dst.attrs:
        with content_errors(h5_src.filename, "counting the events"):
            count = _length(out[features[0]])
        if h5_dst.attrs[_EVENT_COUNT] != count:
            h5_dst.attrs[_EVENT_COUNT] = count


def _length(item: h5py.Dataset | h5py.Group) -> int:
    """Number of events of a feature; of a trace, those that all its datasets have."""
    if isinstance(item, h5py.Dataset):
        return int(item.shape[0])
    if str(item.name).endswith("/contour"):
        return len(item)
    dsets = [dset for dset in item.values() if isinstance(dset, h5py.Dataset)]
    return min((int(dset.shape[0]) for dset in dsets), default=0)


def _mapping_for(
    feat: str, item: h5py.Dataset | h5py.Group, mapping: npt.ArrayLike | None
) -> AnyArray | None:
    """The mapping, checked against a feature; None: copy as it is."""
    if isinstance(item, h5py.Group) and feat not in GROUP_FEATURES:
        raise UnsupportedFeatureError(
            f"feature '{feat}': only dataset-based features are supported, and the groups 'trace' "
            f"and 'contour'; got a group"
        )
    for dset in item.values() if isinstance(item, h5py.Group) else [item]:
        if isinstance(dset, h5py.Dataset):
            refuse_unsafe_sources(dset)
    if mapping is not None:
        rows = as_mapping(mapping, _length(item), f"mapping of feature '{feat}'")
        return rows.astype(np.intp)  # small integers overflow where rows become chunks
    if isinstance(item, h5py.Dataset) and (
        item.is_virtual or item.external or (feat == "mask" and item.dtype == np.bool_)
    ):
        return np.arange(item.shape[0])  # has to be read: it is not in the file as it should be
    return None


def _copy_one(
    source: h5py.Group,
    out: h5py.Group,
    feat: str,
    indices: AnyArray | None,
    ds_kwds: Mapping[str, Any] | None,
    threads: int | None,
    pool: EncoderPool,
) -> None:
    if indices is None:
        copy_object(source, feat, out, feat)
        return
    item = source[feat]
    if feat == "contour":
        target = out.create_group(feat)
        for number, index in enumerate(indices):
            copy_object(item, str(int(index)), target, str(number))
        copy_attributes(item, target)
        return
    names = [feat] if isinstance(item, h5py.Dataset) else [f"{feat}/{name}" for name in item]
    if isinstance(item, h5py.Group):
        copy_attributes(item, out.create_group(feat))
    with HDF5Writer(out.file, ds_kwds=ds_kwds, threads=threads, stream=True) as writer:
        for name in names:
            dset = source[name]
            stored = _stored_rows(name, dset)
            writer.store_feature_chunk(name, stored(dset[:0]))  # also where no row follows
            codec = ChunkCodec.for_dataset(dset)
            chunk_events = writer.get_best_nd_chunks(dset.shape[1:], dset.dtype)[0]
            for rows in blocks_of_rows(dset, indices, chunk_events):
                writer.store_feature_chunk(name, stored(take_rows(dset, rows, pool, codec)))
    for name in names:
        copy_attributes(source[name], out[name])


def _stored_rows(name: str, dset: h5py.Dataset) -> Callable[[AnyArray], AnyArray]:
    """How rows of a dataset are stored in a copy: unchanged, but for masks of bool."""
    if name == "mask" and dset.dtype == np.bool_:
        return mask_to_stored
    return lambda rows: rows


def copy_attributes(
    source: h5py.Dataset | h5py.Group,
    target: h5py.Dataset | h5py.Group,
    *,
    same_events: bool = False,
) -> None:
    """Copy all attributes of a feature whose data were copied.

    Parameters
    ----------
    source, target
        The feature in both files.
    same_events
        Whether all events were copied; else min, max and mean are computed anew.
    """
    for key in source.attrs:
        if key in _SUMMARY and isinstance(target, h5py.Dataset) and not same_events:
            continue
        with suppress(TypeError):  # references into the other file mean nothing here
            target.attrs[key] = storable(source.attrs[key])
    summary = [] if same_events else [key for key in _SUMMARY if key in source.attrs]
    if summary and isinstance(target, h5py.Dataset) and target.ndim == 1 and target.size:
        values = target[:]
        valid = values[~np.isnan(values)] if values.dtype.kind == "f" else values
        if not valid.size:
            valid = np.array([np.nan])
        for key in summary:
            target.attrs[key] = getattr(valid, key)()


def _is_identical(
    source: h5py.Dataset | h5py.Group,
    target: h5py.Dataset | h5py.Group,
    indices: AnyArray | None,
    pool: EncoderPool,
) -> bool:
    """Whether the target holds what a copy would put there; not-a-number equals itself."""
    if isinstance(source, h5py.Group) or isinstance(target, h5py.Group):
        if not (isinstance(source, h5py.Group) and isinstance(target, h5py.Group)):
            return False
        if str(source.name).endswith("/contour"):
            order = range(len(source)) if indices is None else indices
            return len(target) == len(order) and all(
                np.array_equal(source[str(int(index))], target[str(number)])
                for number, index in enumerate(order)
            )
        return set(source) == set(target) and all(
            _is_identical(source[name], target[name], indices, pool) for name in source
        )
    order = np.arange(len(source)) if indices is None else indices
    if target.shape != (len(order), *source.shape[1:]):
        return False
    codec = ChunkCodec.for_dataset(source)
    start = 0
    for rows in blocks_of_rows(source, order, source.chunks[0] if source.chunks else 1):
        expected = _stored_rows(str(source.name).rsplit("/", 1)[1], source)(
            take_rows(source, rows, pool, codec)
        )
        got = target[start : start + len(rows)]
        if not np.array_equal(expected, got, equal_nan=expected.dtype.kind == "f"):
            return False
        start += len(rows)
    return True


def copy_metadata(h5_src: h5py.File, h5_dst: h5py.File, *, keep_empty: bool = False) -> None:
    """Copy root attributes, logs and tables that the output does not have yet.

    Logs become fixed-length UTF-8 lines. Each dataset that is copied gets " | dcwrite VERSION"
    appended to its attribute "software". If the output has events already, its event count stays
    theirs.

    Parameters
    ----------
    h5_src
        File to copy from.
    h5_dst
        File that is open for writing.
    keep_empty
        Whether logs and tables without any line are copied.

    Raises
    ------
    StorageError
        The disk refused.
    """
    require_open(h5_src)
    require_open(h5_dst, writable=True)
    with (
        keeping(h5_dst),
        content_errors(h5_src.filename, "copying metadata"),
        storage_errors(h5_dst.filename, "copying metadata"),
    ):
        for key, value in h5_src.attrs.items():
            if key not in h5_dst.attrs:
                h5_dst.attrs[key] = storable(value)
        if _EVENT_COUNT in h5_dst.attrs and isinstance(h5_dst.get("events"), h5py.Group):
            lengths = {dset.shape[0] for dset in datasets_of(h5_dst["events"]).values()}
            if len(lengths) == 1 and h5_dst.attrs[_EVENT_COUNT] not in lengths:
                h5_dst.attrs[_EVENT_COUNT] = lengths.pop()
        for topic in ("logs", "tables"):
            group = own_item(h5_src, topic)
            if isinstance(group, h5py.Group):
                for name in group:
                    copy_text_or_table(group, h5_dst.require_group(topic), name, keep_empty)


def copy_text_or_table(
    source: h5py.Group,
    target: h5py.Group,
    name: str,
    keep_empty: bool,
    new_name: str | None = None,
) -> None:
    """Copy one log or table, unless the output has it.

    Parameters
    ----------
    source, name
        Group and name of what is copied.
    target, new_name
        Group and name of the copy; None: the same name.
    keep_empty
        Whether one without any line is copied.
    """
    item, new_name = own_item(source, name), name if new_name is None else new_name
    if item is None or new_name in target:
        return  # a broken link, or the output has it
    if not isinstance(item, h5py.Dataset):
        copy_object(source, name, target, new_name)
        return
    if item.shape is None or (item.size == 0 and not keep_empty):
        return
    if item.dtype.hasobject and item.dtype.names is not None:
        copy_object(source, name, target, new_name)  # texts in a table
    else:
        data = np.atleast_1d(read_whole(item))
        if item.dtype.hasobject:
            data = encode_lines(decode_lines(data.ravel().tolist()), f"log '{name}'")
        maxshape = None if data.size else (None, *data.shape[1:])
        dset = target.create_dataset(
            new_name, data=data, maxshape=maxshape, chunks=True, **set_default_filter_kwargs()
        )
        dset.flush()  # an error of the disk is lost when it comes with the handle's end
        for key, value in item.attrs.items():
            with suppress(TypeError):
                target[new_name].attrs[key] = storable(value)
    before = target[new_name].attrs.get("software")
    parts = [] if before is None else [as_text(before)]
    target[new_name].attrs["software"] = " | ".join([*parts, f"dcwrite {__version__}"])
