"""Replay: what a recording holds is what comes out, in whatever order the workers deliver."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcwrite import (
    EventError,
    HDF5Writer,
    Recording,
    RecordingError,
    StallError,
    StorageError,
    UnsupportedFeatureError,
    UsageError,
    WriterDiedError,
    verify,
)
from dcwrite.simulate import SimulatedRecording, SimulationSettings
from dcwrite.tools.compare import compare
from dcwrite.tools.progress import Clock, Progress
from dcwrite.tools.replay import frame_starts, replay
from dcwrite.tools.workers import write_frames

#: Real recordings that are consistent.
CONSISTENT = [
    "fmt-hdf5_cytoshot_full-features_2023",
    "fmt-hdf5_fl_2018",
    "fmt-hdf5_fl_wide-channel_2023",
    "fmt-hdf5_shapein_empty",
    "fmt-hdf5_shapein_raw-with-variable-length-logs",
]


def fill(path: Path, n_frames: int = 60) -> Path:
    """A recording with everything that a replay has to carry over."""
    simulated = SimulatedRecording(
        SimulationSettings(frames=n_frames, image_shape=(32, 192), events_per_frame=0.8)
    )
    frames = [events for n in range(n_frames) if (events := simulated.frame_events(n))]
    n_events = sum(len(events["deform"]) for events in frames)
    rng = np.random.default_rng(3)
    with HDF5Writer(path, mode="x", event_count=True) as writer:
        for events in frames:
            for feat, data in events.items():
                writer.store_feature_chunk(feat, data)
        for dtype in ("int8", "int64", "uint32", "float16", "float32", ">f8"):
            name = f"ml_score_{dtype.strip('>')}"
            writer.store_feature_chunk(name, rng.integers(0, 99, n_events).astype(dtype))
        writer.store_feature_chunk("flag", rng.random(n_events) < 0.5)
        writer.store_feature_chunk("userdef0", np.where(np.arange(n_events) % 3, 0.5, np.nan))
        writer.store_feature_chunk("nevents", np.ones(n_events, dtype=np.uint32))
        traces = rng.integers(-500, 500, (2, n_events, 30)).astype(np.int16)
        writer.store_feature_chunk("trace", {"fl1_raw": traces[0], "fl2_median": traces[1]})
        writer.store_feature_chunk(
            "contour", [rng.integers(0, 64, (5 + n % 7, 2)) for n in range(n_events)]
        )
        writer.store_metadata({**simulated.metadata(), "user:list": [1.5, 2.5], "user:no": False})
        writer.store_log("simulation", simulated.logs()["simulation"])
        writer.store_log("\u00b5", ["", "\u2713 \u2192", "z" * 200])
        writer.store_log("empty", [])
        writer.store_table("pressures", {"time": np.arange(4.0), "n": np.arange(4)})
        writer.store_basin(
            "light",
            internal_data={"userdef1": np.array([0.5, 0.25]), "userdef2": np.array([1, 2])},
            mapping=np.arange(n_events) % 2,
        )
        writer.store_basin("source", paths=["source.rtdc"], mapping=np.arange(n_events)[::-1])
        writer.store_basin("far", urls=["https://example.com/a.rtdc"], features=["area_cvx"])
        events = writer.h5["events"]
        events["deform"].attrs["min"] = -1.0  # kept as it is, right or wrong
        events["deform"].attrs["unit"] = ""
        events["image"].attrs["CLASS"] = np.bytes_(b"IMAGE")
        del events["image_bg"].attrs["CLASS"]
        events["trace/fl1_raw"].attrs["laser"] = np.array([488, 561], dtype=np.int16)
    return path


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a recording with everything; do not change it."""
    folder = tmp_path_factory.mktemp("everything")
    with HDF5Writer(folder / "source.rtdc") as writer:
        writer.store_feature_chunk("area_cvx", np.arange(500.0))
    return fill(folder / "in.rtdc")


