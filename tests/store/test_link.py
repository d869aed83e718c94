"""link: a file that refers to recordings of one measurement, and to nothing that leads back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dcwrite import (
    BasinError,
    DamagedFileError,
    DataError,
    DCWriteError,
    FeatureNotFoundError,
    HDF5Writer,
    LinkSummary,
    Recording,
    RecordingError,
    StorageError,
    UsageError,
    copy_recording,
    link,
    verify,
)

from .files import basin_texts, image, make_recording

N_EVENTS = 12
METADATA = {
    "experiment:date": "2024-01-02",
    "experiment:time": "03:04:05",
    "setup:identifier": "a machine",
}


def add_file(
    path: Path, feat: str = "userdef1", n_events: int = N_EVENTS, **metadata: Any
) -> Path:
    """A recording with one feature of the same measurement."""
    with HDF5Writer(path, mode="x", event_count=True) as writer:
        writer.store_feature_chunk(feat, np.arange(n_events) / 4)
        writer.store_metadata({**METADATA, **metadata})
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_recording(tmp_path / "raw.rtdc", N_EVENTS)


@pytest.fixture
def more(tmp_path: Path) -> Path:
    return add_file(tmp_path / "more.rtdc")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.rtdc"


def test_two_recordings(raw: Path, more: Path, out: Path) -> None:
    before = raw.read_bytes(), more.read_bytes()
    summary = link(out, [raw, more])
    assert isinstance(summary, LinkSummary)
    assert summary.n_events == N_EVENTS
    assert summary.features == (
        "area_um", "contour", "deform", "frame", "image", "mask", "trace", "userdef1",
    )  # fmt: skip
    assert summary.notes == ()
    assert [basin["name"] for basin in summary.basins] == ["more.rtdc", "raw.rtdc"]
    assert json.loads(json.dumps(summary.to_dict()))["paths"] == [str(raw), str(more)]
    with Recording(out) as recording:
        assert recording.own_features == []
        np.testing.assert_array_equal(recording["image"][:], image(N_EVENTS))
        np.testing.assert_array_equal(recording["userdef1"][:], np.arange(N_EVENTS) / 4)
        assert recording.logs["notes"] == ["first line", "zweite Zeile: µm"]
        found = json.loads("\n".join(recording.logs["dcwrite-basins"]))
    assert [file["name"] for file in found["files"]] == ["raw.rtdc", "more.rtdc"]
    assert basin_texts(out)["raw.rtdc"]["paths"] == [str(raw.resolve()), "raw.rtdc"]
    assert verify(out).findings == []
    assert (raw.read_bytes(), more.read_bytes()) == before


def test_moved_together(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "links").mkdir(parents=True)
    (tmp_path / "a" / "data").mkdir()
    raw = raw.rename(tmp_path / "a" / "data" / "raw.rtdc")
    link(tmp_path / "a" / "links" / "out.rtdc", [raw])
    moved = (tmp_path / "a").rename(tmp_path / "b")
    with Recording(moved / "links" / "out.rtdc", basin_roots=[moved]) as recording:
        np.testing.assert_array_equal(recording["image"][:], image(N_EVENTS))


def test_relative_paths_only(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link(tmp_path / "links" / "out.rtdc", [raw], relative_only=True)
    assert basin_texts(tmp_path / "links" / "out.rtdc")["raw.rtdc"]["paths"] == ["../raw.rtdc"]
    with pytest.raises(UsageError, match=r"another name than 'raw\.rtdc', .*own basin"):
        link(tmp_path / "links" / "raw.rtdc", [raw], relative_only=True)
    link(tmp_path / "links" / "raw.rtdc", [raw])


@pytest.mark.parametrize("by_file", [False, True])
def test_mapped(raw: Path, more: Path, out: Path, tmp_path: Path, by_file: bool) -> None:
    rows = [7, 7, 0]
    (tmp_path / "rows.txt").write_text("7\n7\n0\n")
    summary = link(out, [raw, more], mapping=tmp_path / "rows.txt" if by_file else rows)
    assert summary.n_events == 3
    with Recording(raw) as before, Recording(out) as after:
        assert after.own_features == ["basinmap0"]
        np.testing.assert_array_equal(after["image"][:], before["image"][:][rows])
        np.testing.assert_array_equal(after["userdef1"][:], np.array(rows) / 4)
        assert str(after.identifier).startswith(f"{before.identifier}_dcwrite-")
    assert verify(out).findings == []


def test_basins_of_a_mapped_basin(raw: Path, tmp_path: Path, out: Path) -> None:
    middle = add_file(tmp_path / "middle.rtdc", n_events=4)
    with HDF5Writer(middle) as writer:
        writer.store_basin("raw", paths=["raw.rtdc"], features=["image"], mapping=[9, 8, 7, 6])
        writer.store_basin("web", urls=["https://example.org/a"])
    summary = link(out, [middle], mapping=[3, 0])
    with Recording(out) as recording:
        np.testing.assert_array_equal(recording["image"][:], image(N_EVENTS)[[6, 9]])
    assert sorted(basin_texts(out)) == ["middle.rtdc", "raw", "web"]
    assert len(summary.notes) == 1
    assert "basin 'web' cannot be reached from here: remote" in summary.notes[0]


@pytest.mark.parametrize(
    ("features", "names"),
    [
        ("image", ["image"]),
        (["user*", "deform"], ["deform", "userdef1"]),
        ("scalar", ["area_um", "deform", "frame", "userdef1"]),
        ("userdef1", ["userdef1"]),
    ],
)
def test_some_features(raw: Path, more: Path, out: Path, features: Any, names: list[str]) -> None:
    assert list(link(out, [raw, more], features=features).features) == names
    with Recording(out) as recording:
        assert recording.features == names


def test_some_features_of_basins_of_basins(raw: Path, tmp_path: Path, out: Path) -> None:
    middle = tmp_path / "middle.rtdc"
    link(middle, [raw])
    assert link(out, [middle], features="image,mask").features == ("image", "mask")
    assert sorted(basin_texts(out)) == ["middle.rtdc"]
    with Recording(out) as recording:
        np.testing.assert_array_equal(recording["image"][:], image(N_EVENTS))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"features": "imag"}, FeatureNotFoundError, "did you mean image"),
        ({"features": "none"}, FeatureNotFoundError, r"got 'none'; (?!did you mean none)"),
        ({"features": "basinmap0"}, DataError, "mapping of a basin"),
        ({"mapping": [N_EVENTS]}, DataError, "from 0 to 11 .*, got 12; leave it out"),
        ({"mapping": [-1]}, DataError, "from 0 to 11 .*, got -1"),
    ],
)
def test_options_that_do_not_fit(
    raw: Path, out: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        link(out, [raw], **options)
    assert not out.exists()


@pytest.mark.parametrize("url", ["http://example.org/a.rtdc", "s3://bucket/a.rtdc"])
def test_a_server_is_no_input(raw: Path, out: Path, url: str) -> None:
    for name in (url, Path(url)):
        with pytest.raises(UsageError, match=r"got a URL; download it .*store_basin\(urls="):
            link(out, [raw, name])
    with pytest.raises(StorageError, match="got a URL; download it first"):
        copy_recording(url, out)
    assert not out.exists()


# -- recordings that do not belong together -------------------------------------------------


def test_another_measurement(raw: Path, out: Path, tmp_path: Path) -> None:
    other = add_file(tmp_path / "other.rtdc", **{"setup:identifier": "another machine"})
    with pytest.raises(RecordingError, match=r"expected the measurement identifier .*raw\.rtdc"):
        link(out, [raw, other])
    none = add_file(tmp_path / "none.rtdc", **{"setup:identifier": ""})
    summary = link(out, [none, raw])
    with Recording(raw) as recording:
        assert summary.identifier == recording.identifier, "of the one that has one"
    with pytest.raises(RecordingError, match="expected the measurement identifier"):
        link(out, [none, other, raw], overwrite=True)


def test_another_number_of_events(raw: Path, out: Path, tmp_path: Path) -> None:
    other = add_file(tmp_path / "other.rtdc", n_events=13)
    with pytest.raises(RecordingError, match=r"expected 12 events, .* got 13; .*`dcwrite join`"):
        link(out, [raw, other])


def test_an_inconsistent_recording(raw: Path, out: Path) -> None:
    with HDF5Writer(raw) as writer:
        writer.store_feature_chunk("mask", image(2) > 3)
    with pytest.raises(RecordingError, match="14 events: mask"):
        link(out, [raw])
    with pytest.raises(RecordingError, match=r"expected 12 events of 'mask' .* got 14"):
        link(out, [raw], features="image,mask")
    link(out, [raw], features="image")


@pytest.mark.parametrize("kind", ["missing", "text", "cut", "folder", "unfinished"])
def test_inputs_that_cannot_be_read(raw: Path, out: Path, tmp_path: Path, kind: str) -> None:
    bad = tmp_path / "bad.rtdc"
    if kind == "text":
        bad.write_text("no recording")
    elif kind == "cut":
        bad.write_bytes(raw.read_bytes()[:4000])
    elif kind == "folder":
        bad.mkdir()
    elif kind == "unfinished":
        (tmp_path / "bad.rtdc.part").write_bytes(raw.read_bytes())
        (tmp_path / "bad.rtdc.journal").write_bytes(b"")
    with pytest.raises((StorageError, DamagedFileError), match=r"bad\.rtdc|Errno"):
        link(out, [raw, bad])
    assert not out.exists()


def test_no_input_and_one_twice(raw: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one recording"):
        link(out, [])
    (tmp_path / "alias.rtdc").symlink_to(raw)
    for other in (raw, tmp_path / "." / "raw.rtdc", tmp_path / "alias.rtdc"):
        with pytest.raises(UsageError, match="each recording once"):
            link(out, [raw, other])


# -- circles --------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("how", ["same", "symlink", "hardlink", "detour"])
def test_an_output_that_is_an_input(raw: Path, tmp_path: Path, how: str, overwrite: bool) -> None:
    out = tmp_path / "out.rtdc"
    if how == "same":
        out = raw
    elif how == "symlink":
        out.symlink_to(raw)
    elif how == "hardlink":
        out.hardlink_to(raw)
    else:
        out = tmp_path / ".." / tmp_path.name / "raw.rtdc"
    before = raw.read_bytes()
    with pytest.raises(UsageError, match="none of the inputs"):
        link(out, [raw], overwrite=overwrite)
    assert raw.read_bytes() == before


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("by_link", [False, True])
def test_an_output_that_an_input_leads_to(
    raw: Path, tmp_path: Path, exists: bool, by_link: bool
) -> None:
    """Also through another recording, and before it is there."""
    first, second = tmp_path / "first.rtdc", tmp_path / "second.rtdc"
    link(first, [raw])
    link(second, [first], features="image")
    target = raw
    if by_link:
        (tmp_path / "links").symlink_to(tmp_path, target_is_directory=True)
        target = tmp_path / "links" / "raw.rtdc"
    before = raw.read_bytes()
    if not exists:
        raw.unlink()
    message = r"that no input refers to, .*basin 'raw\.rtdc' of '.*first\.rtdc' leads to"
    with pytest.raises(UsageError, match=message):
        link(target, [second], overwrite=True)
    if exists:
        assert raw.read_bytes() == before


@pytest.mark.parametrize("by_link", [False, True])
def test_inputs_that_lead_in_a_circle(tmp_path: Path, out: Path, by_link: bool) -> None:
    first, second = add_file(tmp_path / "first.rtdc"), add_file(tmp_path / "second.rtdc", "deform")
    name = "first.rtdc"
    if by_link:
        (tmp_path / "alias.rtdc").symlink_to(first)
        name = "alias.rtdc"
    for path, other in ((first, "second.rtdc"), (second, name)):
        with HDF5Writer(path) as writer:
            writer.store_basin(f"to {other}", paths=[other])
    message = rf"got a circle: '.*first\.rtdc' > '.*second\.rtdc' > .*\(basin 'to {name}'\)"
    with pytest.raises(BasinError, match=message):
        link(out, [first])


def test_an_input_that_refers_to_itself(tmp_path: Path, out: Path) -> None:
    path = add_file(tmp_path / "self.rtdc")
    with HDF5Writer(path) as writer:
        writer.store_basin("me", paths=["self.rtdc"])
    with pytest.raises(BasinError, match="got a circle"):
        link(out, [path])
    assert not out.exists()


def test_a_diamond_is_no_circle(raw: Path, tmp_path: Path, out: Path) -> None:
    left, right = tmp_path / "left.rtdc", tmp_path / "right.rtdc"
    link(left, [raw], features="image")
    link(right, [raw], features="deform")
    link(out, [left, right])
    with Recording(out) as recording:
        assert recording.features == ["deform", "image"]


def test_an_existing_output(raw: Path, out: Path, tmp_path: Path) -> None:
    out.write_bytes(b"mine")
    with pytest.raises(StorageError, match="--overwrite"):
        link(out, [raw])
    assert out.read_bytes() == b"mine"
    link(out, [raw], overwrite=True)
    with pytest.raises(DCWriteError):
        link(out, [tmp_path / "nowhere"], overwrite=True)
    with h5py.File(out) as h5:
        assert list(h5["basins"])
