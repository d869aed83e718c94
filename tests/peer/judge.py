"""What the judges share: the content of an HDF5 file, read by plain h5py, and sample recordings.

Alone here: what counts as equal (dtypes, shapes, chunks, filters with parameters, attributes,
values). Invariant: nothing of dcwrite is used to read.
"""

from __future__ import annotations

import json
import multiprocessing
import queue
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import hdf5plugin  # noqa: F401 - h5py needs it to read compressed data
import numpy as np

import dcwrite
from dcwrite.simulate import SimulatedRecording, SimulationSettings

__all__ = [
    "PEER_REASON",
    "DatasetMakeUp",
    "assert_same_content",
    "assert_same_make_up",
    "attributes",
    "basin_dicts",
    "content",
    "recording",
    "simulated_file",
]

PEER_REASON = "needs dclab and dcnum (extra `peer`)"

#: Up to three events in a frame; three chunks of images.
SETTINGS = SimulationSettings(image_shape=(40, 160), frames=300, events_per_frame=1.4, seed=3)


class DatasetMakeUp(NamedTuple):
    """All of a dataset but its values and attributes."""

    dtype: str
    shape: tuple[int, ...]
    maxshape: tuple[int | None, ...]
    chunks: tuple[int, ...] | None
    filters: tuple[tuple[int, int, tuple[int, ...]], ...]

    @classmethod
    def of(cls, dset: h5py.Dataset) -> DatasetMakeUp:
        """Read it from the file."""
        plist = dset.id.get_create_plist()
        filters = tuple(plist.get_filter(number)[:3] for number in range(plist.get_nfilters()))
        return cls(repr(dset.dtype), dset.shape, dset.maxshape, dset.chunks, filters)


def attributes(item: h5py.Group | h5py.Dataset) -> dict[str, tuple[str, Any]]:
    """Name to dtype and value."""
    found = {}
    for name, value in item.attrs.items():
        array = np.asarray(value)
        found[name] = (array.dtype.str, array.tolist())
    return found


def content(h5: h5py.File) -> dict[str, h5py.Group | h5py.Dataset]:
    """Every object of an open file by its path, the root as ``"/"``."""
    found: dict[str, Any] = {"/": h5}
    h5.visititems(found.__setitem__)
    return found


def _same_attributes(ours: Any, theirs: Any, ignored: frozenset[str], where: str) -> None:
    got, expected = attributes(ours), attributes(theirs)
    for name in ignored:
        got.pop(name, None)
        expected.pop(name, None)
    # text: nan does not equal itself
    assert repr(sorted(got.items())) == repr(sorted(expected.items())), where


def assert_same_make_up(
    ours: h5py.Dataset, theirs: h5py.Dataset, ignored_attributes: Iterable[str] = ()
) -> None:
    """Compare dtype, shape, chunks, filters, attributes and values of two datasets."""
    assert DatasetMakeUp.of(ours) == DatasetMakeUp.of(theirs), ours.name
    _same_attributes(ours, theirs, frozenset(ignored_attributes), str(ours.name))
    np.testing.assert_array_equal(ours[()], theirs[()], err_msg=str(ours.name))


def assert_same_content(
    path: Path,
    path_expected: Path,
    *,
    ignored_attributes: Iterable[str] = (),
    ignored_groups: Iterable[str] = (),
) -> None:
    """Compare two files, object by object."""
    ignored = frozenset(ignored_attributes)
    with h5py.File(path) as h5, h5py.File(path_expected) as h5_expected:
        got, expected = content(h5), content(h5_expected)
        for group in ignored_groups:
            for found in (got, expected):
                for name in [name for name in found if name.split("/")[0] == group]:
                    del found[name]
        assert sorted(got) == sorted(expected)
        for name, item in expected.items():
            assert type(got[name]) is type(item), name
            if isinstance(item, h5py.Dataset):
                assert_same_make_up(got[name], item, ignored)
            else:
                _same_attributes(got[name], item, ignored, name)


def basin_dicts(path: Path) -> dict[str, dict[str, Any]]:
    """Basins of a file by the name of their dataset."""
    with h5py.File(path) as h5:
        return {
            key: json.loads(b"\n".join(dset[()].tolist()))
            for key, dset in h5.get("basins", {}).items()
        }


def recording(**changes: Any) -> SimulatedRecording:
    """A small simulated recording."""
    settings = {**SETTINGS.__dict__, **changes}
    return SimulatedRecording(SimulationSettings(**settings))


def simulated_file(
    path: Path,
    simulated: SimulatedRecording | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write a recording through the stream, complete with metadata and logs.

    Frames go in backwards, so that the stream has to sort all of them.
    """
    simulated = simulated or recording()
    frames: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for frame in reversed(range(len(simulated))):
        events = simulated.frame_events(frame)
        if events is not None:
            frames.put((frame, events))
    size = multiprocessing.get_context("spawn").Value("L", 0)
    options = {"event_count": True, "scalar_attributes": True, "frame_info": False, **options}
    writer = dcwrite.QueueWriterThread(
        frames, size, simulated.nevents(), path, write_threshold=60, **options
    )
    writer.run()
    with dcwrite.HDF5Writer(path) as hw:
        hw.store_metadata({**simulated.metadata(), **(metadata or {})})
        for name, lines in simulated.logs().items():
            hw.store_log(name, lines)
    return path