def test_everything_comes_out(everything: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.rtdc"
    records: list[Progress] = []
    summary = replay(everything, out, workers=3, seed=1, progress=records.append)
    assert compare(everything, out) == []
    assert verify(out, basin_roots=[everything.parent]).findings == []
    with Recording(out, basin_roots=[everything.parent]) as recording:
        assert recording["mask"].dtype == bool
        assert set(np.unique(recording.h5["events/mask"])) <= {0, 255}
        assert recording.h5["events/mask"].dtype == np.uint8
        assert {"userdef1", "area_cvx"} <= set(recording.features)
        assert "CLASS" not in recording["image_bg"].attributes
        assert summary.n_events == len(recording)
        assert summary.n_features == len(recording.own_features)
    assert summary.n_frames < summary.n_events
    assert [path.name for path in tmp_path.iterdir()] == ["out.rtdc"]
    assert (records[0].current, records[-1].current) == (0, summary.n_events)
    assert records[-1].is_done
    assert all(record.queued is None or record.queued >= record.current for record in records)


@pytest.mark.parametrize(
    ("frame", "starts"),
    [
        (None, [0, 1, 2, 3]),
        ([5, 5, 9], [0, 2, 3]),
        ([7, 7, 7], [0, 3]),
        ([1, 2, 3], [0, 1, 2, 3]),
        ([1, 3, 2], [0, 1, 2, 3]),
        ([1.5, 1.5, 2.5], [0, 2, 3]),
        ([1, np.nan, 1], [0, 1, 2, 3]),
        (np.array([2**64 - 1] * 3, dtype=np.uint64), [0, 3]),
        (np.array([3, 2, 1], dtype=np.uint64), [0, 1, 2, 3]),
    ],
    ids=str,
)
def test_what_a_frame_is(frame: Any, starts: list[int]) -> None:
    assert frame_starts(frame, 3).tolist() == starts


def test_frames_of_nothing() -> None:
    assert frame_starts(None, 0).tolist() == [0]
    assert frame_starts([], 0).tolist() == [0]


@pytest.mark.parametrize("name", ["no events", "no features", "only empty groups"])
def test_recordings_without_events(tmp_path: Path, name: str) -> None:
    path, out = tmp_path / "in.rtdc", tmp_path / "out.rtdc"
    with HDF5Writer(path) as writer:
        writer.store_metadata({"experiment:event count": 0})
        if name == "no events":
            writer.require_feature("deform", (), np.float32)
            writer.require_feature("mask", (4, 4), bool)
            writer.require_feature("trace/fl1_raw", (10,), np.int16)
        elif name == "only empty groups":
            writer.h5.require_group("events/trace")
            writer.store_feature_chunk("contour", [])
    summary = replay(path, out)
    assert (summary.n_events, summary.n_frames) == (0, 0)
    assert compare(path, out) == []


@pytest.mark.parametrize("form", ["bool", "0/1"])  # 0/255 is in `everything`
def test_masks_of_other_forms(tmp_path: Path, form: str) -> None:
    path, out = tmp_path / "in.rtdc", tmp_path / "out.rtdc"
    mask = np.random.default_rng(5).random((6, 8, 9)) < 0.5
    with HDF5Writer(path) as writer:
        writer.h5["events/mask"] = mask if form == "bool" else mask.astype(np.uint8)
    replay(path, out, workers=1)
    assert compare(path, out) == []
    with Recording(out) as recording:
        assert np.array_equal(recording.h5["events/mask"][:], mask.astype(np.uint8) * 255)


@pytest.mark.parametrize("name", ["lengths", "event count", "a trace", "a contour"])
def test_inconsistent_recordings_are_refused(everything: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "in.rtdc"
    path.write_bytes(everything.read_bytes())
    with HDF5Writer(path) as writer:
        if name == "lengths":
            writer.store_feature_chunk("deform", [0.5])
        elif name == "event count":
            writer.store_metadata({"experiment:event count": 3})
        elif name == "a trace":
            writer.store_feature_chunk("trace/fl3_raw", np.zeros((2, 9)))
        else:
            writer.store_feature_chunk("contour", [np.zeros((3, 2))])
    with pytest.raises(RecordingError, match=r"in\.rtdc': expected all features to have \d+ ev"):
        replay(path, tmp_path / "out.rtdc")
    assert [item.name for item in tmp_path.iterdir()] == ["in.rtdc"]


def test_other_refusals(everything: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.rtdc"
    with pytest.raises(UsageError, match="1 to 64"):
        replay(everything, out, workers=0)
    with pytest.raises(UsageError, match="none of the inputs"):
        replay(everything, everything, overwrite=True)
    out.write_text("mine")
    with pytest.raises(StorageError, match="exists already"):
        replay(everything, out)
    assert out.read_text() == "mine"
    path = tmp_path / "group.rtdc"
    with HDF5Writer(path) as writer:
        writer.h5["events/other/one"] = np.zeros(3)
    with pytest.raises(UnsupportedFeatureError, match="'other': expected a dataset"):
        replay(path, out, overwrite=True)


def delete(name: str) -> Callable[[HDF5Writer], None]:
    def change(writer: HDF5Writer) -> None:
        del writer.h5[name]

    return change


def assign(name: str, value: Any) -> Callable[[HDF5Writer], None]:
    def change(writer: HDF5Writer) -> None:
        writer.h5[name][0] = value

    return change


def replace_by(name: str, convert: Callable[[Any], Any]) -> Callable[[HDF5Writer], None]:
    def change(writer: HDF5Writer) -> None:
        data = convert(writer.h5[name][()])
        del writer.h5[name]
        writer.h5[name] = data

    return change


def set_attribute(name: str, key: str, value: Any) -> Callable[[HDF5Writer], None]:
    def change(writer: HDF5Writer) -> None:
        writer.h5[name].attrs[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (delete("events/flag"), "feature 'flag': only in the first"),
        (assign("events/image", 3), "feature 'image': first difference at event 0"),
        (assign("events/userdef0", 1.0), "feature 'userdef0': first difference at event 0"),
        (
            replace_by("events/flag", lambda data: data[:-1]),
            "feature 'flag': dtype bool, shape",
        ),
        (
            replace_by("events/ml_score_float32", lambda data: data.astype("f8")),
            "feature 'ml_score_float32': dtype float32",
        ),
        (assign("events/trace/fl1_raw", 999), "feature 'trace/fl1_raw': first difference at"),
        (delete("events/trace/fl1_raw"), "feature 'trace', dataset 'fl1_raw': only in the first"),
        (assign("events/contour/4", 999), "feature 'contour': first difference at event 4"),
        (set_attribute("events/deform", "min", -2.0), "feature 'deform', attribute 'min': "),
        (set_attribute("events/deform", "x", 1), "feature 'deform', attribute 'x': only in the s"),
        (set_attribute("/", "setup:medium", "water"), "attribute 'setup:medium': "),
        (set_attribute("/", "user:no", 0), "attribute 'user:no': False and 0"),
        (set_attribute("/", "user:list", [1.5]), "attribute 'user:list': an array"),
        (assign("logs/simulation", b"other"), "log 'simulation': "),
        (delete("logs/empty"), "log 'empty': only in the first"),
        (delete("tables/pressures"), "table 'pressures': only in the first"),
        (replace_by("tables/pressures", lambda data: data[:2]), "table 'pressures': an array"),
        (assign("basin_events/userdef1", 7.0), "the data 'basin_events/userdef1' differ"),
        (delete("basin_events/userdef2"), "the data 'basin_events/userdef2' differ"),
        (delete("basins"), ": only in the first"),
    ],
)
def test_compare_finds_every_difference(
    everything: Path, tmp_path: Path, change: Callable[[HDF5Writer], None], difference: str
) -> None:
    path = tmp_path / "other.rtdc"
    path.write_bytes(everything.read_bytes())
    assert compare(everything, path) == []
    with HDF5Writer(path) as writer:
        change(writer)
    found = compare(everything, path)
    assert any(difference in line for line in found), found
    assert len(found) <= 3
    assert compare(path, everything)


class Source:
    """Frames for the tests of the processes; `fault` is what worker processes do at frame 3."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def deliver(self, blocks: Iterable[Any]) -> Iterator[tuple[int, dict[str, Any] | None]]:
        for block in blocks:
            for frame in block.tolist():
                if frame == 3:
                    if self.fault == "raise":
                        raise EventError("frame 3 is not right")
                    if self.fault == "raise what cannot be pickled":
                        raise type("Local", (Exception,), {})("local")
                    if self.fault == "kill":
                        signal.raise_signal(signal.SIGKILL)
                    if self.fault == "leave out":
                        continue
                yield frame, {"deform": np.full(2, frame)} if frame % 2 else None


def run(path: Path, fault: str, work: list[list[list[int]]], **options: Any) -> tuple[int, int]:
    blocks = [[np.array(block) for block in worker] for worker in work]
    n_frames = sum(len(block) for worker in work for block in worker)
    clock = Clock("writing", None, "events", None)
    return write_frames(path, Source(fault), blocks, n_frames, clock=clock, **options)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("raise", EventError, "^frame 3 is not right$"),
        ("raise what cannot be pickled", WriterDiedError, "Local: local"),
        ("kill", WriterDiedError, r"worker 1 \(pid \d+\) died with exit code -9"),
        ("leave out", StallError, r"frames \[3\] never came"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)
def test_faults_of_workers(
    tmp_path: Path, fault: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(tmp_path / "a.rtdc", fault, [[[0, 1, 2]], [[5, 4], [3]]])
    assert list(tmp_path.iterdir()) == []


def test_order_that_needs_more_ahead_than_allowed(tmp_path: Path) -> None:
    """The first frame comes last, behind blocks that reach far ahead."""
    path = tmp_path / "a.rtdc"
    work = [[list(range(60, 90)), list(range(90, 100)), [0]], [list(range(30, 60))], []]
    work[1].append(list(range(1, 30)))
    assert run(path, "none", work, frames_per_batch=7, frames_ahead=8) == (100, 100)
    with Recording(path) as recording:
        assert recording["deform"][:].tolist() == [n for n in range(1, 100, 2) for _ in range(2)]
        assert recording["nevents"][:].tolist() == [2] * 100


@pytest.mark.shared_data
@pytest.mark.parametrize("name", CONSISTENT)
def test_real_recordings(recording_path: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    path, out = recording_path(name), tmp_path / "out.rtdc"
    summary = replay(path, out, seed=2)
    assert compare(path, out) == []
    with Recording(out) as recording:
        assert recording.metadata["experiment:event count"] == summary.n_events


@pytest.mark.shared_data
def test_the_inconsistent_real_recording(
    recording_path: Callable[[str], Path], tmp_path: Path
) -> None:
    path = recording_path("example_video.rtdc")
    with pytest.raises(RecordingError, match="20 events: mask; the recording is inconsistent"):
        replay(path, tmp_path / "out.rtdc")
    assert not (tmp_path / "out.rtdc").exists()
