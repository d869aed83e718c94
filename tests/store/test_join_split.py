"""join and split as functions: every kind of feature and basin, interrupts, refusals."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcwrite import (
    DamagedFileError,
    DataError,
    HDF5Writer,
    MismatchError,
    Recording,
    RecordingError,
    StorageError,
    UsageError,
    join,
    split,
    split_many,
    verify,
    virtual_recording,
)
from dcwrite.store.virtual import Piece, store_virtual_dataset
from dcwrite.tools.compare import compare
from dcwrite.tools.progress import Progress

from .files import assert_unknown, image, make_recording, put_unknown


def recording(path: Path, n_events: int = 25, start: str = "03:04:05", **more: Any) -> Path:
    """A recording with every kind of feature, an index, times and frames."""
    make_recording(path, n_events, experiment__time=start)
    number = np.arange(n_events)
    with HDF5Writer(path, event_count=True, scalar_attributes=True) as writer:
        writer.store_feature_chunk("time", number / 100.0)
        writer.store_feature_chunk("index", (number + 1).astype(np.uint32))
        writer.store_feature_chunk("index_online", number.astype(np.uint32) * 2)
        for name, data in more.items():
            writer.store_feature_chunk(name, data)
        writer.store_metadata({"user:note": "kept", "imaging:frame rate": 100.0})
        writer.h5["events/deform"].attrs["origin"] = "camera"
    return path


def values(path: Path, name: str) -> Any:
    with Recording(path) as opened_recording:
        item = opened_recording[name]
        return list(item) if name == "contour" else item[:]


def assert_joined(path: Path, sources: list[Path], *, changed: tuple[str, ...] = ()) -> None:
    """Every feature of the inputs, one behind the other."""
    with Recording(path) as joined:
        assert verify(path).findings == []
        first = {}
        for number, source in enumerate(sources):
            with Recording(source) as item:
                start = first.get("start", 0)
                stop = start + len(item)
                first["start"] = stop
                for name in item.features:
                    if name in {"index", *changed}:
                        continue
                    if name == "trace":
                        for key, trace in item[name].items():
                            np.testing.assert_array_equal(joined[name][key][start:stop], trace[:])
                    elif name == "contour":
                        for one, other in zip(joined[name][start:stop], item[name], strict=True):
                            np.testing.assert_array_equal(one, other)
                    else:
                        np.testing.assert_array_equal(
                            joined[name][start:stop], item[name][:], err_msg=f"{number}: {name}"
                        )
        assert len(joined) == first["start"]
        np.testing.assert_array_equal(joined["index"][:], np.arange(len(joined)) + 1)


COUNTERS = ("time", "frame", "index_online")


# -- join -------------------------------------------------------------------------------------


@pytest.mark.parametrize("virtual", [False, True])
def test_all_features_follow_each_other(tmp_path: Path, virtual: bool) -> None:
    a = recording(tmp_path / "a.rtdc", 25)
    b = recording(tmp_path / "b.rtdc", 40, "03:04:07.5")
    out = tmp_path / "out.rtdc"
    summary = join([b, a], out, virtual=virtual)
    assert_joined(out, [a, b], changed=COUNTERS)
    np.testing.assert_array_equal(values(out, "time")[25:], values(b, "time") + 2.5)
    np.testing.assert_array_equal(values(out, "frame")[25:], values(b, "frame") + 250)
    np.testing.assert_array_equal(values(out, "index_online")[25:], values(b, "index_online") + 49)
    assert [item.path for item in summary.inputs] == [a, b]
    assert (tmp_path / "out.virtual.h5").exists() == virtual
    with Recording(out) as joined:
        assert ("image" in joined.own_features) != virtual
        assert joined.logs["src-#2_notes"] == ["first line", "zweite Zeile: \u00b5m"]
        assert "[user]" in joined.logs["src-#1_cfg"]
        assert sorted(joined.tables) == ["src-#1_channels", "src-#2_channels"]
        assert joined.metadata["user:note"] == "kept"
        assert joined.metadata["experiment:event count"] == 65
        assert joined["deform"].attributes["origin"] == "camera"
        assert joined["deform"].attributes["max"] == max(39 / 8, 24 / 8)


def test_date_and_time_are_those_of_the_earliest(tmp_path: Path) -> None:
    a = recording(tmp_path / "a.rtdc", start="03:04:05")
    b = recording(tmp_path / "b.rtdc", start="03:04:07")
    join([b, a], tmp_path / "out.rtdc", sort="given")
    with Recording(tmp_path / "out.rtdc") as joined:
        assert joined.metadata["experiment:time"] == "03:04:05"
        assert joined["time"][0] == 2.0
        assert joined["time"][25] == 0.0


def test_inputs_without_a_date(tmp_path: Path) -> None:
    inputs = [recording(tmp_path / f"{name}.rtdc") for name in "ab"]
    for path in inputs:
        with h5py.File(path, "a") as h5:
            del h5.attrs["experiment:date"]
    with pytest.raises(MismatchError, match="--offsets continue"):
        join(inputs, tmp_path / "out.rtdc")
    join(inputs, tmp_path / "out.rtdc", sort="given", offsets="continue")
    assert_joined(tmp_path / "out.rtdc", inputs, changed=COUNTERS)
    assert np.all(np.diff(values(tmp_path / "out.rtdc", "time")) >= 0)
    assert np.all(np.diff(values(tmp_path / "out.rtdc", "frame").astype(int)) > 0)


def test_dtypes_that_differ(tmp_path: Path) -> None:
    a = recording(tmp_path / "a.rtdc", userdef1=np.arange(25, dtype=np.float32) / 3)
    b = recording(tmp_path / "b.rtdc", start="04:00:00", userdef1=np.arange(25) / 3)
    join([a, b], tmp_path / "out.rtdc")
    assert values(tmp_path / "out.rtdc", "userdef1").dtype == np.float64
    assert_joined(tmp_path / "out.rtdc", [a, b], changed=COUNTERS)


def test_logs_of_any_name(tmp_path: Path) -> None:
    inputs = [recording(tmp_path / f"{n}.rtdc", start=f"0{n}:00:00") for n in (1, 2)]
    with HDF5Writer(inputs[1]) as writer:
        writer.store_log("cfg", ["mine"])
    join(inputs, tmp_path / "out.rtdc")
    with Recording(tmp_path / "out.rtdc") as joined:
        assert joined.logs["src-#2_cfg"] == ["mine"]
        assert "[user]" in joined.logs["src-#2_cfg_"]


def test_virtual_recordings_are_inputs_like_others(tmp_path: Path) -> None:
    inputs = [recording(tmp_path / f"{n}.rtdc", start=f"0{n}:00:00") for n in (1, 2, 3)]
    join(inputs[:2], tmp_path / "first.rtdc", virtual=True)
    for virtual in (False, True):
        out = tmp_path / f"out{virtual}.rtdc"
        join([tmp_path / "first.rtdc", inputs[2]], out, virtual=virtual)
        assert_joined(out, inputs, changed=COUNTERS)
    for part in split(tmp_path / "first.rtdc", events=30).parts:
        assert verify(part.path).findings == []
        rows = slice(part.first_event, part.first_event + part.n_events)
        for name in ("image", "mask"):
            np.testing.assert_array_equal(
                values(part.path, name), values(tmp_path / "first.rtdc", name)[rows]
            )


def test_empty_inputs(tmp_path: Path) -> None:
    a = recording(tmp_path / "a.rtdc", 0)
    b = recording(tmp_path / "b.rtdc", 5, "04:00:00")
    join([a, b], tmp_path / "out.rtdc")
    np.testing.assert_array_equal(values(tmp_path / "out.rtdc", "deform"), values(b, "deform"))
    join([a, a], tmp_path / "none.rtdc", allow_differences=True, virtual=True)
    assert verify(tmp_path / "none.rtdc").findings == []


def test_everything_that_is_wrong_at_once(tmp_path: Path) -> None:
    good = recording(tmp_path / "good.rtdc")
    other = recording(tmp_path / "other.rtdc", start="04:00:00", userdef1=np.zeros(25))
    with HDF5Writer(other) as writer:
        writer.store_metadata({"imaging:pixel size": 0.3, "setup:medium": "PBS"})
    with HDF5Writer(good) as writer:
        writer.store_metadata({"imaging:pixel size": 0.2, "setup:medium": "PBS"})
    text = tmp_path / "text.rtdc"
    text.write_text("no recording")
    uneven = recording(tmp_path / "uneven.rtdc", start="05:00:00")
    with HDF5Writer(uneven) as writer:
        writer.store_feature_chunk("deform", [0.5])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(MismatchError) as caught:
        join([good, other, text, uneven, tmp_path / "none.rtdc"], tmp_path / "out.rtdc")
    lines = caught.value.problems
    assert len(lines) == 5
    for part in ("text.rtdc", "uneven.rtdc", "none.rtdc", "'imaging:pixel size' differs: 0.2",
                 "'good.rtdc' lacks a feature that others have: userdef1"):  # fmt: skip
        assert sum(part in line for line in lines) == 1, part
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    summary = join([good, other], tmp_path / "out.rtdc", features="common", allow_differences=True)
    assert len(summary.omitted) == 1
    assert summary.notes[0].startswith("'imaging:pixel size' differs")
    with Recording(tmp_path / "out.rtdc") as joined:
        assert "userdef1" not in joined
        assert "".join(joined.logs["dcwrite-join-notes"]).count("userdef1") == 1


def test_an_unfinished_input_names_recover(tmp_path: Path) -> None:
    good = recording(tmp_path / "good.rtdc")
    for suffix in (".part", ".journal"):
        (tmp_path / f"live.rtdc{suffix}").write_bytes(b"DCWRITEJ")
    with pytest.raises(MismatchError, match="dcwrite recover"):
        join([good, tmp_path / "live.rtdc.part"], tmp_path / "out.rtdc")


@pytest.mark.parametrize("n_inputs", [0, 1])
def test_too_few(tmp_path: Path, n_inputs: int) -> None:
    with pytest.raises(UsageError, match="at least two"):
        join([tmp_path / "a.rtdc"] * n_inputs, tmp_path / "out.rtdc")


def test_outputs_that_are_inputs_or_exist(tmp_path: Path) -> None:
    inputs = [recording(tmp_path / f"{n}.rtdc", start=f"0{n}:00:00") for n in (1, 2)]
    before = inputs[0].read_bytes()
    with pytest.raises(UsageError, match="none of the inputs"):
        join(inputs, tmp_path / "1.rtdc", overwrite=True)
    with HDF5Writer(inputs[1]) as writer:
        writer.store_basin("origin", paths=["origin.rtdc"], features=["image"])
    shutil.copyfile(inputs[0], tmp_path / "origin.rtdc")
    with pytest.raises(UsageError, match="leads"):
        join(inputs, tmp_path / "origin.rtdc", overwrite=True)
    out = tmp_path / "out.rtdc"
    out.write_text("mine")
    with pytest.raises(StorageError, match="overwrite"):
        join(inputs, out)
    assert out.read_text() == "mine"
    assert inputs[0].read_bytes() == before
    assert (tmp_path / "origin.rtdc").read_bytes() == before


def stop_at(stage: str, part: float) -> Callable[[Progress], None]:
    """What Ctrl-C does, at some moment."""

    def show(progress: Progress) -> None:
        if progress.stage == stage and progress.current >= part * (progress.total or 0) > 0:
            raise KeyboardInterrupt

    return show


@pytest.mark.parametrize("part", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("virtual", [False, True])
def test_an_interrupt_leaves_nothing(tmp_path: Path, part: float, virtual: bool) -> None:
    inputs = [recording(tmp_path / f"{n}.rtdc", start=f"0{n}:00:00") for n in (1, 2)]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        join(inputs, tmp_path / "out.rtdc", virtual=virtual, progress=stop_at("joining", part))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_input_that_changes_meanwhile(tmp_path: Path) -> None:
    inputs = [recording(tmp_path / f"{n}.rtdc", start=f"0{n}:00:00") for n in (1, 2)]

    def change(progress: Progress) -> None:
        if progress.stage == "joining" and progress.current == 0:
            inputs[1].unlink()
            recording(inputs[1], 30)

    with pytest.raises(RecordingError, match="changed meanwhile"):
        join(inputs, tmp_path / "out.rtdc", progress=change)
    assert not (tmp_path / "out.rtdc").exists()


def test_a_damaged_chunk_is_found(tmp_path: Path) -> None:
    inputs = [recording(tmp_path / f"{n}.rtdc", start=f"0{n}:00:00") for n in (1, 2)]
    with h5py.File(inputs[1]) as h5:
        info = h5["events/image"].id.get_chunk_info(0)
    with inputs[1].open("rb+") as file:
        file.seek(info.byte_offset + info.size // 2)
        file.write(b"\xff\x00\xff")
    with pytest.raises(DamagedFileError, match="image"):
        join(inputs, tmp_path / "out.rtdc")
    assert not (tmp_path / "out.rtdc").exists()


# -- basins -----------------------------------------------------------------------------------


def with_internal(path: Path, n_stored: int, **changes: Any) -> Path:
    n_events = changes.pop("n_events", 25)
    recording(path, n_events, **changes)
    with HDF5Writer(path) as writer:
        writer.store_basin(
            "light",
            internal_data={
                "image_bg": image(n_stored, start=n_stored),
                "userdef1": np.arange(n_stored) / 7,
            },
            mapping=np.arange(n_events)[::-1] % n_stored,
        )
    return path


@pytest.mark.parametrize("virtual", [False, True])
def test_internal_basins_stay_internal(tmp_path: Path, virtual: bool) -> None:
    a = with_internal(tmp_path / "a.rtdc", 3)
    b = with_internal(tmp_path / "b.rtdc", 5, start="04:00:00", n_events=12)
    out = tmp_path / "out.rtdc"
    join([a, b], out, virtual=virtual)
    assert_joined(out, [a, b], changed=COUNTERS)
    with h5py.File(out) as h5:
        assert h5["basin_events/image_bg"].shape == (8, 4, 5)
        assert "image_bg" not in h5["events"]


def test_an_internal_basin_of_one_input_is_drained(tmp_path: Path) -> None:
    a = with_internal(tmp_path / "a.rtdc", 3)
    b = recording(
        tmp_path / "b.rtdc", start="04:00:00", image_bg=image(25), userdef1=np.arange(25.0)
    )
    join([a, b], tmp_path / "out.rtdc")
    assert_joined(tmp_path / "out.rtdc", [a, b], changed=COUNTERS)
    with Recording(tmp_path / "out.rtdc") as joined:
        assert not joined.basins


def referring(path: Path, origin: Path, rows: Any, **changes: Any) -> Path:
    """A recording of scalars whose images are in another file."""
    n_events = len(rows)
    with HDF5Writer(path, mode="x", event_count=True) as writer:
        writer.store_feature_chunk("deform", np.asarray(rows) / 8)
        writer.store_feature_chunk("index", np.arange(1, n_events + 1))
        writer.store_metadata({"experiment:date": "2024-01-02", "setup:identifier": "a machine"})
        writer.store_metadata({"experiment:time": changes.pop("start", "03:04:05")})
        writer.store_metadata({"experiment:run identifier": changes.pop("identifier", path.name)})
        writer.store_basin(
            "origin",
            paths=[os.path.relpath(origin, path.parent)],
            features=["image", "mask", "trace", "contour"],
            mapping=rows,
            **changes,
        )
    return path


@pytest.mark.parametrize("virtual", [False, True])
def test_one_origin_stays_one_basin(tmp_path: Path, virtual: bool) -> None:
    origin = recording(tmp_path / "origin.rtdc", 30)
    a = referring(tmp_path / "a.rtdc", origin, np.array([3, 1, 29]))
    b = referring(tmp_path / "b.rtdc", origin, np.array([2, 2]), start="04:00:00")
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "elsewhere" / "out.rtdc"
    join([a, b], out, virtual=virtual)
    with Recording(out, basin_roots=[tmp_path]) as joined:
        rows = [3, 1, 29, 2, 2]
        assert set(joined.own_features) == {"deform", "index", "trace", "basinmap0"}
        np.testing.assert_array_equal(joined["image"][:], image(30)[rows])
        np.testing.assert_array_equal(joined["basinmap0"][:], rows)
        # dclab reads no traces through a mapping
        np.testing.assert_array_equal(
            joined["trace"]["fl1_raw"][:], np.outer(rows, np.arange(6)).astype(np.int16)
        )
        assert [len(contour) for contour in joined["contour"]] == [row % 4 + 1 for row in rows]


def test_several_origins_are_drained(tmp_path: Path) -> None:
    origins = [recording(tmp_path / f"o{n}.rtdc", 30, start=f"0{n}:00:00") for n in (1, 2)]
    inputs = [
        referring(tmp_path / f"{n}.rtdc", origin, np.array([n, 0, 7]), start=f"0{n}:00:00")
        for n, origin in enumerate(origins)
    ]
    out = tmp_path / "out.rtdc"
    join(inputs, out)
    for origin in origins:
        origin.unlink()
    with Recording(out) as joined:
        assert not joined.basins
        np.testing.assert_array_equal(joined["image"][:], image(30)[[0, 0, 7, 1, 0, 7]])
        assert [len(contour) for contour in joined["contour"]] == [1, 1, 4, 2, 1, 4]
        assert "".join(joined.logs["src-#1_basins"]).count('"origin"') == 1


def test_virtual_over_basins_in_order(tmp_path: Path) -> None:
    origins = [recording(tmp_path / f"o{n}.rtdc", 30, start=f"0{n}:00:00") for n in (1, 2)]
    inputs = [
        referring(tmp_path / f"{n}.rtdc", origin, np.arange(n, n + 9), start=f"0{n}:00:00")
        for n, origin in enumerate(origins)
    ]
    out = tmp_path / "out.rtdc"
    summary = join(inputs, out, virtual=True)
    assert not summary.notes
    with Recording(out) as joined:
        assert "image" not in joined.own_features
        rows = [*range(9), *range(1, 10)]
        np.testing.assert_array_equal(joined["image"][:], image(30)[rows])
        np.testing.assert_array_equal(joined["image"][[17, 0, 9]], image(30)[[9, 0, 1]])
        np.testing.assert_array_equal(joined["mask"][:], image(30)[rows] % 2 == 0)


def test_remote_basins(tmp_path: Path) -> None:
    inputs = [recording(tmp_path / f"{n}.rtdc", start=f"0{n}:00:00") for n in (1, 2)]
    for path in inputs:
        with HDF5Writer(path) as writer:
            writer.store_basin(
                "published", urls=["https://example.org/o.rtdc"], features=["qpi_pha"],
                basin_format="s3", perishable=True,
            )  # fmt: skip
    join(inputs, tmp_path / "out.rtdc")
    with Recording(tmp_path / "out.rtdc") as joined:
        (status,) = joined.basins
        assert status.basin is not None
        assert (status.basin.format, status.basin.perishable) == ("s3", True)
        np.testing.assert_array_equal(joined[status.basin.mapping][:], [*range(25)] * 2)
    with HDF5Writer(inputs[1]) as writer:
        writer.store_basin("more", urls=["https://example.org/m.rtdc"], features=["qpi_amp"])
    with pytest.raises(MismatchError, match=r"'more' cannot be joined.*qpi_amp"):
        join(inputs, tmp_path / "more.rtdc")
    summary = join(inputs, tmp_path / "more.rtdc", drop_basins=True)
    assert "qpi_amp" in summary.omitted[0]
    assert summary.basins == ("published",)


# -- virtual ----------------------------------------------------------------------------------


def test_a_folder_that_is_moved(tmp_path: Path) -> None:
    (tmp_path / "here" / "sub").mkdir(parents=True)
    inputs = [
        recording(tmp_path / "here" / place, start=f"0{n}:00:00")
        for n, place in enumerate(("a 100%b.rtdc", "sub/b.rtdc"))
    ]
    join(inputs, tmp_path / "here" / "out.rtdc", virtual=True)
    (tmp_path / "here").rename(tmp_path / "there")
    with Recording(tmp_path / "there" / "out.rtdc") as joined:
        np.testing.assert_array_equal(joined["image"][25:], image(25))
        np.testing.assert_array_equal(joined["image"][:25], image(25))


def put_virtual(made: Path, **changes: Any) -> None:
    """A recording that refers to `source.rtdc` beside it."""
    folder = made.parent
    options = {"path": folder / "source.rtdc", "dataset": "/events/image", "first": 0,
               "n_events": 25, "n_rows": 25, **changes}  # fmt: skip
    with h5py.File(made, "w") as h5:
        store_virtual_dataset(
            h5.create_group("events"), "image", [Piece(**options)], (4, 5), np.dtype(np.uint8),
            folder, {},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("missing", "which is not there"),
        ("shorter", "more than 24 events"),
        ("other shape", "expected the data"),
        ("virtual", "expected the data"),
        ("outside", "outside of the recording's folder"),
    ],
)
def test_virtual_datasets_are_read_only_if_all_is_there(
    tmp_path: Path, change: str, told: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    recording(folder / "source.rtdc")
    path = folder / "virtual.rtdc"
    put_virtual(path)
    with Recording(path) as opened_recording:
        np.testing.assert_array_equal(opened_recording["image"][:], image(25))
    if change == "missing":
        (folder / "source.rtdc").unlink()
    elif change == "shorter":
        (folder / "source.rtdc").unlink()
        recording(folder / "source.rtdc", 24)
    elif change == "other shape":
        put_virtual(path, dataset="/events/none")
    elif change == "virtual":
        put_virtual(folder / "between.rtdc")
        put_virtual(path, path=folder / "between.rtdc")
    else:
        (folder / "source.rtdc").rename(tmp_path / "source.rtdc")
        put_virtual(path, path=tmp_path / "source.rtdc")
    with Recording(path) as opened_recording, pytest.raises(DamagedFileError, match=told):
        _ = opened_recording["image"]
    if change == "outside":
        with Recording(path, basin_roots=[tmp_path]) as opened_recording:
            assert opened_recording["image"].shape == (25, 4, 5)


def test_parts_that_stay_as_they_are(tmp_path: Path) -> None:
    parts = [recording(tmp_path / f"{n}.rtdc", start="03:00:00") for n in (1, 2)]
    virtual_recording(
        tmp_path / "out.rtdc", parts, metadata={"user:shards": 2}, logs={"mine": ["a line"]}
    )
    with Recording(tmp_path / "out.rtdc") as joined:
        for name in ("index", "time", "frame", "image"):
            np.testing.assert_array_equal(joined[name][:25], joined[name][25:])
        assert joined.metadata["user:shards"] == 2
        assert joined.logs["mine"] == ["a line"]
        assert "dcwrite-join" not in joined.logs


# -- split ------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(data=st.data())
def test_parts_of_any_size(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("parts")
    n_events = data.draw(st.integers(1, 8))
    size = data.draw(st.integers(1, 9))
    source = with_internal(folder / "in.rtdc", 2, n_events=n_events)
    link = data.draw(st.booleans())
    parts = split(source, events=size, link=link).parts
    assert [part.n_events for part in parts] == [
        min(size, n_events - first) for first in range(0, n_events, size)
    ]
    assert_joined_from(source, [part.path for part in parts])
    if len(parts) > 1:
        joined = folder / "joined.rtdc"
        join([part.path for part in parts[::-1]], joined, virtual=data.draw(st.booleans()))
        assert_joined(joined, [source])
    shutil.rmtree(folder)


@pytest.mark.parametrize("size", [1000, 700])
def test_chunks_are_moved_where_they_fit(tmp_path: Path, size: int) -> None:
    number = np.arange(2500)
    with HDF5Writer(tmp_path / "in.rtdc", mode="x", event_count=True) as writer:
        writer.store_feature_chunk("deform", number / 8)
        writer.store_feature_chunk("image", image(2500))
    parts = split(tmp_path / "in.rtdc", events=size)
    paths = [part.path for part in parts.parts]
    joined = join(paths, tmp_path / "out.rtdc", sort="given", offsets="none")
    fits = size == 1000
    # whole chunks that begin where a chunk begins; the last of each feature is not whole
    assert parts.n_chunks_moved == (4 if fits else 0)
    # parts of 700 events end inside of a chunk, which is filled up by the next one
    assert (joined.n_chunks_moved > 0) == fits
    assert_joined_from(tmp_path / "in.rtdc", paths)
    for name in ("deform", "image"):
        np.testing.assert_array_equal(
            values(joined.path_out, name), values(tmp_path / "in.rtdc", name)
        )


def assert_joined_from(source: Path, parts: list[Path]) -> None:
    """What the parts have, one behind the other, is what the recording has."""
    start = 0
    with Recording(source) as whole:
        for path in parts:
            assert verify(path).findings == []
            with Recording(path) as part:
                stop = start + len(part)
                assert part.features == whole.features
                for name in whole.features:
                    if name == "index":
                        np.testing.assert_array_equal(part[name][:], np.arange(len(part)) + 1)
                    elif name == "trace":
                        for key, trace in whole[name].items():
                            np.testing.assert_array_equal(part[name][key][:], trace[start:stop])
                    elif name == "contour":
                        for one, other in zip(part[name], whole[name][start:stop], strict=True):
                            np.testing.assert_array_equal(one, other)
                    else:
                        np.testing.assert_array_equal(part[name][:], whole[name][start:stop])
                start = stop
        assert start == len(whole)


def test_what_a_part_has(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.rtdc")
    (part, _) = split(source, tmp_path / "new" / "folder", events=20).parts
    assert part.path == tmp_path / "new" / "folder" / "in_0001.rtdc"
    with Recording(part.path) as first, Recording(source) as whole:
        assert first.metadata["experiment:event count"] == 20
        assert first.identifier != whole.identifier
        assert str(first.identifier).startswith(str(whole.identifier))
        assert first.logs["notes"] == whole.logs["notes"]
        np.testing.assert_array_equal(first.tables["channels"], whole.tables["channels"])
        assert first.metadata["user:note"] == "kept"
        assert first.metadata["experiment:time"] == whole.metadata["experiment:time"]
        assert first["deform"].attributes == {
            "origin": "camera",
            "min": 0,
            "max": 19 / 8,
            "mean": 9.5 / 8,
        }
        assert '"first_event": 0' in "".join(first.logs["dcwrite-split"])
    again = split(part.path, events=20).parts[0]
    with Recording(again.path) as first:
        assert {"dcwrite-split", "dcwrite-split-1"} < set(first.logs)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"times": [0.1]}, [10, 15]),
        ({"times": [0.05, 0.1, 0.105]}, [5, 5, 1, 14]),
        ({"times": [0.0, 0.2, 9.0]}, [20, 5]),
        ({"every": 0.1}, [10, 10, 5]),
        ({"every": 100.0}, [25]),
        ({}, [25]),
    ],
    ids=str,
)
def test_split_at_times(tmp_path: Path, options: dict[str, Any], sizes: list[int]) -> None:
    source = recording(tmp_path / "in.rtdc")
    summary = split(source, tmp_path, **options)
    assert [part.n_events for part in summary.parts] == sizes
    n_empty = len(options.get("times", ())) + 1 - len(sizes) if "times" in options else 0
    assert any(f"{n_empty} of" in note for note in summary.notes) == bool(n_empty)


def test_times_from_frames(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.rtdc")
    with h5py.File(source, "a") as h5:
        del h5["events/time"]
    assert [part.n_events for part in split(source, every=0.1).parts] == [10, 10, 5]
    with h5py.File(source, "a") as h5:
        del h5["events/frame"]
    with pytest.raises(DataError, match="--events"):
        split(source, tmp_path / "x", every=0.1)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"events": 0}, UsageError, "whole number from 1"),
        ({"events": 2.5}, UsageError, "whole number from 1"),
        ({"events": 3, "every": 1.0}, UsageError, "choose one"),
        ({"times": []}, UsageError, "each later"),
        ({"times": [2.0, 1.0]}, UsageError, "each later"),
        ({"every": 0.0}, UsageError, "above 0"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    source = recording(tmp_path / "in.rtdc")
    with pytest.raises(error, match=told):
        split(source, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["in.rtdc"]


def test_times_that_go_back(tmp_path: Path) -> None:
    source = make_recording(tmp_path / "in.rtdc", 4)
    with HDF5Writer(source) as writer:
        writer.store_feature_chunk("time", np.array([0.0, 2.0, 1.0, 3.0]))
    with pytest.raises(DataError, match="1 s after 2 s at event 2"):
        split(source, every=1.0)


def test_no_events(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected events to split"):
        split(recording(tmp_path / "in.rtdc", 0))


def test_parts_that_exist(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.rtdc")
    (tmp_path / "in_0002.rtdc").write_text("mine")
    (tmp_path / "in_0007.rtdc").write_text("mine, too")
    with pytest.raises(StorageError, match=r"1 of 3 parts exist already \(in_0002\.rtdc\)"):
        split(source, events=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.rtdc", "in_0002.rtdc", "in_0007.rtdc",
    ]  # fmt: skip
    summary = split(source, events=10, overwrite=True)
    assert "in_0007.rtdc" in summary.notes[0]
    assert (tmp_path / "in_0007.rtdc").read_text() == "mine, too"
    assert_joined_from(source, [part.path for part in summary.parts])


@pytest.mark.parametrize("part", [0.01, 0.7, 1.0])
def test_an_interrupted_split_leaves_nothing(tmp_path: Path, part: float) -> None:
    source = recording(tmp_path / "in.rtdc")
    (tmp_path / "in_0001.rtdc").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        split(source, events=10, overwrite=True, progress=stop_at("splitting", part))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("n_inputs", [1, 2])
def test_an_interrupted_split_leaves_no_new_folder(tmp_path: Path, n_inputs: int) -> None:
    sources = [recording(tmp_path / f"{name}.rtdc") for name in "ab"[:n_inputs]]
    (tmp_path / "old").mkdir()
    for folder in ("old", "old/new", "new/deep/er"):
        with pytest.raises(KeyboardInterrupt):
            split_many(sources, tmp_path / folder, progress=stop_at("splitting", 0.5))
        with pytest.raises(KeyboardInterrupt):
            split(sources[0], tmp_path / folder, progress=stop_at("splitting", 0.5))
        assert [path.name for path in tmp_path.rglob("*") if path.is_dir()] == ["old"], folder
    assert split(sources[0], tmp_path / "new" / "deep").parts[0].path.exists()


def test_a_folder_with_other_files_stays(tmp_path: Path) -> None:
    """Somebody puts a file into the new folder before the split is interrupted."""
    source = recording(tmp_path / "in.rtdc")

    def put(progress: Progress) -> None:
        if progress.current:
            (tmp_path / "new" / "mine.txt").write_text("mine")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        split(source, tmp_path / "new", progress=put)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["file", "file/new", "nowhere", "nowhere/new"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, name: str) -> None:
    source = recording(tmp_path / "in.rtdc")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    with pytest.raises(StorageError, match="expected a folder for the outputs, got something"):
        split(source, tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_is_not_known_is_in_each_part(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.rtdc")
    put_unknown(source)
    for part in split(source, events=10).parts:
        assert_unknown(part.path)
        assert verify(part.path).findings == []


def test_what_is_not_known_is_said_when_it_is_left_out(tmp_path: Path) -> None:
    inputs = [recording(tmp_path / f"{n}.rtdc", start=f"0{n}:00:00") for n in (1, 2)]
    put_unknown(inputs[1])
    summary = join(inputs, tmp_path / "out.rtdc")
    (line,) = summary.omitted
    assert line.startswith(
        "'2.rtdc': 'alias', 'calibration', 'empty', 'single' beside the events are not known"
    )
    with Recording(tmp_path / "out.rtdc") as joined:
        assert "'calibration'" in "".join(joined.logs["dcwrite-join-notes"])
        assert set(joined.h5) == {"events", "logs", "tables"}


# -- the file beside a joined recording ---------------------------------------------------------


@pytest.fixture
def joined_virtual(tmp_path: Path) -> list[Path]:
    """Inputs of "out.rtdc" and "out.virtual.h5" in the folder of the test."""
    inputs = [recording(tmp_path / f"{n}.rtdc", start=f"0{n}:00:00") for n in (1, 2)]
    assert join(inputs, tmp_path / "out.rtdc", virtual=True).path_virtual is not None
    return inputs


def test_the_virtual_file_of_the_old_output_goes(tmp_path: Path, joined_virtual: Any) -> None:
    summary = join(joined_virtual, tmp_path / "out.rtdc", overwrite=True)
    assert summary.path_virtual is None
    assert not (tmp_path / "out.virtual.h5").exists()
    assert_joined(tmp_path / "out.rtdc", joined_virtual, changed=COUNTERS)


@pytest.mark.parametrize("part", [0.01, 1.0])
def test_the_virtual_file_stays_with_the_old_output(
    tmp_path: Path, joined_virtual: Any, part: float
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        join(joined_virtual, tmp_path / "out.rtdc", overwrite=True,
             progress=stop_at("joining", part))  # fmt: skip
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_of_that_name_that_is_not_ours_stays(tmp_path: Path, joined_virtual: Any) -> None:
    (tmp_path / "out.rtdc").unlink()
    join(joined_virtual, tmp_path / "out.rtdc")
    (tmp_path / "out.virtual.h5").write_text("mine")
    join(joined_virtual, tmp_path / "out.rtdc", overwrite=True)
    assert (tmp_path / "out.virtual.h5").read_text() == "mine"


def test_a_virtual_file_that_an_input_refers_to_stays(tmp_path: Path, joined_virtual: Any) -> None:
    shutil.copyfile(tmp_path / "out.rtdc", tmp_path / "copy.rtdc")
    third = recording(tmp_path / "3.rtdc", start="03:00:00")
    inputs = [tmp_path / "copy.rtdc", third]
    join(inputs, tmp_path / "out.rtdc", overwrite=True)
    for path in (tmp_path / "copy.rtdc", tmp_path / "out.rtdc"):
        assert verify(path).findings == []
    assert_joined(tmp_path / "out.rtdc", [*joined_virtual, third], changed=COUNTERS)


def test_a_virtual_file_does_not_replace_what_an_input_refers_to(tmp_path: Path) -> None:
    inputs = [recording(tmp_path / f"{n}.rtdc", start=f"0{n}:00:00") for n in (1, 2)]
    origin = recording(tmp_path / "out.virtual.h5", userdef1=np.arange(25.0))
    before = origin.read_bytes()
    for path in inputs:
        with HDF5Writer(path) as writer:
            writer.store_basin("origin", paths=[origin.name], features=["userdef1"])
    with pytest.raises(UsageError, match=r"out\.virtual\.h5': .* leads to"):
        join(inputs, tmp_path / "out.rtdc", overwrite=True, virtual=True)
    assert origin.read_bytes() == before


def test_all_parts_or_none(tmp_path: Path) -> None:
    """The name of the last part is taken while the parts are written."""
    source = recording(tmp_path / "in.rtdc")

    def take(progress: Progress) -> None:
        if progress.is_done:
            (tmp_path / "in_0003.rtdc").write_text("mine")

    with pytest.raises(StorageError, match="in_0003"):
        split(source, events=10, progress=take)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.rtdc", "in_0003.rtdc"]
    assert (tmp_path / "in_0003.rtdc").read_text() == "mine"


@pytest.mark.parametrize("link", [False, True])
def test_basins_of_a_split_recording(tmp_path: Path, link: bool) -> None:
    origin = recording(tmp_path / "origin.rtdc", 30)
    source = with_internal(tmp_path / "in.rtdc", 4)
    with HDF5Writer(source) as writer:
        writer.store_basin("rows", paths=["origin.rtdc"], features=["emodulus"],
                           mapping=np.arange(25)[::-1] + 2)  # fmt: skip
        writer.store_basin("same", paths=["more.rtdc"], features=["userdef2"])
        writer.store_basin("far", urls=["https://example.org/x.rtdc"], features=["qpi_pha"])
    with HDF5Writer(origin) as writer:
        writer.store_feature_chunk("emodulus", np.arange(30) / 9)
    with HDF5Writer(tmp_path / "more.rtdc", mode="x", event_count=True) as writer:
        writer.store_feature_chunk("userdef2", np.arange(25) / 11)
    (tmp_path / "parts").mkdir()
    summary = split(source, tmp_path / "parts", events=10, link=link)
    expected = {"image", "mask", "contour"} | ({"image_bg", "userdef1"} if link else set())
    assert set(summary.references) == (expected if link else set())
    with Recording(source) as whole:
        for part in summary.parts:
            rows = slice(part.first_event, part.first_event + part.n_events)
            with Recording(part.path, basin_roots=[tmp_path]) as recorded:
                for name in ("emodulus", "userdef1", "userdef2", "image", "image_bg"):
                    np.testing.assert_array_equal(recorded[name][:], whole[name][rows], name)
                assert {status.basin.name for status in recorded.basins if status.basin} == {
                    "rows", "same", "far", *(["in.rtdc"] if link else ["light"]),
                }  # fmt: skip


def test_traces_in_a_basin_are_copied_into_parts(tmp_path: Path) -> None:
    """dclab reads traces of an unmapped basin, but of none that is mapped."""
    recording(tmp_path / "origin.rtdc", 12)
    source = tmp_path / "in.rtdc"
    with HDF5Writer(source, mode="x", event_count=True) as writer:
        writer.store_feature_chunk("deform", np.arange(12.0))
        writer.store_basin("all", paths=["origin.rtdc"])
    for part in split(source, events=7).parts:
        with Recording(part.path) as recorded:
            assert "trace" in recorded.own_features
            assert "image" not in recorded.own_features
            assert recorded["image"].shape == (part.n_events, 4, 5)


def test_unknown_groups_are_refused(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.rtdc")
    with h5py.File(source, "a") as h5:
        h5.create_group("events/strange")
    with pytest.raises(DataError, match="strange"):
        split(source)
    other = recording(tmp_path / "other.rtdc", start="04:00:00")
    with pytest.raises(MismatchError, match="strange"):
        join([source, other], tmp_path / "out.rtdc")


def test_split_refuses_what_is_inconsistent(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.rtdc")
    with HDF5Writer(source) as writer:
        writer.store_feature_chunk("deform", [0.5])
    with pytest.raises(RecordingError, match="inconsistent"):
        split(source)


def test_joined_again_is_the_same(tmp_path: Path) -> None:
    """Metadata, attributes and basins, too; but for what a join adds."""
    source = with_internal(tmp_path / "in.rtdc", 3)
    parts = [part.path for part in split(source, events=10).parts]
    join(parts, tmp_path / "out.rtdc")
    added = ("log ", "table ", "attribute 'experiment:run identifier'")
    differences = [
        line for line in compare(source, tmp_path / "out.rtdc")
        if not line.startswith(added) and "attribute 'm" not in line
    ]  # fmt: skip
    # the internal data that parts share are in each of them, so they are there more than once
    assert {line.partition(":")[0].partition(" ")[0] for line in differences} <= {
        "feature",
        "basin",
    }
    assert all("basin" in line for line in differences), differences
