"""dclab's own programs on what dcwrite writes: streams of all kinds, join, split, compress."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dcwrite
from tests.peer.judge import PEER_REASON, recording, simulated_file

dclab = pytest.importorskip("dclab", reason=PEER_REASON)
cli: Any = pytest.importorskip("dclab.cli", reason=PEER_REASON)

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:Ignored basin of format:UserWarning"),
]

N_FRAMES = 50
FLUORESCENCE = {"fluorescence:samples per event": 20}
FEATURES = ("deform", "area_um", "frame", "time", "image", "image_bg", "mask")

#: Ways to write a stream; all give a recording like any other in the end.
WAYS: dict[str, dict[str, Any]] = {
    "in place": {"in_place": True},
    "live": {"live": True, "durability": "power"},
    "live level": {"compression": "live", "durability": "none"},
    "one background": {"dedup_background": True},
}


@functools.cache
def all_rows() -> dict[str, np.ndarray]:
    simulated = recording(frames=N_FRAMES)
    frames = [simulated.frame_events(frame) for frame in range(N_FRAMES)]
    found = [events for events in frames if events is not None]
    return {feat: np.concatenate([events[feat] for events in found]) for feat in FEATURES}


def rows(feat: str) -> np.ndarray:
    return all_rows()[feat]


def assert_dclab_reads(path: Path, order: slice | np.ndarray = slice(None)) -> None:
    with dclab.new_dataset(path) as ds:
        for feat in FEATURES:
            expected = rows(feat)[order]
            assert len(ds) == len(expected)
            assert np.array_equal(np.asarray(ds[feat][:]), expected), feat


@pytest.mark.parametrize("way", WAYS)
def test_streams(tmp_path: Path, way: str) -> None:
    path = simulated_file(tmp_path / "x.rtdc", recording(frames=N_FRAMES), **WAYS[way])
    violations, alerts, _ = dclab.rtdc_dataset.check.check_dataset(path)
    assert violations == []
    assert [alert for alert in alerts if "not compressed" not in alert] == []
    assert_dclab_reads(path)
    with dclab.new_dataset(path) as ds:
        assert ds.logs["simulation"][0] == "This recording is simulated."
        assert "complete" in "\n".join(ds.logs["dcwrite-stream"])
        assert ("image_bg" in ds.features_basin) == (way == "one background")


def add_groups(path: Path) -> Path:
    """Add an index, a trace and contours."""
    n_events = len(rows("deform"))
    rng = np.random.default_rng(4)
    with dcwrite.HDF5Writer(path, event_count=True) as writer:
        writer.store_feature_chunk("index", np.arange(1, n_events + 1))
        writer.store_feature_chunk(
            "trace", {"fl1_raw": rng.integers(-9, 9, (n_events, 20)).astype(np.int16)}
        )
        writer.store_feature_chunk(
            "contour", [rng.integers(0, 40, (4 + i % 5, 2)) for i in range(n_events)]
        )
    return path


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recording of ours, with a trace and contours; it must not be changed."""
    path = tmp_path_factory.mktemp("dclab") / "ours.rtdc"
    return add_groups(simulated_file(path, recording(frames=N_FRAMES), metadata=FLUORESCENCE))


def group_rows(path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    with dclab.new_dataset(path) as ds:
        trace = np.asarray(ds["trace"]["fl1_raw"][:])
        return trace, [np.asarray(ds["contour"][i]) for i in range(len(ds))]


def test_compress(tmp_path: Path) -> None:
    """A recording that is not compressed yet."""
    ours = simulated_file(
        tmp_path / "ours.rtdc",
        recording(frames=N_FRAMES),
        metadata=FLUORESCENCE,
        compression="none",
    )
    add_groups(ours)
    path = tmp_path / "compressed.rtdc"
    cli.compress(path_in=ours, path_out=path)
    assert_dclab_reads(path)
    trace, contours = group_rows(path)
    expected_trace, expected_contours = group_rows(ours)
    assert np.array_equal(trace, expected_trace)
    assert all(map(np.array_equal, contours, expected_contours))
    assert dcwrite.verify(path).exit_code == 0


def test_compress_leaves_ours_as_it_is(tmp_path: Path, ours: Path) -> None:
    """For dclab it is compressed as it should be."""
    path = tmp_path / "compressed.rtdc"
    cli.compress(path_in=ours, path_out=path)
    with h5py.File(path) as h5, h5py.File(ours) as h5_ours:
        for feat in ("image", "deform"):
            ids = h5["events"][feat].id, h5_ours["events"][feat].id
            assert ids[0].read_direct_chunk((0,) * ids[0].rank) == (
                ids[1].read_direct_chunk((0,) * ids[1].rank)
            ), feat


def test_split(tmp_path: Path, ours: Path) -> None:
    paths = cli.split(path_in=ours, path_out=tmp_path, split_events=30, ret_out_paths=True)
    n_events = len(rows("deform"))
    assert len(paths) == -(-n_events // 30)
    for number, path in enumerate(paths):
        assert_dclab_reads(path, slice(30 * number, min(n_events, 30 * number + 30)))


@pytest.mark.parametrize("ways", [("in place", "one background"), ("in place", "live")])
def test_join(tmp_path: Path, ways: tuple[str, str]) -> None:
    paths = [
        simulated_file(
            tmp_path / f"{number}.rtdc",
            recording(frames=N_FRAMES),
            metadata={"experiment:time": f"12:0{number}:00"},
            **WAYS[way],
        )
        for number, way in enumerate(ways)
    ]
    path = tmp_path / "joined.rtdc"
    cli.join(paths_in=paths, path_out=path)
    n_events = len(rows("deform"))
    with dclab.new_dataset(path) as ds:
        assert len(ds) == 2 * n_events
        for feat in ("deform", "area_um", "image", "mask", "image_bg"):
            expected = rows(feat)
            for part in (slice(0, n_events), slice(n_events, None)):
                assert np.array_equal(np.asarray(ds[feat][part]), expected), feat


@pytest.mark.parametrize("make", [cli.compress, cli.repack, cli.condense])
def test_our_copies_of_what_dclabs_programs_make(
    tmp_path: Path, ours: Path, make: Callable[..., Any]
) -> None:
    made, path = tmp_path / "made.rtdc", tmp_path / "copy.rtdc"
    make(path_in=ours, path_out=made)
    with h5py.File(made) as h5, h5py.File(path, "w") as h5_out:
        dcwrite.copy_metadata(h5, h5_out)
        dcwrite.copy_features(h5, h5_out, list(h5["events"]))
        dcwrite.copy_basins(h5, h5_out)
    with dclab.new_dataset(made) as expected, dclab.new_dataset(path) as ds:
        assert set(ds.features_innate) == set(expected.features_innate)
        for feat in expected.features_scalar:
            if feat in expected.features_innate:
                values = np.asarray(expected[feat][:])
                assert np.array_equal(np.asarray(ds[feat][:]), values, equal_nan=True), feat
        assert set(ds.logs) == set(expected.logs)
