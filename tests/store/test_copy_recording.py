"""copy_recording: which events and features a copy has, and how it refers to the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcwrite import (
    BasinError,
    CopySummary,
    DamagedFileError,
    DataError,
    FeatureNotFoundError,
    HDF5Writer,
    Recording,
    RecordingError,
    StorageError,
    UsageError,
    copy_recording,
    verify,
)
from dcwrite.tools.compare import compare
from dcwrite.tools.progress import Progress
from dcwrite.tools.selection import select_events

from .files import (
    assert_unknown,
    basin_texts,
    image,
    make_recording,
    put_basin,
    put_unknown,
)

N_EVENTS = 25
OWN = ("area_um", "contour", "deform", "frame", "image", "mask", "trace")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_recording(tmp_path / "source.rtdc", N_EVENTS)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.rtdc"


def assert_rows(path: Path, origin: Path, rows: Any, names: Any = OWN) -> None:
    """All features of the copy, basins included, are those of the origin at these rows."""
    with Recording(origin) as before, Recording(path) as after:
        assert len(after) == len(rows)
        for name in names:
            if name == "contour":
                assert len(after[name]) == len(rows)
                for number, row in enumerate(rows):
                    np.testing.assert_array_equal(after[name][number], before[name][int(row)])
            elif name == "trace":
                assert set(after[name]) == set(before[name])
                for key, trace in after[name].items():
                    np.testing.assert_array_equal(trace[:], before[name][key][:][rows])
            else:
                assert after[name].dtype == before[name].dtype
                np.testing.assert_array_equal(after[name][:], before[name][:][rows])
        after.check_consistent()
    report = verify(path)
    assert report.findings == [], report.findings


# -- everything -----------------------------------------------------------------------------


def test_a_copy_of_everything(source: Path, out: Path) -> None:
    before = source.read_bytes()
    summary = copy_recording(source, out)
    assert compare(source, out) == ["log 'dcwrite-copy': only in the second"]
    assert isinstance(summary, CopySummary)
    assert summary.features == OWN
    assert (summary.n_events, summary.n_events_in, summary.basins) == (N_EVENTS, N_EVENTS, ())
    assert summary.n_chunks_moved > 0
    assert summary.size_bytes_out == out.stat().st_size
    assert source.read_bytes() == before
    assert json.loads(json.dumps(summary.to_dict()))["path_out"] == str(out)


def test_the_job_log(source: Path, out: Path, tmp_path: Path) -> None:
    where = "deform < 2 & " + " | ".join(["area_um > 50"] * 20) + " | frame >= 0"
    (tmp_path / "rows.txt").write_text("1\n2\n")
    copy_recording(source, out, where=where, events="0:9", index=tmp_path / "rows.txt")
    copy_recording(out, tmp_path / "again.rtdc")
    with Recording(tmp_path / "again.rtdc") as recording:
        found = json.loads("\n".join(recording.logs["dcwrite-copy-1"]))
        assert max(map(len, recording.logs["dcwrite-copy-1"])) <= 100
        assert "dcwrite-copy" in recording.logs
    assert "".join(found["options"]["where"]) == where
    assert found["options"]["events"] == "0:9"
    assert found["options"]["basins"] == "keep"
    assert found["files"][0]["name"] == "source.rtdc"


def test_no_events_at_all(tmp_path: Path, out: Path) -> None:
    with HDF5Writer(tmp_path / "in.rtdc", mode="x", event_count=True) as writer:
        writer.require_feature("deform", (), np.float64)
        writer.require_feature("image", (4, 5), np.uint8)
        writer.events.create_group("trace")
    copy_recording(tmp_path / "in.rtdc", out, where="deform < 0.1", events="0:100")
    with Recording(out) as recording:
        assert recording.own_features == ["deform", "image"]
        assert recording["image"].shape == (0, 4, 5)
    assert verify(out).findings == []


# -- which events ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selection", "rows"),
    [
        ({"events": "3:20"}, list(range(3, 20))),
        ({"events": slice(None, None, -1)}, list(range(24, -1, -1))),
        ({"events": [7, 7, 1]}, [7, 7, 1]),
        ({"where": "deform < 1 & frame % 2 == 1"}, [1, 3, 5, 7]),
        ({"where": "isnan(area_um)", "events": "::-1"}, [24, 21, 18, 15, 12, 9, 6, 3, 0]),
        ({"index": np.array([24, 0, 3, 3])}, [24, 0, 3, 3]),
        ({"index": [4, 3, 2, 9, 2], "events": "2:4"}, [3, 2, 2]),
        ({"index": [4, 3, 2, 9, 2], "events": "2:9", "where": "frame != 3"}, [4, 2, 2]),
        ({"index": np.arange(N_EVENTS) == 5}, [5]),
    ],
)
def test_some_events(source: Path, out: Path, selection: dict[str, Any], rows: list[int]) -> None:
    summary = copy_recording(source, out, **selection)
    assert summary.n_events == len(rows)
    assert_rows(out, source, rows)


@given(
    index=st.none() | st.lists(st.integers(0, N_EVENTS - 1), max_size=30),
    events=st.none() | st.lists(st.integers(-N_EVENTS, N_EVENTS - 1), max_size=30),
    limit=st.none() | st.integers(-1, N_EVENTS),
)
def test_combinations(
    shared_source: Path, index: list[int] | None, events: list[int] | None, limit: int | None
) -> None:
    expected = list(range(N_EVENTS)) if index is None else index
    if events is not None:
        wanted = [number % N_EVENTS for number in events]
        expected = wanted if index is None else [row for row in index if row in wanted]
    if limit is not None:
        expected = [row for row in expected if row < limit]
    where = None if limit is None else f"frame < {limit}"
    with Recording(shared_source) as recording:
        found = select_events(recording, index=index, events=events, where=where)
    assert (list(range(N_EVENTS)) if found is None else found.tolist()) == expected
    assert (found is None) == (expected == list(range(N_EVENTS)))


@pytest.fixture(scope="module")
def shared_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recording(tmp_path_factory.mktemp("shared") / "source.rtdc", N_EVENTS)


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.txt", "3\n1\n\n# comment\n4 # another\n", [3, 1, 4]),
        ("a.txt", "3 1\t4", [3, 1, 4]),
        ("a.txt", "\ufeff3, 1; 4\r\n", [3, 1, 4]),
        ("a.txt", "3.000000000000000000e+00\n1.0\n", [3, 1]),
        ("a.csv", "event\n3\n1\n", [3, 1]),
        ("a.csv", 'deform,"event",x\n0.5,3,a\n0.6,1,b\n', [3, 1]),
        ("a.tsv", "# from a table\nevent\tdeform\n3\t0.5\n", [3]),
        ("a.npy", np.array([3, 1], np.uint8), [3, 1]),
        ("a.npy", np.array([3.0, 1.0]), [3, 1]),
        ("a.npy", np.arange(N_EVENTS) > 22, [23, 24]),
    ],
)
def test_files_of_numbers(
    shared_source: Path, tmp_path: Path, name: str, content: Any, rows: list[int]
) -> None:
    path = write(tmp_path / name, content)
    with Recording(shared_source) as recording:
        found = select_events(recording, index=path)
    assert found is not None
    assert found.tolist() == rows


def write(path: Path, content: Any) -> Path:
    if isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "3\nx\n", r"a\.txt', line 2: expected the number of an event, got 'x'"),
        ("a.txt", "", "at least one event, got none"),
        ("a.txt", "1 2\n# 3\n4 25 6", r"a\.txt', line 3: .* from 0 to 24 .* got 25; leave it out"),
        ("a.txt", "1\n-1", "line 2: .* from 0 to 24 .*, got -1"),
        ("a.txt", "1 2 x", "line 1: .*, got '1 2 x'; leave the line out"),
        ("a.txt", "0\n1.5", r"line 2: .* a whole number from 0, got 1\.5"),
        ("a.txt", "nan", "line 1: .*got nan"),
        ("a.txt", "1e300", r"line 1: .*got 1e\+300"),
        ("a.txt", b"\xff\xfe1\x00", "expected a text .* got something else; check the name"),
        ("a.csv", "index,deform\n1,0.5\n", "line 1: .* 'event' .* got 'index,deform'; name the"),
        ("a.csv", "event\n\n3\nx\n", "line 4"),
        ("a.csv", "deform,event\n0.5,3\n0.5\n", "line 3: .* got '0.5'"),
        ("a.csv", "deform,event\n0.5,3\n0.5,99\n", "line 3: .* got 99"),
        ("a.npy", np.array([3, 25]), "position 1: .* got 25"),
        ("a.npy", np.array([3, 1.5]), r"position 1: .* got 1\.5"),
        ("a.npy", np.array([[1]]), r"got one of shape \(1, 1\); write it with `numpy.save\("),
        ("a.npy", np.array([True]), "one truth value for each of the 25 events"),
        ("a.npy", np.array([1, None]), "got one of Python objects"),
        ("a.npy", np.array(["1"]), "got one of <U1"),
        ("a.npy", b"no array", "got something else"),
        ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'for", "something else, or the first"),
        ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, "
                  b"'shape': (99999999999999,), }" + b" " * 49 + b"\n", "got 2 bytes of 79"),
    ],
)  # fmt: skip
def test_files_that_hold_no_numbers(
    source: Path, out: Path, tmp_path: Path, name: str, content: Any, message: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        copy_recording(source, out, index=path)
    assert "np." not in str(caught.value)  # neither types nor advice of another library
    assert "allow_pickle" not in str(caught.value)
    assert not out.exists()


def test_a_file_of_numbers_that_is_not_there(source: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        copy_recording(source, out, index=tmp_path / "nowhere.txt")
    with pytest.raises(DataError, match="expected a file"):
        copy_recording(source, out, index=tmp_path)


def test_no_event_is_left(source: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one event to be selected, got none of 25"):
        copy_recording(source, out, where="deform < -1")
    assert [path.name for path in tmp_path.iterdir()] == ["source.rtdc"]


def test_conditions_need_scalars_of_the_right_length(source: Path, out: Path) -> None:
    with pytest.raises(DataError, match="expected scalar features, got 'image'"):
        copy_recording(source, out, where="image > 3")
    with pytest.raises(DataError, match="did you mean deform"):
        copy_recording(source, out, where="defrom > 3")
    with HDF5Writer(source) as writer:
        writer.store_feature_chunk("deform", [0.5])
    with pytest.raises(DataError, match=r"expected 25 values of 'deform' .* got 26"):
        copy_recording(source, out, where="deform > 3")


def test_conditions_block_by_block(tmp_path: Path) -> None:
    n_events = 200_000
    with HDF5Writer(tmp_path / "in.rtdc", mode="x", event_count=True) as writer:
        writer.store_feature_chunk("userdef1", np.arange(n_events, dtype=np.float32))
    with Recording(tmp_path / "in.rtdc") as recording:
        shown: list[Progress] = []
        found = select_events(
            recording, where="userdef1 % 1000 == 7", events="::-1", progress=shown.append
        )
    assert found is not None
    assert found.tolist() == list(range(n_events))[7::1000][::-1]
    assert [item.current for item in shown] == [0, 65536, 131072, 196608, 200_000]


# -- which features -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "exclude", "names"),
    [
        ("deform,area_um", (), ["area_um", "deform"]),
        (["image"], (), ["image"]),
        ("scalar", (), ["area_um", "deform", "frame"]),
        ("scalar, mask", "f*", ["area_um", "deform", "mask"]),
        ("*m*", "mask", ["area_um", "deform", "frame", "image"]),
        (None, "image,mask,trace,contour", ["area_um", "deform", "frame"]),
    ],
)
def test_some_features(
    source: Path, out: Path, features: Any, exclude: Any, names: list[str]
) -> None:
    copy_recording(source, out, features=features, exclude=exclude, basins="drop", events="2:9")
    with Recording(out) as recording:
        assert recording.features == names
        assert len(recording) == 7


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"features": "defrom"}, FeatureNotFoundError, "got 'defrom'; did you mean deform"),
        ({"features": "zz*"}, FeatureNotFoundError, "there are area_um, contour"),
        ({"exclude": "imag"}, FeatureNotFoundError, "did you mean image"),
        ({"features": "trace/fl1_raw"}, FeatureNotFoundError, "did you mean trace"),
        ({"features": ""}, DataError, "expected names such as"),
        ({"features": "deform,,"}, DataError, "expected names such as"),
        ({"features": ["deform", 3]}, DataError, "expected names such as"),
        ({"features": "basinmap0"}, DataError, "got the mapping of a basin"),
        ({"features": "none", "basins": "drop"}, DataError, "expected at least one feature"),
        ({"exclude": ["*"], "basins": "drop"}, DataError, "expected at least one feature"),
        ({"basins": "kept"}, UsageError, "expected one of keep, drain, drop"),
    ],
)
def test_features_that_are_not_there(
    source: Path, out: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        copy_recording(source, out, **options)
    assert not out.exists()


def test_attributes_and_summaries(source: Path, out: Path) -> None:
    with h5py.File(source, "a") as h5:
        h5["events/deform"].attrs["unit"] = "none"
        h5["events"].attrs["of"] = "the group"
        h5["events/trace"].attrs["of"] = "the traces"
        h5["events/trace/fl1_raw"].attrs["of"] = "one trace"
        h5.attrs["user:my key"] = "kept"
    copy_recording(source, out, events="5:8")
    with h5py.File(out) as h5:
        attrs = dict(h5["events/deform"].attrs)
        assert attrs == {"unit": "none", "min": 0.625, "max": 0.875, "mean": 0.75}
        assert h5["events/area_um"].attrs["min"] == 5, "without nan"
        assert h5["events"].attrs["of"] == "the group"
        assert h5["events/trace"].attrs["of"] == "the traces"
        assert h5["events/trace/fl1_raw"].attrs["of"] == "one trace"
        assert h5["events/image"].attrs["CLASS"] == b"IMAGE"
        assert h5.attrs["user:my key"] == "kept"
        assert h5.attrs["experiment:event count"] == 3
        assert len(h5["tables/channels"]) == 3


def test_the_index_counts_from_one_again(source: Path, out: Path) -> None:
    """As dclab's export does, whose check wants it."""
    with HDF5Writer(source) as writer:
        writer.store_feature_chunk("index", np.arange(1, N_EVENTS + 1, dtype=np.uint32))
        writer.store_feature_chunk("index_online", np.arange(50, 50 + N_EVENTS))
    copy_recording(source, out, events="5:8")
    with Recording(out) as recording:
        assert recording["index"][:].tolist() == [1, 2, 3]
        assert recording["index"].dtype == np.uint32
        assert recording["index_online"][:].tolist() == [55, 56, 57]


