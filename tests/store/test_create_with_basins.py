"""create_with_basins: a new file that refers to others, and never harms one."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dcwrite import (
    BasinError,
    CreatingFileWithoutBasinWarning,
    DamagedFileError,
    DCWriteError,
    HDF5Writer,
    StorageError,
    UsageError,
    create_with_basins,
    get_measurement_identifier,
)

from .files import basin_texts, contents, make_recording, put_basin


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_recording(tmp_path / "base.rtdc", 5)


def test_it_refers_to_the_file(base: Path, tmp_path: Path) -> None:
    create_with_basins(tmp_path / "out.rtdc", [base])
    basin = basin_texts(tmp_path / "out.rtdc")["base.rtdc"]
    assert basin["paths"] == [str(base)]
    assert basin["features"] == [
        "area_um", "contour", "deform", "frame", "image", "mask", "trace",
    ]  # fmt: skip
    with h5py.File(base, "r") as h5, h5py.File(tmp_path / "out.rtdc", "r") as out:
        assert basin["identifier"] == get_measurement_identifier(h5)
        assert dict(out.attrs) == dict(h5.attrs)
        assert list(out["events"]) == []
        assert out["logs/notes"].shape == (2,)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.rtdc", "out.rtdc"]


@pytest.mark.parametrize("kind", [str, Path])
def test_lists_of_paths_and_order(kind: Any, base: Path, tmp_path: Path) -> None:
    make_recording(tmp_path / "other.rtdc", 5, setup__medium="water", experiment__date="x")
    create_with_basins(
        kind(tmp_path / "out.rtdc"), [[kind("base.rtdc"), kind(base)], [kind("other.rtdc")]]
    )
    texts = basin_texts(tmp_path / "out.rtdc")
    assert texts["base.rtdc"]["paths"] == ["base.rtdc", str(base)]
    assert texts["other.rtdc"]["paths"] == ["other.rtdc"]
    with h5py.File(tmp_path / "out.rtdc", "r") as h5:
        assert h5.attrs["experiment:date"] == "2024-01-02", "the first one that has a key wins"
        assert h5.attrs["setup:medium"] == "water"


def test_relative_paths_start_at_the_output_and_not_where_the_program_runs(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    create_with_basins("../out.rtdc", ["base.rtdc"])
    assert basin_texts(tmp_path / "out.rtdc")["base.rtdc"]["features"]


def own_names(base: Path, how: str) -> tuple[Any, list[Any]]:
    """Names under which an output can be its own input."""
    link = base.with_name("link.rtdc")
    if how == "symlink":
        link.symlink_to(base)
        return link, [base]
    if how == "symlink-as-basin":
        link.symlink_to(base)
        return base, [[link]]
    if how == "hardlink":
        link.hardlink_to(base)
        return link, [base]
    if how == "relative":
        return base, ["base.rtdc"]
    if how == "detour":
        return base, [base.parent / "." / ".." / base.parent.name / "base.rtdc"]
    if how == "second-location":
        return base, [["nowhere.rtdc", str(base)]]
    return base, [base]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "how",
    ["same", "relative", "detour", "symlink", "symlink-as-basin", "hardlink", "second-location"],
)
def test_fault07_an_output_that_is_its_own_input(how: str, overwrite: bool, base: Path) -> None:
    before = base.read_bytes()
    out, basins = own_names(base, how)
    with pytest.raises(UsageError, match="none of the inputs"):
        create_with_basins(out, basins, overwrite=overwrite)
    assert base.read_bytes() == before


def test_fault07_own_input_that_is_not_there_yet(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        create_with_basins(tmp_path / "out.rtdc", ["out.rtdc"])
    assert not list(tmp_path.iterdir())


def test_fault07_an_existing_output_is_kept(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.rtdc"
    out.write_bytes(b"precious")
    with pytest.raises(StorageError, match="overwrite=True") as caught:
        create_with_basins(out, [base])
    assert caught.value.errno == 17
    assert out.read_bytes() == b"precious"
    create_with_basins(out, [base], overwrite=True)
    assert "base.rtdc" in basin_texts(out)


def test_fault07_a_failure_keeps_the_old_output(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.rtdc"
    out.write_bytes(b"precious")
    (tmp_path / "text").write_text("not HDF5")
    with pytest.raises(DamagedFileError):
        create_with_basins(out, [base, tmp_path / "text"], overwrite=True)
    assert out.read_bytes() == b"precious"
    assert len(list(tmp_path.iterdir())) == 3


def test_fault14_basins_of_basins(base: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    with HDF5Writer(tmp_path / "middle.rtdc") as writer:
        writer.store_basin("mapped", paths=["base.rtdc"], mapping=[4, 2], features=["deform"])
        writer.store_basin("inner", internal_data={"bg_med": [1.0]}, mapping=[0, 0])
        writer.store_basin("web", urls=["https://example.org"])
        put_basin(writer.h5, {
            "name": "same", "type": "file", "format": "hdf5", "mapping": "same",
            "paths": [str(base)], "perishable": False,
        })  # fmt: skip
    create_with_basins(tmp_path / "deep" / "out.rtdc", ["../middle.rtdc"])
    texts = basin_texts(tmp_path / "deep" / "out.rtdc")
    assert sorted(texts) == ["mapped", "middle.rtdc", "same", "web"]
    assert texts["same"]["mapping"] == "same"
    assert texts["mapped"]["paths"] == ["base.rtdc", str(base), "../base.rtdc"]
    assert texts["middle.rtdc"]["features"] == ["bg_med"]
    assert contents(tmp_path / "deep" / "out.rtdc")["events/basinmap0"].tolist() == [4, 2]


def test_fault14_a_broken_basin_leaves_no_file(base: Path, tmp_path: Path) -> None:
    with h5py.File(base, "a") as h5:
        put_basin(h5, {"name": "a", "type": "file", "format": "hdf5", "mapping": "basinmap7",
                       "paths": ["b"]})  # fmt: skip
    with pytest.raises(BasinError, match="basinmap7"):
        create_with_basins(tmp_path / "out.rtdc", [base])
    assert [path.name for path in tmp_path.iterdir()] == ["base.rtdc"]


def test_a_basin_that_is_not_there_yet(tmp_path: Path) -> None:
    create_with_basins(tmp_path / "out.rtdc", ["later.rtdc"])
    basin = basin_texts(tmp_path / "out.rtdc")["later.rtdc"]
    assert "features" not in basin
    assert basin["identifier"] is None


def test_no_basins(tmp_path: Path) -> None:
    with pytest.warns(CreatingFileWithoutBasinWarning):
        create_with_basins(tmp_path / "out.rtdc", [])
    assert contents(tmp_path / "out.rtdc") == {}


def test_one_path_instead_of_a_list(base: Path, tmp_path: Path) -> None:
    create_with_basins(tmp_path / "a.rtdc", "base.rtdc")
    create_with_basins(tmp_path / "b.rtdc", base)
    assert list(basin_texts(tmp_path / "a.rtdc")) == ["base.rtdc"]
    assert list(basin_texts(tmp_path / "b.rtdc")) == ["base.rtdc"]


@pytest.mark.parametrize("paths", [[[]], [5], [[5]], [""]], ids=repr)
def test_paths_that_are_none(paths: Any, tmp_path: Path) -> None:
    with pytest.raises(DCWriteError):
        create_with_basins(tmp_path / "out.rtdc", paths)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(base: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        create_with_basins(tmp_path / "no" / "out.rtdc", [base])
    assert caught.value.errno == 2


def test_measurement_identifier(base: Path) -> None:
    with h5py.File(base, "a") as h5:
        digest = hashlib.md5(b"03:04:05_2024-01-02_a machine").hexdigest()
        assert get_measurement_identifier(h5) == str(uuid.UUID(hex=digest))
        h5.attrs["experiment:run identifier"] = np.bytes_(b"run 5")
        assert get_measurement_identifier(h5) == "run 5"
        del h5.attrs["experiment:run identifier"], h5.attrs["setup:identifier"]
        assert get_measurement_identifier(h5) is None


def test_some_events_and_some_features(base: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "out.rtdc", []
    create_with_basins(
        out, [base], features=[["deform"]], mapping=[3, 3, 0], finish=lambda w: seen.append(w.path)
    )
    assert basin_texts(out)["base.rtdc"]["features"] == ["deform"]
    assert seen[0] != out, "before it has its name"
    with h5py.File(out) as h5, h5py.File(base) as h5_base:
        assert h5["events/basinmap0"][:].tolist() == [3, 3, 0]
        assert h5.attrs["experiment:event count"] == 3
        whole = get_measurement_identifier(h5_base)
        assert str(get_measurement_identifier(h5)).startswith(f"{whole}_dcwrite-")
    with pytest.raises(BasinError, match="a list of features for each of the 1 basins, got 2"):
        create_with_basins(out, [base], features=[None, None], overwrite=True)
    with pytest.raises(DCWriteError, match="mapping"):
        create_with_basins(out, [base], mapping=[-1], overwrite=True)
