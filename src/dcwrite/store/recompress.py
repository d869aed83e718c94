"""A whole file once more with another compression: everything that is in it, known or not.

Alone here: which datasets are compressed anew, and when a file needs nothing. Invariant: values
and attributes of all datasets are those of the source; what is not understood is copied as it is
stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import h5py
import numpy as np

from ..errors import BasinError
from ..format.basin import BASIN_GROUP
from ..format.compression import Compression
from ..format.text import decode_lines, encode_lines
from .basin_plans import reachable_locations
from .basins import describe_basin, scan_basins
from .copying import copy_metadata
from .encoder import ChunkCodec
from .hdf5 import content_errors, own_item, read_whole, storage_errors
from .moving import MoveCounts, is_as_good
from .objects import copy_as_stored, copy_attributes_exactly, copy_unknown, unknown_names
from .row_source import source_errors
from .writer import HDF5Writer

__all__ = ["Contents"]

#: Groups whose datasets have events, and groups of them one level down.
_EVENT_GROUPS: Final = ("events", BASIN_GROUP)
_CONTOUR: Final = "events/contour"
#: Contours are written by one program in one go: so many of them tell about all.
_CONTOURS_LOOKED_AT: Final = 200
#: Contours in memory at a time.
_CONTOURS_PER_BLOCK: Final = 500


class _Item(NamedTuple):
    """A dataset with one row per event, or per image of a basin."""

    group: str
    name: str
    dset: h5py.Dataset


class Contents:
    """What an open file has for compression to work on.

    Parameters
    ----------
    h5
        The open file.

    Attributes
    ----------
    raw_bytes : int
        Size of all events in memory, contours not counted.

    Raises
    ------
    DamagedFileError
        The file cannot be read.
    """

    def __init__(self, h5: h5py.File) -> None:
        self._h5 = h5
        with content_errors(h5.filename, "listing the features"):
            self._items = list(_items(h5))
            contours = own_item(h5, _CONTOUR)
            self._contours = contours if isinstance(contours, h5py.Group) else None
            self.raw_bytes = sum(_nbytes(item.dset) for item in self._items)

    def is_compressed(self, wanted: Compression) -> bool:
        """Whether all events are compressed at least as well as wanted.

        Parameters
        ----------
        wanted
            The compression; without a level, files are as wanted that are not compressed.
        """
        codec = ChunkCodec(wanted.level, fletcher32=wanted.fletcher32)
        with content_errors(self._h5.filename, "looking at the compression"):
            return all(_is_good(item.dset, codec) for item in self._items) and all(
                _is_good(dset, codec) for dset in self._some_contours()
            )

    def _some_contours(self) -> Iterator[h5py.Dataset]:
        if self._contours is not None:
            step = max(1, len(self._contours) // _CONTOURS_LOOKED_AT)
            for name in list(self._contours)[::step]:
                if isinstance(item := _own(self._contours, name), h5py.Dataset):
                    yield item

    def write(
        self,
        writer: HDF5Writer,
        path_out: Path,
        *,
        recode: bool = False,
        on_bytes: Callable[[int], None] | None = None,
    ) -> MoveCounts:
        """Copy everything into a new file, with its compression.

        Events, also those of internal basins, and texts and tables are compressed; groups that
        no recording has are copied as they are stored. Logs of variable length become lines of
        fixed length; masks of bool become 0 and 255; virtual datasets become real ones.

        Parameters
        ----------
        writer
            Of the new, empty file.
        path_out
            Name that the file will have.
        recode
            Whether chunks are compressed anew even where they are as good as wanted.
        on_bytes
            Called with the bytes of events that were accepted so far; what it raises ends the
            work.

        Raises
        ------
        DamagedFileError
            The source cannot be read.
        StorageError
            The disk refused.
        """
        tell = on_bytes or (lambda _n_bytes: None)
        with content_errors(self._h5.filename, "reading the file"):
            counts = self._copy_events(writer, recode=recode, tell=tell)
            if self._contours is not None:
                _copy_contours(
                    self._contours, writer, recode=recode, tell=lambda: tell(self.raw_bytes)
                )
            with storage_errors(writer.path, "copying what is beside the events"):
                self._copy_attributes(writer.settled_file())
                _copy_rest(self._h5, writer, path_out)
        return counts

    def _copy_events(
        self, writer: HDF5Writer, *, recode: bool, tell: Callable[[int], None]
    ) -> MoveCounts:
        n_moved = n_recoded = n_bytes = 0
        for group, name, dset in self._items:
            row_bytes = _nbytes(dset) // max(1, dset.shape[0])
            counts = writer.store_feature_rows(
                name,
                dset,
                group_name=group,
                recode=recode,
                on_rows=partial(_tell_rows, tell, n_bytes, row_bytes),
            )
            n_bytes += _nbytes(dset)
            n_moved, n_recoded = n_moved + counts.n_moved, n_recoded + counts.n_recoded
        return MoveCounts(n_moved, n_recoded)

    def _copy_attributes(self, out: h5py.File) -> None:
        for group, name, dset in self._items:
            target = out[group][name]
            for key in set(target.attrs) - set(dset.attrs):
                del target.attrs[key]
            copy_attributes_exactly(dset, target)
        for group_name in _EVENT_GROUPS:
            if isinstance(own_item(self._h5, group_name), h5py.Group):
                _copy_others(self._h5[group_name], out.require_group(group_name))


def _tell_rows(tell: Callable[[int], None], n_bytes: int, row_bytes: int, n_rows: int) -> None:
    tell(n_bytes + n_rows * row_bytes)


# -- events ---------------------------------------------------------------------------------


def _items(h5: h5py.File) -> Iterator[_Item]:
    """All datasets that are compressed as events are, but for contours."""
    for group_name in _EVENT_GROUPS:
        group = own_item(h5, group_name)
        for name in group if isinstance(group, h5py.Group) else ():
            item = _own(group, name)
            if isinstance(item, h5py.Dataset):
                if _has_rows(name, item):
                    yield _Item(group_name, name, item)
            # traces; chopped images of an internal basin
            elif item is not None and (group_name == BASIN_GROUP or name == "trace"):
                for key in item:
                    dset = _own(item, key)
                    if isinstance(dset, h5py.Dataset) and _has_rows(key, dset):
                        yield _Item(f"{group_name}/{name}", key, dset)


def _own(group: h5py.Group, name: Any) -> h5py.Dataset | h5py.Group | None:
    """What is in a group itself: neither links that lead elsewhere, nor names that are no text."""
    if not isinstance(name, str):
        return None
    try:
        item = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
    except (KeyError, OSError, RuntimeError, ValueError):
        return None
    return item if isinstance(item, (h5py.Dataset, h5py.Group)) else None


def _has_rows(name: str, dset: h5py.Dataset) -> bool:
    """Whether a dataset has rows of numbers."""
    return (
        name not in {"contour", "trace"}
        and dset.dtype.kind in "biuf"
        and bool(dset.shape)
        and 0 not in dset.shape[1:]
    )


def _is_good(dset: h5py.Dataset, wanted: ChunkCodec) -> bool:
    if not dset.size:
        return True
    if dset.is_virtual or dset.external:
        return False
    codec = ChunkCodec.for_dataset(dset)
    if codec is None or codec.fletcher32 < wanted.fletcher32:
        return False
    return is_as_good(ChunkCodec(codec.level, fletcher32=wanted.fletcher32), wanted)


def _nbytes(dset: h5py.Dataset) -> int:
    return int(math.prod(dset.shape) * dset.dtype.itemsize)


def _copy_contours(
    source: h5py.Group, writer: HDF5Writer, *, recode: bool, tell: Callable[[], Any]
) -> None:
    """Contours one by one, unless they are as good as wanted, or are not named by numbers."""
    wanted = ChunkCodec.for_filter_kwargs(writer.ds_kwds)
    names = [str(number) for number in range(len(source))]
    if set(source) != set(names) or wanted is None:
        return  # copied with what is not understood
    for start in range(0, len(names), _CONTOURS_PER_BLOCK):
        rows = range(start, min(start + _CONTOURS_PER_BLOCK, len(names)))
        with source_errors(source):
            dsets = [source[names[row]] for row in rows]
            as_stored = not recode and all(_is_good(dset, wanted) for dset in dsets)
            items = [] if as_stored else [dset[()] for dset in dsets]
        if as_stored:
            writer.store_feature_rows("contour", source, slice(rows.start, rows.stop))
        else:
            writer.store_feature_chunk("contour", items)
            for row, dset in zip(rows, dsets, strict=True):
                if len(dset.attrs):
                    target = writer.settled_file()[f"{_CONTOUR}/{row}"]
                    copy_attributes_exactly(dset, target)
        tell()


def _copy_others(source: h5py.Group, target: h5py.Group) -> None:
    """What was not copied as events: links, texts, groups with their attributes."""
    copy_attributes_exactly(source, target)
    for name in source:
        item = _own(source, name)
        if name not in target:
            copy_as_stored(source, name, target)
        elif isinstance(item, h5py.Group) and isinstance(target[name], h5py.Group):
            _copy_others(item, target[name])


# -- everything else ------------------------------------------------------------------------


def _copy_rest(h5: h5py.File, writer: HDF5Writer, path_out: Path) -> None:
    out = writer.settled_file()
    copy_attributes_exactly(h5, out)
    copy_metadata(h5, out, keep_empty=True)
    copy_attributes_exactly(h5, out)  # a wrong event count stays as it is
    for topic in ("logs", "tables"):
        if isinstance(group := own_item(h5, topic), h5py.Group):
            _copy_others(group, out.require_group(topic))
    if isinstance(own_item(h5, "basins"), h5py.Group):
        _copy_basins(h5, writer, path_out)
    for name in h5:  # a text where a group should be
        if name not in out and name not in unknown_names(h5):
            copy_as_stored(h5, name, out)
    copy_unknown(h5, out)


def _copy_basins(h5: h5py.File, writer: HDF5Writer, path_out: Path) -> None:
    """Descriptions; relative paths that lead nowhere from the output get absolute ones."""
    out = writer.settled_file()
    target = out.require_group("basins")
    changed = set()
    for key, basin in scan_basins(h5):
        if isinstance(basin, BasinError):
            continue  # copied as it is
        locations = reachable_locations(basin, Path(h5.filename), path_out)
        if locations != basin.locations:
            describe_basin(writer, replace(basin, locations=locations))
            changed.add(key)
            continue
        lines = np.atleast_1d(read_whole(h5["basins"][key])).tolist()
        text = encode_lines(decode_lines(lines), f"basin '{basin.name}'")
        dset = target.create_dataset(key, data=text, **writer.text_kwds)
        writer.flush_dataset(dset)
        copy_attributes_exactly(h5["basins"][key], dset)
    copy_attributes_exactly(h5["basins"], target)
    for key in h5["basins"]:
        if key not in target and key not in changed:
            copy_as_stored(h5["basins"], key, target)