@pytest.mark.parametrize("events", [None, "::3"])
def test_what_is_not_known_is_kept(source: Path, out: Path, events: str | None) -> None:
    put_unknown(source)
    copy_recording(source, out, events=events, exclude="contour")
    assert_unknown(out)
    assert verify(out).findings == []


def test_an_inconsistent_recording(source: Path, out: Path) -> None:
    with HDF5Writer(source) as writer:
        writer.store_feature_chunk("mask", image(2) > 3)
    with pytest.raises(RecordingError, match=r"have 25 events .*, got mask 27; .*--exclude mask"):
        copy_recording(source, out)
    assert not out.exists()
    summary = copy_recording(source, out, exclude="mask", events="::2")
    assert "mask" not in summary.features
    assert "mask" not in next(iter(basin_texts(out).values()))["features"]


def test_a_group_that_is_no_feature(source: Path, out: Path) -> None:
    with h5py.File(source, "a") as h5:
        h5["events"].create_group("plots")["a"] = [1]
    with pytest.raises(RecordingError, match=r"feature 'plots': expected a dataset, .*--exclude"):
        copy_recording(source, out)
    copy_recording(source, out, exclude="plots")


# -- basins ---------------------------------------------------------------------------------


def make_linked(folder: Path) -> Path:
    """A recording with scalars, whose images are elsewhere, mapped and not."""
    make_recording(folder / "raw.rtdc", 2 * N_EVENTS)
    number = np.arange(N_EVENTS)
    path = folder / "linked.rtdc"
    with HDF5Writer(path, mode="x", event_count=True) as writer:
        writer.store_feature_chunk("userdef1", number / 4)
        writer.store_basin(
            "raw", paths=["raw.rtdc"], mapping=number * 2, features=["image", "deform", "contour"]
        )
        writer.store_basin(
            "light", internal_data={"bg_med": np.array([1.5, 2.5])}, mapping=number // 13
        )
        writer.store_basin("web", urls=["https://example.org/a"], features=["qpi_pha"])
        writer.store_metadata(
            {
                "experiment:date": "2024-01-02",
                "experiment:time": "03:04:05",
                "setup:identifier": "a machine",
            }
        )
    return path


