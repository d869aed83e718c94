"""Compress, copy, split and join of dcwrite on what dclab's and dcnum's own writers have made."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest

import dcwrite
from tests.peer.interop_programs import raw_recording, run_pipeline
from tests.peer.judge import PEER_REASON, basin_dicts

dclab = pytest.importorskip("dclab", reason=PEER_REASON)
pytest.importorskip("dcnum", reason=PEER_REASON)

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:Ignored basin of format:UserWarning"),
    # dclab takes two files that refer to the same third one in the same words for a circle
    pytest.mark.filterwarnings("ignore:Encountered cyclic basin dependency"),
    pytest.mark.leaks_allowed(
        reason="in debug mode dcnum leaves the feeder threads of its queues to the interpreter"
    ),
]

N_EVENTS = 47
LOG = ["first line", "größer"]


def by_dclab(path: Path) -> Path:
    """Make a recording with all that `RTDCWriter` can store, basins of all kinds included."""
    rng = np.random.default_rng(8)
    raw = raw_recording(path.with_name("for_metadata.rtdc"), frames=N_EVENTS)
    with h5py.File(raw) as h5:
        metadata: dict[str, dict[str, Any]] = {}
        for key, value in h5.attrs.items():
            section, name = key.split(":")
            metadata.setdefault(section, {})[name] = value
    metadata["fluorescence"] = {"samples per event": 12, "sample rate": 1e6}
    origin = path.with_name("origin.rtdc")
    images = rng.integers(0, 255, (N_EVENTS, 40, 80), np.uint8)
    with dclab.RTDCWriter(origin, mode="reset") as writer:
        writer.store_metadata(metadata)
        writer.store_feature("index", np.arange(1, N_EVENTS + 1))
        writer.store_feature("bright_avg", rng.random(N_EVENTS))
        writer.store_feature("userdef2", rng.random(N_EVENTS))
    scalars = {"deform": rng.random(N_EVENTS), "area_um": rng.random(N_EVENTS) * 90}
    scalars |= {"time": np.arange(N_EVENTS) / 300, "frame": np.arange(N_EVENTS) + 9.0}
    scalars |= {"index": np.arange(1, N_EVENTS + 1), "userdef1": np.full(N_EVENTS, np.nan)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with dclab.RTDCWriter(path, mode="reset") as writer:
            writer.store_metadata(metadata)
            for feat, values in scalars.items():
                writer.store_feature(feat, values)
            writer.store_feature("image", images)
            writer.store_feature("mask", images > 100)
            traces = {name: rng.integers(-9, 9, (N_EVENTS, 12)) for name in ("fl1_raw", "fl2_raw")}
            writer.store_feature("trace", traces)
            contours = [rng.integers(0, 40, (4 + i % 5, 2)) for i in range(N_EVENTS)]
            writer.store_feature("contour", contours)
            writer.store_log("notes", LOG)
            writer.store_table("numbers", {"a": np.arange(3.0), "b": np.ones(3)})
            writer.store_basin(
                "the origin", "file", "hdf5", [origin.name], basin_feats=["bright_avg"],
                verify=False,  # dclab would look for it in the working folder
            )  # fmt: skip
            writer.store_basin(
                "turned round", "file", "hdf5", [str(origin)], basin_feats=["userdef2"],
                basin_map=np.arange(N_EVENTS)[::-1].copy(),
            )  # fmt: skip
            writer.store_basin(
                "backgrounds", "internal", "h5dataset", ["basin_events"],
                basin_feats=["image_bg"], internal_data={"image_bg": images[:3]},
                basin_map=np.arange(N_EVENTS) // 16,
            )  # fmt: skip
            writer.store_basin(
                "far away", "remote", "http", ["https://example.org/x"], verify=False,
                basin_feats=["userdef5"],
            )  # fmt: skip
    return path


def by_dcnum(path: Path, strategy: str) -> Path:
    """Let dcnum's pipeline make one, with its own writer."""
    raw = raw_recording(path.with_name(f"raw_{strategy}.rtdc"))
    runner = run_pipeline(raw, path, basin_strategy=strategy)
    assert runner.state == "done", runner.error_tb
    return path


MAKERS: dict[str, Callable[[Path], Path]] = {
    "dclab": by_dclab,
    "dcnum-drain": lambda path: by_dcnum(path, "drain"),
    "dcnum-tap": lambda path: by_dcnum(path, "tap"),
}


@pytest.fixture(scope="module", params=MAKERS)
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recording of theirs; it must not be changed."""
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param) / "theirs.rtdc")


class Content(NamedTuple):
    """What dclab reads."""

    features: dict[str, Any]
    logs: dict[str, list[str]]
    tables: dict[str, Any]


def content(path: Path) -> Content:
    with dclab.new_dataset(path) as ds:
        features: dict[str, Any] = {}
        for feat in sorted({*ds.features_innate, *ds.features_basin}):
            if feat.startswith("basinmap"):
                continue  # how basins are stored, which a tool may choose
            if feat == "contour":
                features[feat] = [np.asarray(ds[feat][i]) for i in range(len(ds))]
            elif feat == "trace":
                for name in ds[feat]:
                    features[f"trace/{name}"] = np.asarray(ds[feat][name][:])
            else:
                features[feat] = np.asarray(ds[feat][:])
        logs = {name: list(ds.logs[name]) for name in ds.logs}
        tables = {name: np.asarray(ds.tables[name][:]) for name in ds.tables}
    return Content(features, logs, tables)


def problems(path: Path) -> set[str]:
    """Give what dclab's check finds, without numbers, and the names that join gives to logs."""
    violations, alerts, _ = dclab.rtdc_dataset.check.check_dataset(path)
    texts = {"".join(c for c in text if not c.isdigit()) for text in (*violations, *alerts)}
    return {text.replace("src-#_", "") for text in texts}


