"""dclab opens, checks and reads what dcwrite writes; dcnum reads it through basins."""

from __future__ import annotations

import functools
import multiprocessing
import queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dcwrite
from tests.peer.judge import PEER_REASON, basin_dicts, recording, simulated_file

dclab = pytest.importorskip("dclab", reason=PEER_REASON)
dcnum_read = pytest.importorskip("dcnum.read", reason=PEER_REASON)

pytestmark = [
    pytest.mark.peer,
    # dclab's check opens files without their basins, and warns of that
    pytest.mark.filterwarnings("ignore:Ignored basin of format:UserWarning"),
]

FLUORESCENCE = {
    "fluorescence:bit depth": 16,
    "fluorescence:channel 1 name": "FITC",
    "fluorescence:channel count": 1,
    "fluorescence:channels installed": 3,
    "fluorescence:laser 1 lambda": 488.0,
    "fluorescence:laser 1 power": 5.0,
    "fluorescence:laser count": 1,
    "fluorescence:lasers installed": 3,
    "fluorescence:sample rate": 312500,
    "fluorescence:samples per event": 20,
    "fluorescence:signal max": 1.0,
    "fluorescence:signal min": -1.0,
    "fluorescence:trace median": 21,
}


@functools.cache
def simulated_rows() -> dict[str, np.ndarray]:
    """All events of the simulated recording, by frame."""
    simulated = recording()
    frames = [simulated.frame_events(frame) for frame in range(len(simulated))]
    found = [events for events in frames if events is not None]
    return {feat: np.concatenate([events[feat] for events in found]) for feat in found[0]}


def with_fluorescence(n_events: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "fl1_max": rng.integers(1, 999, n_events).astype(np.uint32),
        "trace": {
            "fl1_raw": rng.integers(-9, 9, (n_events, 20)).astype(np.int16),
            "fl1_median": rng.integers(-9, 9, (n_events, 20)).astype(np.int16),
        },
        # one contour without points
        "contour": [
            rng.integers(0, 40, (number % 7, 2)).astype(np.uint16) for number in range(n_events)
        ],
    }


def problems(path: Path) -> tuple[list[str], list[str]]:
    """Violations and alerts of dclab's check."""
    violations, alerts, _ = dclab.rtdc_dataset.check.check_dataset(path)
    return violations, alerts


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[Any]:
    with dclab.rtdc_dataset.fmt_hdf5.RTDC_HDF5(path, **options) as ds:
        yield ds


def assert_dclab_reads(path: Path, expected: Mapping[str, Any]) -> None:
    with opened(path) as ds:
        n_events = len(ds)
        for feat, value in expected.items():
            if feat == "trace":
                for name, trace in value.items():
                    assert np.array_equal(ds["trace"][name][:], trace), name
            elif feat == "contour":
                assert len(ds["contour"]) == len(value)
                assert all(np.array_equal(ds["contour"][i], item) for i, item in enumerate(value))
            else:
                assert len(value) == n_events
                assert feat in ds, feat
                assert np.array_equal(ds[feat][:], value), feat


def test_stream(simulated_path: Path) -> None:
    assert problems(simulated_path) == ([], [])
    assert_dclab_reads(simulated_path, simulated_rows())


def test_stream_summaries(simulated_path: Path) -> None:
    """The summaries are what numpy gives for what dclab reads."""
    with h5py.File(simulated_path) as h5:
        summaries = {feat: dict(dset.attrs) for feat, dset in h5["events"].items()}
    with opened(simulated_path) as ds:
        for feat in set(ds.features_scalar) & set(summaries):
            attrs, values = summaries[feat], ds[feat][:]
            assert attrs["min"] == np.nanmin(values)
            assert attrs["max"] == np.nanmax(values)
            assert attrs["mean"] == pytest.approx(np.nanmean(values), rel=1e-12)
        assert ds.config["experiment"]["event count"] == len(ds)


def test_frame_info_until_the_caller_has_made_it_a_mapping(tmp_path: Path) -> None:
    """`index_unmapped` is not for dclab: the caller replaces it, as dcnum's does."""
    path = simulated_file(tmp_path / "x.rtdc", frame_info=True)
    assert problems(path) == (["Features: Unknown key 'index_unmapped'"], [])
    with h5py.File(path, "a") as h5:
        h5["events/basinmap0"] = h5["events/index_unmapped"]
        del h5["events/index_unmapped"]
    assert problems(path) == ([], [])
    frames = simulated_rows()["frame"].astype(int)
    counts = recording().nevents()[frames]
    assert_dclab_reads(path, {**simulated_rows(), "nevents": counts, "basinmap0": frames})


