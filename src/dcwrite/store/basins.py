"""Basins in a file: stored, listed, copied; and files that consist of basins.

Alone here: how a description, its mapping and its internal data are put into a file together.
Invariant: all three or none of them; a mapping that is there already is used again.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt

from .._version import __version__
from ..errors import (
    BasinError,
    CreatingFileWithoutBasinWarning,
    IgnoringBasinTypeWarning,
)
from ..format.basin import (
    BASIN_GROUP,
    FORMATS,
    MAX_MAPPINGS,
    Basin,
    basin_lines,
    parse_basin,
)
from ..format.features import as_mapping, is_basinmap, to_stored
from ..format.identifier import (
    identifier_from_attributes,
    identifier_of_selection,
    readers_agree,
)
from ..format.text import encode_lines
from .basin_plans import Part, plan_copy
from .hdf5 import (
    content_errors,
    open_for_reading,
    own_item,
    read_whole,
    require_open,
    storage_errors,
)
from .objects import copy_object
from .whole_file import refuse_same_file, whole_file

if TYPE_CHECKING:
    from .writer import HDF5Writer

__all__ = [
    "copy_basins",
    "create_with_basins",
    "describe_basin",
    "get_measurement_identifier",
    "list_basins",
    "scan_basins",
    "store_basin",
]


def get_measurement_identifier(h5: h5py.Group) -> str | None:
    """Identifier of the measurement in an open file.

    Parameters
    ----------
    h5
        The open file.

    Returns
    -------
    str or None
        "experiment:run identifier", or a UUID made of time, date and setup; None without them.
    """
    return identifier_from_attributes(h5.attrs)


def list_basins(h5: h5py.File) -> list[tuple[str, Basin]]:
    """Names and descriptions of the basins of an open file, internal ones first.

    Raises
    ------
    BasinError
        A description cannot be understood.
    """
    found = []
    for key, basin in scan_basins(h5):
        if isinstance(basin, BasinError):
            raise basin
        found.append((key, basin))
    return found


def scan_basins(h5: h5py.File) -> list[tuple[str, Basin | BasinError]]:
    """As `list_basins`, with the error in place of a description that is not right."""
    found: list[tuple[str, Basin | BasinError]] = []
    with content_errors(h5.filename, "reading the basins"):
        group = own_item(h5, "basins")
        for key in group if isinstance(group, h5py.Group) else ():
            try:
                found.append((key, _read_basin(group, key)))
            except BasinError as exc:
                found.append((key, exc))
    return sorted(found, key=_search_order)


def _search_order(item: tuple[str, Basin | BasinError]) -> tuple[bool, str, str]:
    """Internal basins are searched first, then by name."""
    key, basin = item
    if isinstance(basin, BasinError):
        return True, "", key
    return basin.type != "internal", basin.name, key


def _read_basin(group: h5py.Group, key: str) -> Basin:
    where = f"basin '{key}' in '{group.file.filename}'"
    dset = own_item(group, key)
    if not isinstance(dset, h5py.Dataset) or dset.ndim > 1 or dset.dtype.kind not in "SO":
        raise BasinError(f"{where}: expected a dataset of text lines")
    if dset.size * max(1, dset.dtype.itemsize) > 64 * 1024**2:
        raise BasinError(f"{where}: expected a text, got {dset.size} lines")
    return parse_basin(np.atleast_1d(read_whole(dset)).tolist(), where)


@contextmanager
def _undo_on_error(writer: HDF5Writer, h5: h5py.File) -> Iterator[list[str]]:
    """Remove the listed paths, last first, if the block raises."""
    made: list[str] = []
    try:
        yield made
    except BaseException:
        for path in reversed(made) if not writer.has_failed else ():
            writer.forget(*path.split("/", 1))
            if path in h5:
                del h5[path]
        raise


def _reserve_mapping(events: h5py.Group, mapping: npt.NDArray[Any]) -> tuple[str, bool]:
    """Name of the mapping feature, and whether it has to be written."""
    for number in range(MAX_MAPPINGS):
        name = f"basinmap{number}"
        if name not in events:
            return name, True
        if np.array_equal(events[name][:], mapping):
            return name, False
    raise BasinError(
        f"'{events.file.filename}': expected at most {MAX_MAPPINGS} different mappings, and all "
        f"are used; copy the data of one basin into the file instead (nothing was written)"
    )


def store_basin(
    writer: HDF5Writer,
    *,
    name: str,
    paths: Sequence[str | Path] | str | Path | None,
    features: Sequence[str] | None,
    description: str | None,
    mapping: npt.ArrayLike | None,
    internal_data: Mapping[str, Any] | None,
    identifier: str | None,
    urls: Sequence[str] | None,
    basin_format: str | None,
    perishable: bool,
) -> str:
    """Check everything, then store mapping, internal data and description.

    See `HDF5Writer.store_basin`.
    """
    what = f"basin '{name}'"
    if isinstance(paths, (str, Path)):
        paths = [paths]
    if isinstance(urls, str):
        urls = [urls]
    given = [
        key
        for key, value in (("paths", paths), ("urls", urls), ("internal_data", internal_data))
        if value is not None
    ]
    if len(given) != 1 or not locals()[given[0]]:
        raise BasinError(
            f"{what}: expected exactly one of `paths`, `urls` and `internal_data`, and not empty; "
            f"got {given or 'none'}"
        )
    _require_texts(what, name, description, identifier, *(urls or ()))
    _require_features(what, features or ())
    _require_features(what, internal_data or ())
    n_source = None
    arrays: dict[str, Any] = {}
    if internal_data is not None:
        arrays, n_source = _check_internal(writer, what, internal_data, features, mapping)
        if identifier is not None:
            warnings.warn(
                f"{what}: not storing identifier '{identifier}', internal basins have none",
                stacklevel=3,
            )
    indices = None
    if mapping is not None:
        try:
            indices = as_mapping(mapping, n_source, f"{what}: mapping")
        except ValueError as exc:
            raise BasinError(str(exc)) from exc
    if internal_data is not None:
        basin = Basin(name, "internal", "h5dataset", (BASIN_GROUP,), tuple(sorted(arrays)))
    elif urls is not None:
        basin = Basin(name, "remote", basin_format or "http", tuple(urls), dclab_form=True)
    else:
        basin = Basin(name, "file", "hdf5", _path_texts(what, paths or ()))
    if basin_format is not None and basin_format not in FORMATS[basin.type]:
        raise BasinError(
            f"{what}: expected a format of {sorted(FORMATS[basin.type])} for type "
            f"'{basin.type}', got '{basin_format}'"
        )
    if basin.type != "internal":
        basin = replace(
            basin,
            features=None if features is None else tuple(features),
            identifier=identifier,
            perishable=perishable,
            dclab_form=basin.dclab_form or perishable,
        )
    return _put(writer, replace(basin, description=description), indices, arrays)


def _require_texts(what: str, name: object, *others: object) -> None:
    """Refuse what could be written as JSON, but not read as a description."""
    for value in (name, *(item for item in others if item is not None)):
        if not isinstance(value, str):
            raise BasinError(f"{what}: expected texts, got {value!r} ({type(value).__name__})")


def _require_features(what: str, features: Iterable[str]) -> None:
    """Refuse what no reader looks for in a basin."""
    if isinstance(features, str):
        raise BasinError(f"{what}: expected a list of features, got {features!r}; pass a list")
    _require_texts(what, "", *features)
    if taken := [feat for feat in features if is_basinmap(feat)]:
        raise BasinError(f"{what}: expected features, got mappings {taken}; leave them out")


def _path_texts(what: str, paths: Sequence[str | Path]) -> tuple[str, ...]:
    """Paths as texts."""
    for path in paths:
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise BasinError(f"{what}: expected paths, got {path!r} ({type(path).__name__})")
    return tuple(os.fspath(path) for path in paths)


def _check_internal(
    writer: HDF5Writer,
    what: str,
    internal_data: Mapping[str, Any],
    features: Sequence[str] | None,
    mapping: npt.ArrayLike | None,
) -> tuple[dict[str, Any], int]:
    """Arrays of an internal basin, and the number of events that all of them have."""
    if features is not None:
        raise BasinError(f"{what}: `features` must be set to None when storing internal data")
    if mapping is None:
        raise BasinError(
            f"{what}: expected a `mapping` with internal data, got None; pass, for each event, "
            f"the index into the internal data"
        )
    existing = writer.settled_file().get(BASIN_GROUP, {})
    arrays = {}
    for feat, data in internal_data.items():
        if feat in existing:
            raise BasinError(f"{what}: Feature '{feat}' is already defined as an internal basin")
        try:
            # datasets are read when they are written, not here
            arrays[feat] = data if isinstance(data, h5py.Dataset) else to_stored(feat, data)
        except ValueError as exc:
            raise BasinError(f"{what}: {exc}") from exc
    return arrays, min(len(array) for array in arrays.values())


def _put(
    writer: HDF5Writer,
    basin: Basin,
    indices: npt.NDArray[Any] | None,
    arrays: Mapping[str, Any],
    text: str | None = None,
) -> str:
    """Write mapping, internal data and description; all or nothing."""
    h5 = writer.settled_file()  # mappings that wait in memory are compared, too
    with (
        storage_errors(writer.path, f"writing basin '{basin.name}'"),
        _undo_on_error(writer, h5) as made,
    ):
        if indices is not None:
            name, is_new = _reserve_mapping(h5["events"], indices)
            if name != basin.mapping:
                basin, text = basin.with_mapping(name), None
            if is_new:
                made.append(f"events/{name}")
                writer.store_feature_chunk(name, indices)
        for feat, data in arrays.items():
            made.append(f"{BASIN_GROUP}/{feat}")
            if isinstance(data, (h5py.Dataset, h5py.Group)):
                target = h5.require_group(BASIN_GROUP)
                copy_object(data.parent, _base_name(data), target, feat)
            elif isinstance(data, Part):
                from .copying import copy_attributes  # noqa: PLC0415 - which uses the writer

                writer.store_feature_rows(feat, data.dset, data.rows, BASIN_GROUP)
                copy_attributes(data.dset, writer.settled_file()[BASIN_GROUP][feat])
            else:
                writer.store_feature_chunk(feat, data, group_name=BASIN_GROUP)
        return describe_basin(writer, basin, text, made)


def describe_basin(
    writer: HDF5Writer, basin: Basin, text: str | None = None, made: list[str] | None = None
) -> str:
    """Store a description whose mapping and data are in the file; returns its name."""
    key, lines = basin_lines(text or basin.to_text(), has_dclab_keys=basin.has_dclab_keys)
    group = writer.settled_file().require_group("basins")
    if key not in group:
        if made is not None:
            made.append(f"basins/{key}")
        text_lines = encode_lines(lines, f"basin '{basin.name}'")
        dset = group.create_dataset(key, data=text_lines, **writer.text_kwds)
        writer.flush_dataset(dset)
    return key


def _base_name(item: h5py.Dataset | h5py.Group) -> str:
    return str(item.name).rsplit("/", 1)[1]


def copy_basins(
    h5_src: h5py.File,
    h5_dst: h5py.File,
    internal_basins: bool = True,
    *,
    rows: npt.ArrayLike | None = None,
    keys: Container[str] | None = None,
) -> list[Basin]:
    """Copy basins with their mappings and internal data.

    Mappings get the next free name in the output. A relative path that leads to a file from the
    folder of the source, but not from that of the output, gets the absolute path beside it.

    Parameters
    ----------
    h5_src
        File whose basins are copied.
    h5_dst
        File that is open for writing.
    internal_basins
        Whether internal basins are copied.
    rows
        Events of the source that the output has, shape (n,), in any order, with repeats: each
        mapping is composed with them, and internal data are cut down to what is used. None: the
        output has the same events.
    keys
        Names of the datasets of those basins that are copied; None: all.

    Returns
    -------
    list of Basin
        Basins that cannot be kept for other events, and were left out: those of chopped images,
        which have no mapping.

    Raises
    ------
    BasinError
        A basin is not right, or does not fit; of that basin nothing was written.

    Warns
    -----
    IgnoringBasinTypeWarning
        A basin's type is not known.
    """
    from .writer import HDF5Writer  # noqa: PLC0415 - the writer itself uses this module

    require_open(h5_src)
    require_open(h5_dst, writable=True)
    selected = None if rows is None else as_mapping(rows, None, "rows").astype(np.intp)
    plans, left_out = [], []
    # in the order of their keys, so that mappings get the numbers that dcnum would give them
    for key, basin in sorted(scan_basins(h5_src), key=lambda item: item[0]):
        if keys is not None and key not in keys:
            continue
        if isinstance(basin, BasinError):
            raise basin
        if basin.type not in FORMATS or basin.format not in FORMATS[basin.type]:
            warnings.warn(
                f"Ignored basin '{basin.name}' of type '{basin.type}', format '{basin.format}'",
                IgnoringBasinTypeWarning,
                stacklevel=2,
            )
        elif basin.format == "h5datasetchop" and selected is not None:
            left_out.append(basin)
        elif basin.type != "internal" or internal_basins:
            with content_errors(h5_src.filename, f"reading basin '{basin.name}'"):
                plans.append(plan_copy(h5_src, h5_dst, key, basin, selected))
    with HDF5Writer(h5_dst) as writer:
        for plan in plans:
            _put(writer, plan.basin, plan.indices, plan.arrays, plan.text)
    return left_out


def create_with_basins(
    path_out: str | Path,
    basin_paths: Sequence[str | Path] | Sequence[Sequence[str | Path]],
    *,
    features: Sequence[Sequence[str] | None] | None = None,
    mapping: npt.ArrayLike | None = None,
    overwrite: bool = False,
    finish: Callable[[HDF5Writer], object] | None = None,
) -> None:
    """Create a file that refers to other recordings.

    Metadata, logs and tables of the basins are copied (the first one that has a key wins), and so
    are the basins of the basins.

    Parameters
    ----------
    path_out
        The file to create; it appears when it is complete.
    basin_paths
        One path per basin, or one list of paths per basin (for instance relative and absolute).
        Relative paths are relative to the folder of `path_out`.
    features
        For each basin the features that it provides, and no others: the basins of that basin are
        not copied then. None: all that it has.
    mapping
        For each event of the output the event of the basins, shape (n,); the event count and the
        measurement identifier are those of such a selection. None: the same events.
    overwrite
        Whether to replace an existing file.
    finish
        Called with the open writer before the file gets its name.

    Raises
    ------
    UsageError
        `path_out` is one of the basins.
    DataError
        `features` or `mapping` do not fit.
    StorageError
        The output exists already, or the disk refuses.

    Warns
    -----
    CreatingFileWithoutBasinWarning
        `basin_paths` is empty.
    """
    from .copying import copy_metadata  # noqa: PLC0415 - copying uses the writer
    from .writer import HDF5Writer  # noqa: PLC0415

    path_out = Path(path_out)
    if not basin_paths:
        warnings.warn(
            f"'{path_out}' is created without any basin: `basin_paths` is empty",
            CreatingFileWithoutBasinWarning,
            stacklevel=2,
        )
    groups = _location_groups(path_out, basin_paths)
    wanted = [None] * len(groups) if features is None else list(features)
    if len(wanted) != len(groups):
        raise BasinError(
            f"'{path_out}': expected a list of features for each of the {len(groups)} basins, got "
            f"{len(wanted)}"
        )
    rows = None if mapping is None else as_mapping(mapping, None, f"'{path_out}': mapping")
    folder = path_out.parent
    refuse_same_file(path_out, [folder / path for group in groups for path in group])
    with (
        whole_file(path_out, overwrite=overwrite) as temporary,
        HDF5Writer(temporary, mode="x") as writer,
    ):
        for locations, provided in zip(groups, wanted, strict=True):
            found = next((folder / p for p in locations if (folder / p).exists()), None)
            identifier, name = None, str(locations[0])
            if found is not None:
                with open_for_reading(found) as h5:
                    copy_metadata(h5_src=h5, h5_dst=writer.h5)
                    if provided is None:
                        copy_basins(h5, writer.h5, internal_basins=False, rows=rows)
                        provided = _provided_features(h5)  # noqa: PLW2901 - what it has
                    if readers_agree(h5.attrs):  # with another one, a reader refuses the basin
                        identifier = get_measurement_identifier(h5)
                name = found.name
            writer.store_basin(
                name=name,
                paths=locations,
                features=provided,
                description=f"Created by dcwrite {__version__}",
                mapping=rows,
                identifier=identifier,
            )
        if rows is not None:
            writer.store_metadata({"experiment:event count": len(rows)})
            whole = get_measurement_identifier(writer.h5)
            if (identifier := identifier_of_selection(whole, rows)) is not None:
                writer.store_metadata({"experiment:run identifier": identifier})
        if finish is not None:
            finish(writer)


def _location_groups(
    path_out: Path, basin_paths: Sequence[str | Path] | Sequence[Sequence[str | Path]]
) -> list[list[str | Path]]:
    """For each basin the list of its locations."""
    if isinstance(basin_paths, (str, Path)):
        basin_paths = [basin_paths]
    groups: list[list[str | Path]] = [
        list(item) if isinstance(item, Sequence) and not isinstance(item, str) else [item]
        for item in basin_paths
    ]
    for number, group in enumerate(groups):
        if not _path_texts(f"'{path_out}', basin {number}", group):
            raise BasinError(f"'{path_out}', basin {number}: expected at least one path, got none")
    return groups


def _provided_features(h5: h5py.File) -> list[str]:
    """Features that a file provides as a basin: its own and those of its internal basins."""
    groups = [own_item(h5, "events"), own_item(h5, BASIN_GROUP)]
    names = {name for group in groups if isinstance(group, h5py.Group) for name in group}
    return sorted(name for name in names if isinstance(name, str) and not is_basinmap(name))