def test_keep(tmp_path: Path, out: Path) -> None:
    """Everything stays reachable, and the file is small."""
    linked = make_linked(tmp_path)
    rows = [20, 3, 3, 24]
    summary = copy_recording(linked, out, index=rows, features="none")
    assert summary.features == ()
    assert sorted(summary.basins) == ["light", "linked.rtdc", "raw", "web"]
    assert summary.notes == ()
    assert_rows(out, linked, rows, ["userdef1", "image", "deform", "bg_med", "contour"])
    texts = basin_texts(out)
    assert texts["linked.rtdc"]["paths"] == [str(linked.resolve()), "linked.rtdc"]
    assert texts["linked.rtdc"]["features"] == ["userdef1"]
    assert texts["web"]["urls"] == ["https://example.org/a"]
    with h5py.File(out) as h5:
        assert h5["events"][texts["web"]["mapping"]][:].tolist() == rows


def test_keep_where_nothing_is_left_out(tmp_path: Path, out: Path) -> None:
    linked = make_linked(tmp_path)
    summary = copy_recording(linked, out)
    assert sorted(summary.basins) == ["light", "raw", "web"], "the input would add nothing"
    assert compare(linked, out) == ["log 'dcwrite-copy': only in the second"]


def test_keep_refers_to_the_input_for_features_that_are_left_out(source: Path, out: Path) -> None:
    summary = copy_recording(source, out, features="scalar")
    assert summary.basins == ("source.rtdc",)
    text = basin_texts(out)["source.rtdc"]
    assert "mapping" not in text
    assert text["features"] == list(OWN)
    assert_rows(out, source, np.arange(N_EVENTS))