def assert_same(
    path: Path, path_in: Path, rows: slice = slice(None), *, but: Sequence[str] = ()
) -> None:
    """All of a recording, or of some of its events; nothing that dclab did not find before."""
    got, expected = content(path), content(path_in)
    assert got.features.keys() == expected.features.keys()
    for feat, values in expected.features.items():
        if feat in but:
            continue
        if feat == "contour":
            pairs = zip(got.features[feat], values[rows], strict=True)
            assert all(np.array_equal(*pair) for pair in pairs)
        else:
            assert got.features[feat].dtype == values.dtype, feat
            np.testing.assert_array_equal(got.features[feat], values[rows], feat)
    for name, lines in expected.logs.items():
        assert got.logs[name] == lines
    for name, table in expected.tables.items():
        np.testing.assert_array_equal(got.tables[name], table, name)
    assert problems(path) <= problems(path_in)
    report = dcwrite.verify(path)
    assert report.exit_code == 0, report.findings


def remote_basins(path: Path) -> list[dict[str, Any]]:
    return [found for found in basin_dicts(path).values() if found["type"] == "remote"]


def test_compress(tmp_path: Path, theirs: Path) -> None:
    folder = shutil.copytree(theirs.parent, tmp_path / "there")
    before = theirs.read_bytes()
    path = folder / "compressed.rtdc"  # beside the input: relative basins lead to the same files
    summary = dcwrite.compress(folder / theirs.name, path, force=True)
    assert summary.action == "compressed"
    assert_same(path, folder / theirs.name)
    assert remote_basins(path) == remote_basins(theirs)
    assert (folder / theirs.name).read_bytes() == before


@pytest.mark.parametrize("basins", ["keep", "drain"])
def test_copy(tmp_path: Path, theirs: Path, basins: Any) -> None:
    folder = shutil.copytree(theirs.parent, tmp_path / "there")
    source, path = folder / theirs.name, folder / "copy.rtdc"
    dcwrite.copy_recording(source, path, basins=basins)
    assert_same(path, source)
    if basins == "drain":
        with dcwrite.Recording(path) as recording:
            assert {status.basin.type for status in recording.basins} <= {"remote"}
    assert remote_basins(path) == remote_basins(theirs)


def test_copy_of_some_events(tmp_path: Path, theirs: Path) -> None:
    folder = shutil.copytree(theirs.parent, tmp_path / "there")
    source, path = folder / theirs.name, folder / "copy.rtdc"
    dcwrite.copy_recording(source, path, events=slice(5, 40))
    assert_same(path, source, slice(5, 40), but=["index"])


@pytest.mark.parametrize("link", [False, True])
def test_split(tmp_path: Path, theirs: Path, link: bool) -> None:
    folder = shutil.copytree(theirs.parent, tmp_path / "there")
    source = folder / theirs.name
    summary = dcwrite.split(source, folder, events=20, link=link)
    assert len(summary.parts) > 2
    for number, part in enumerate(summary.parts):
        rows = slice(20 * number, 20 * (number + 1))
        assert_same(part.path, source, rows, but=["index"])


def test_join(tmp_path: Path, theirs: Path) -> None:
    folder = shutil.copytree(theirs.parent, tmp_path / "there")
    paths = [folder / theirs.name, Path(shutil.copyfile(theirs, folder / "second.rtdc"))]
    with h5py.File(paths[1], "a") as h5:
        h5.attrs["experiment:time"] = "23:59:58"
        h5.attrs["experiment:run identifier"] = "another measurement"
    path = folder / "joined.rtdc"
    dcwrite.join(paths, path, offsets="none")
    expected, got = content(theirs), content(path)
    assert got.features.keys() == expected.features.keys()
    n_events = len(expected.features["deform"])
    for part in (slice(0, n_events), slice(n_events, None)):
        for feat, values in expected.features.items():
            if feat == "contour":
                pairs = zip(got.features[feat][part], values, strict=True)
                assert all(np.array_equal(*pair) for pair in pairs)
            elif feat != "index":
                np.testing.assert_array_equal(got.features[feat][part], values, feat)
    for number in (1, 2):
        for name, lines in expected.logs.items():
            assert got.logs[f"src-#{number}_{name}"] == lines
    # identifiers of dcnum's pipeline and mapped features may not hold for two measurements
    assert problems(path) <= problems(theirs)
    report = dcwrite.verify(path)
    assert report.exit_code == 0, report.findings