def test_writer_with_traces_and_contours(tmp_path: Path) -> None:
    path = simulated_file(tmp_path / "x.rtdc", metadata=FLUORESCENCE)
    expected = with_fluorescence(len(simulated_rows()["deform"]))
    with dcwrite.HDF5Writer(path, event_count=True, scalar_attributes=True) as writer:
        for feat, data in expected.items():
            for rows in (slice(0, 100), slice(100, None)):
                writer.store_feature_chunk(
                    feat,
                    {k: v[rows] for k, v in data.items()} if feat == "trace" else data[rows],
                )
    assert problems(path) == ([], [])
    assert_dclab_reads(path, {**simulated_rows(), **expected})


def test_stream_with_traces_and_contours(tmp_path: Path) -> None:
    simulated = recording(frames=150)
    counts = simulated.nevents()
    expected = with_fluorescence(int(counts.sum()))
    stops = np.cumsum(counts)
    items: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for frame in reversed(range(len(simulated))):
        events: dict[str, Any] | None = simulated.frame_events(frame)
        if events is not None:
            rows = slice(stops[frame] - counts[frame], stops[frame])
            events["fl1_max"] = expected["fl1_max"][rows]
            events["trace"] = {name: data[rows] for name, data in expected["trace"].items()}
            events["contour"] = expected["contour"][rows]
            items.put((frame, events))
    path = tmp_path / "x.rtdc"
    dcwrite.QueueWriterThread(
        items,
        multiprocessing.get_context("spawn").Value("L", 0),
        counts,
        path,
        write_threshold=17,
        frame_info=False,
        event_count=True,
        scalar_attributes=True,
    ).run()
    with dcwrite.HDF5Writer(path) as writer:
        writer.store_metadata({**simulated.metadata(), **FLUORESCENCE})
    assert problems(path) == ([], [])
    assert_dclab_reads(path, expected)


@pytest.mark.parametrize("form", ["relative", "absolute", "both"])
def test_file_of_basins(tmp_path: Path, simulated_path: Path, form: str) -> None:
    (tmp_path / "data").mkdir()
    basin = tmp_path / "data" / "basin.rtdc"
    basin.write_bytes(simulated_path.read_bytes())
    locations = {
        "relative": ["data/basin.rtdc"],
        "absolute": [basin],
        "both": [["data/nowhere.rtdc", basin]],
    }
    path = tmp_path / "x.rtdc"
    dcwrite.create_with_basins(path, locations[form])
    assert problems(path) == ([], [])
    assert_dclab_reads(path, simulated_rows())
    assert_dcnum_reads(path, simulated_rows())


@pytest.mark.parametrize("key", ["experiment:run identifier", "setup:identifier"])
def test_file_of_basins_with_attributes_of_bytes(
    tmp_path: Path, simulated_path: Path, key: str
) -> None:
    """Of these dclab and dcnum make different identifiers, and both have to open the basin."""
    basin, path = tmp_path / "basin.rtdc", tmp_path / "x.rtdc"
    basin.write_bytes(simulated_path.read_bytes())
    with h5py.File(basin, "a") as h5:
        h5.attrs[key] = np.bytes_("name")
    dcwrite.create_with_basins(path, [basin])
    expected = {feat: simulated_rows()[feat] for feat in ("deform", "image", "mask")}
    assert_dclab_reads(path, expected)
    assert_dcnum_reads(path, expected)


MAPPING = np.array([5, 5, 0, 310, 12, 11, 10, 200], dtype=np.int64)


def assert_dcnum_reads(path: Path, expected: Mapping[str, np.ndarray]) -> None:
    with dcnum_read.HDF5Data(path) as data:
        assert set(expected) <= set(data.keys())
        for feat, value in expected.items():
            if value.ndim == 1:
                assert np.array_equal(data[feat][:], value), feat
            else:
                images = data.get_image_cache(feat)
                assert np.array_equal([images[i] for i in range(len(value))], value), feat


def metadata_of(simulated_path: Path, path: Path) -> None:
    with h5py.File(simulated_path) as source, h5py.File(path, "a") as h5:
        dcwrite.copy_metadata(source, h5)


def test_mapped_file_basin(tmp_path: Path, simulated_path: Path) -> None:
    path = tmp_path / "x.rtdc"
    basin = tmp_path / "basin.rtdc"
    basin.write_bytes(simulated_path.read_bytes())
    features = sorted(simulated_rows())
    with h5py.File(basin) as h5:
        identifier = dcwrite.get_measurement_identifier(h5)
    with dcwrite.HDF5Writer(path) as writer:
        writer.store_basin(
            "mapped", [basin], features, "chosen events", MAPPING, identifier=identifier
        )
        writer.store_feature_chunk("userdef1", np.arange(8.0))
    metadata_of(simulated_path, path)
    expected = {feat: rows[MAPPING] for feat, rows in simulated_rows().items()}
    expected["userdef1"] = np.arange(8.0)
    assert problems(path) == ([], [])
    assert_dclab_reads(path, expected)
    assert_dcnum_reads(path, expected)