def test_a_copy_of_a_copy_of_a_copy(source: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}.rtdc" for name in ("first", "second", "third"))
    copy_recording(source, first, events="::-1", features="scalar")
    copy_recording(first, second, where="frame % 2 == 0", features="frame")
    copy_recording(second, third, events="3:5")
    rows = np.arange(N_EVENTS)[::-1][::2][3:5]
    features = [name for name in OWN if name != "trace"]
    assert_rows(third, source, rows, features)
    source.rename(tmp_path / "gone.rtdc")
    with Recording(third) as recording:
        assert recording["frame"][:].tolist() == rows.tolist()
        assert "image" not in recording


def test_in_another_folder(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "selections" / "today"
    folder.mkdir(parents=True)
    copy_recording(source, folder / "source.rtdc", events="::2", features="deform")
    text = basin_texts(folder / "source.rtdc")["source.rtdc"]
    assert text["paths"] == [str(source.resolve()), "../../source.rtdc"]
    with Recording(folder / "source.rtdc", basin_roots=[tmp_path]) as recording:
        np.testing.assert_array_equal(recording["image"][:], image(N_EVENTS)[::2])


def test_the_identifier_of_a_selection_begins_with_that_of_all(source: Path, out: Path) -> None:
    copy_recording(source, out, events="::2", overwrite=True)
    with Recording(source) as before, Recording(out) as after:
        whole, first = before.identifier, after.identifier
        assert basin_texts(out)["source.rtdc"]["identifier"] == whole
    copy_recording(source, out, where="frame % 2 == 0", overwrite=True)
    with Recording(out) as recording:
        assert recording.identifier == first, "the same events"
    copy_recording(source, out, events="1::2", overwrite=True)
    with Recording(out) as recording:
        assert recording.identifier != first
        assert str(recording.identifier).startswith(f"{whole}_dcwrite-")
    copy_recording(source, out, features="scalar", overwrite=True)
    with Recording(out) as recording:
        assert recording.identifier == whole


def test_drain(tmp_path: Path, out: Path) -> None:
    linked = make_linked(tmp_path)
    rows = [20, 3, 24]
    summary = copy_recording(linked, out, index=rows, basins="drain")
    assert summary.features == ("bg_med", "contour", "deform", "image", "userdef1")
    assert summary.basins == ("web",)
    assert summary.notes == (
        "basin 'web' is kept, not copied: remote basins are not opened here; dclab opens them",
    )
    (tmp_path / "raw.rtdc").unlink()
    assert_rows_of_a_file_alone(out, linked, rows)


def assert_rows_of_a_file_alone(out: Path, linked: Path, rows: list[int]) -> None:
    with Recording(out) as recording:
        assert recording.own_features == [
            "basinmap0", "bg_med", "contour", "deform", "image", "userdef1",
        ]  # fmt: skip
        assert recording["basinmap0"][:].tolist() == rows
        np.testing.assert_array_equal(recording["userdef1"][:], np.array(rows) / 4)
        np.testing.assert_array_equal(recording["image"][:], image(50)[np.array(rows) * 2])
        np.testing.assert_array_equal(recording["bg_med"][:], [2.5, 1.5, 2.5])
        assert recording["contour"][1].tolist() == [[6, 6]] * 3
        recording.check_consistent()
    assert verify(out).findings == []


def test_drain_all_events(tmp_path: Path, out: Path) -> None:
    linked = make_linked(tmp_path)
    copy_recording(linked, out, basins="drain", exclude="contour")
    with Recording(linked) as before, Recording(out) as after:
        for name in ("userdef1", "image", "deform", "bg_med"):
            assert name in after.own_features
            np.testing.assert_array_equal(after[name][:], before[name][:])
        assert after.identifier == before.identifier


def test_drop(tmp_path: Path, out: Path) -> None:
    linked = make_linked(tmp_path)
    summary = copy_recording(linked, out, events="3:", basins="drop")
    assert summary.basins == ()
    with Recording(out) as recording:
        assert recording.features == recording.own_features == ["userdef1"]


def test_features_of_basins_by_name_and_in_conditions(tmp_path: Path, out: Path) -> None:
    linked = make_linked(tmp_path)
    copy_recording(
        linked, out, features="image,userdef1", where="deform < 2 & bg_med == 1.5", basins="drop"
    )
    with Recording(out) as recording:
        assert recording.features == ["image", "userdef1"]
        np.testing.assert_array_equal(recording["image"][:], image(50)[:16:2])


def test_basins_elsewhere_have_to_be_allowed(tmp_path: Path, out: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    raw = make_recording(tmp_path / "a" / "raw.rtdc", 5)
    copy_recording(raw, tmp_path / "b" / "small.rtdc", features="deform")
    small = tmp_path / "b" / "small.rtdc"
    with pytest.raises(FeatureNotFoundError, match="allow its folder"):
        copy_recording(small, out, features="image")
    copy_recording(small, out, features="image", basin_roots=[tmp_path / "a"], basins="drop")
    with Recording(out) as recording:
        np.testing.assert_array_equal(recording["image"][:], image(5))


def with_chopped_mask(path: Path) -> None:
    with h5py.File(path, "a") as h5:
        group = h5.create_group("basin_events/image_bg")
        group["index"] = np.zeros((N_EVENTS, 5))
        group["0"] = image(3)
        put_basin(h5, {
            "name": "chopped", "type": "internal", "format": "h5datasetchop", "mapping": "same",
            "paths": ["basin_events"], "features": ["image_bg"], "perishable": False,
        })  # fmt: skip


def test_chopped_images(source: Path, out: Path) -> None:
    with_chopped_mask(source)
    copy_recording(source, out)
    assert compare(source, out) == ["log 'dcwrite-copy': only in the second"]
    summary = copy_recording(source, out, events="3:", overwrite=True)
    assert summary.basins == ("source.rtdc",)
    assert "image_bg" in basin_texts(out)["source.rtdc"]["features"]
    summary = copy_recording(source, out, events="3:", basins="drain", overwrite=True)
    assert summary.basins == ()
    assert "image_bg are not in the copy" in summary.notes[-1]
    summary = copy_recording(source, out, basins="drain", overwrite=True)
    assert summary.basins == ("chopped",)


def test_basins_that_are_not_known(source: Path, out: Path) -> None:
    with h5py.File(source, "a") as h5:
        put_basin(h5, {
            "name": "odd", "type": "pigeon", "format": "post", "mapping": "same",
            "paths": ["x"], "features": None, "perishable": False,
        })  # fmt: skip
    summary = copy_recording(source, out)
    assert summary.notes == (
        "basin 'odd' is left out: its type 'pigeon', format 'post', is not known",
    )
    with h5py.File(source, "a") as h5:
        h5["basins/broken"] = np.array([b"{"])
    with pytest.raises(BasinError, match=r"expected JSON.*--basins drop"):
        copy_recording(source, out, overwrite=True)
    copy_recording(source, out, basins="drop", overwrite=True)


def test_more_mappings_than_there_is_room_for(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "in.rtdc"
    with HDF5Writer(path, mode="x", event_count=True) as writer:
        writer.store_feature_chunk("userdef1", np.arange(20.0))
        for number in range(10):
            mapping = np.roll(np.arange(20), number + 1)
            writer.store_basin(f"b{number}", urls=["https://example.org"], mapping=mapping)
    with pytest.raises(BasinError, match=r"at most 10 different mappings.*--basins drop"):
        copy_recording(path, out, events="3:")
    assert [item.name for item in tmp_path.iterdir()] == ["in.rtdc"]


# -- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("how", ["same", "symlink", "hardlink", "origin", "origin-by-link"])
def test_an_output_that_is_an_origin(
    source: Path, tmp_path: Path, how: str, overwrite: bool
) -> None:
    small, link = tmp_path / "small.rtdc", tmp_path / "link.rtdc"
    copy_recording(source, small, features="deform")
    path_in, path_out = source, link
    if how == "same":
        path_out = source
    elif how == "symlink":
        link.symlink_to(source)
    elif how == "hardlink":
        link.hardlink_to(source)
    else:
        path_in, path_out = small, source
        if how == "origin-by-link":
            link.symlink_to(source)
            path_out = link
    before = source.read_bytes()
    with pytest.raises((UsageError, StorageError)) as caught:
        copy_recording(path_in, path_out, basins="drop", overwrite=overwrite)
    if overwrite:
        assert "none of the inputs" in str(caught.value) or "leads to" in str(caught.value)
    assert source.read_bytes() == before


def test_an_origin_of_an_origin_is_no_output(source: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.rtdc", tmp_path / "second.rtdc"
    copy_recording(source, first, features="deform")
    with HDF5Writer(second, mode="x", event_count=True) as writer:
        writer.store_feature_chunk("userdef1", np.arange(float(N_EVENTS)))
        writer.store_basin("first", paths=["first.rtdc"])
    with pytest.raises(UsageError, match=r"basin 'source\.rtdc' of '.*first\.rtdc' leads to"):
        copy_recording(second, source, overwrite=True)


def test_an_existing_output(source: Path, out: Path) -> None:
    out.write_bytes(b"mine")
    with pytest.raises(StorageError, match="--overwrite"):
        copy_recording(source, out)
    assert out.read_bytes() == b"mine"
    copy_recording(source, out, overwrite=True)
    assert_rows(out, source, np.arange(N_EVENTS))


def test_damaged_and_unfinished_inputs(source: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.rtdc").write_bytes(source.read_bytes()[:5000])
    with pytest.raises(DamagedFileError, match=r"dcwrite recover .*cut\.rtdc OUT\.rtdc"):
        copy_recording(tmp_path / "cut.rtdc", out)
    (tmp_path / "run.rtdc.part").write_bytes(source.read_bytes())
    (tmp_path / "run.rtdc.journal").write_bytes(b"")
    for name in ("run.rtdc", "run.rtdc.part"):
        with pytest.raises(DamagedFileError, match=r"dcwrite recover .*run\.rtdc\.part"):
            copy_recording(tmp_path / name, out)
    with pytest.raises(StorageError, match="No such file"):
        copy_recording(tmp_path / "nowhere.rtdc", out)
    assert not out.exists()


def test_a_damaged_chunk(source: Path, out: Path, tmp_path: Path) -> None:
    with h5py.File(source) as h5:
        info = h5["events/image"].id.get_chunk_info(0)
    data = bytearray(source.read_bytes())
    data[info.byte_offset + 30] ^= 0xFF
    source.write_bytes(data)
    with pytest.raises(DamagedFileError, match="image"):
        copy_recording(source, out, events="::2")
    assert [path.name for path in tmp_path.iterdir()] == ["source.rtdc"]
    copy_recording(source, out, events="::2", exclude="image", basins="drop")


class StopError(Exception):
    pass


@pytest.mark.parametrize("number", range(0, 12, 2))
def test_whatever_happens_nothing_is_left(
    source: Path, out: Path, tmp_path: Path, number: int
) -> None:
    """What the caller's progress raises, as Ctrl-C does, ends it anywhere."""
    shown: list[Progress] = []

    def stop(progress: Progress) -> None:
        shown.append(progress)
        if len(shown) > number:
            raise StopError

    before = source.read_bytes()
    with pytest.raises(StopError):
        copy_recording(source, out, where="frame % 2 == 0", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["source.rtdc"]
    assert source.read_bytes() == before


def test_progress(source: Path, out: Path) -> None:
    shown: list[Progress] = []
    copy_recording(source, out, where="frame > 2", progress=shown.append)
    assert [item.stage for item in shown] == sorted((i.stage for i in shown), reverse=True)
    copying = [item for item in shown if item.stage == "copying"]
    assert copying[-1].is_done
    assert [item.current for item in copying] == sorted(item.current for item in copying)
    assert copying[-1].total == 22 * (3 * 8 + 2 * 20 + 6 * 2 + 8)