def test_internal_basin(tmp_path: Path, simulated_path: Path) -> None:
    """Background images are stored once for many events."""
    path = tmp_path / "x.rtdc"
    rows = simulated_rows()
    mapping = np.array([0, 0, 1, 1, 1, 0, 2, 2])
    with dcwrite.HDF5Writer(path, event_count=True) as writer:
        for feat in ("deform", "area_um", "image", "mask", "frame", "time"):
            writer.store_feature_chunk(feat, rows[feat][:8])
        writer.store_basin(
            "background",
            mapping=mapping,
            internal_data={"image_bg": rows["image_bg"][:3], "temp": rows["temp"][:3]},
        )
    metadata_of(simulated_path, path)
    expected = {"image_bg": rows["image_bg"][mapping], "temp": rows["temp"][mapping]}
    expected["deform"] = rows["deform"][:8]
    assert problems(path) == ([], [])
    assert_dclab_reads(path, expected)
    assert_dcnum_reads(path, expected)


@pytest.mark.parametrize("basin_format", ["http", "s3", "dcor"])
def test_remote_basin_is_listed(tmp_path: Path, simulated_path: Path, basin_format: str) -> None:
    """No URL is opened here."""
    path = tmp_path / "x.rtdc"
    path.write_bytes(simulated_path.read_bytes())
    url = "https://example.invalid/data.rtdc"
    with dcwrite.HDF5Writer(path) as writer:
        key = writer.store_basin(
            "remote",
            urls=[url],
            features=["userdef2", "userdef1"],
            basin_format=basin_format,
            identifier="id-7",
            mapping=np.zeros(len(writer.h5["events/deform"]), dtype=int),
            perishable=True,
        )
    with opened(path, enable_basins=False) as ds:
        (found,) = ds.basins_get_dicts()
    assert found == {
        "key": key,
        "name": "remote",
        "description": None,
        "type": "remote",
        "format": basin_format,
        "urls": [url],
        "features": ["userdef1", "userdef2"],
        "mapping": "basinmap0",
        "identifier": "id-7",
        "perishable": True,
    }
    assert list(basin_dicts(path)) == [key]


# real recordings have metadata of types and values that dclab does not expect
@pytest.mark.filterwarnings("ignore:Type of configuration key:UserWarning")
@pytest.mark.filterwarnings("ignore:Empty value for:UserWarning")
@pytest.mark.filterwarnings("ignore:Unknown key:UserWarning")
@pytest.mark.parametrize("mapped", [False, True])
def test_copies_have_no_problem_that_the_input_had_not(
    tmp_path: Path, source: Path, mapped: bool
) -> None:
    path = tmp_path / "copy.rtdc"
    with h5py.File(source) as h5, h5py.File(path, "w") as h5_out:
        features = list(h5["events"])
        lengths = {len(h5["events"][f]) for f in features if f != "trace"}
        mapping = np.arange(min(lengths)) if mapped and len(lengths) == 1 else None
        dcwrite.copy_metadata(h5, h5_out)
        dcwrite.copy_features(h5, h5_out, features, mapping=mapping)
    if min(lengths):  # dclab's check raises ValueError for an empty recording
        for found, known in zip(problems(path), problems(source), strict=True):
            assert set(found) <= set(known)
    with opened(source) as ds, opened(path) as ds_copy:
        assert ds.features_innate == ds_copy.features_innate
        for feat in ds.features_scalar:
            if feat in ds.features_innate:
                assert np.array_equal(ds[feat][:], ds_copy[feat][:], equal_nan=True), feat
        for feat in {"image", "mask", "image_bg"} & set(ds.features_innate):
            assert np.array_equal(ds[feat][:], ds_copy[feat][:]), feat
        has_trace = "trace" in ds.features_innate
        for name in ds["trace"] if has_trace else ():
            assert np.array_equal(ds["trace"][name][:], ds_copy["trace"][name][:]), name
        for index in range(len(ds["contour"]) if "contour" in ds.features_innate else 0):
            assert np.array_equal(ds["contour"][index], ds_copy["contour"][index])


def test_a_recording_that_dclab_holds_open_is_read(tmp_path: Path) -> None:
    """dclab opens files without HDF5's locks, and HDF5 wants one way in one process."""
    path = tmp_path / "x.rtdc"
    with dcwrite.HDF5Writer(path) as writer:
        writer.store_feature_chunk("deform", np.linspace(0, 1, 9))
        writer.store_metadata({"experiment:event count": 9})
    with dclab.new_dataset(path) as theirs, dcwrite.Recording(path) as ours:
        assert np.array_equal(theirs["deform"][:], ours["deform"][:])
    for locking in (None, True, "best-effort"):
        with h5py.File(path, "r", locking=locking) as theirs, dcwrite.Recording(path) as ours:
            assert np.array_equal(theirs["events/deform"][:], ours["deform"][:])
