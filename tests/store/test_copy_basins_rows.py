"""copy_basins for some of the events: every mapping is composed with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcwrite import BasinError, DataError, HDF5Writer, Recording, copy_basins

from .files import basin_texts, make_recording, put_basin

N_EVENTS = 25


def make_source(folder: Path) -> Path:
    """A recording with basins of each type, mapped and not."""
    make_recording(folder / "far.rtdc", N_EVENTS)
    path = folder / "source.rtdc"
    number = np.arange(N_EVENTS)
    with HDF5Writer(path, mode="x", event_count=True) as writer:
        writer.store_feature_chunk("userdef1", number / 2)
        writer.store_basin("same", paths=["far.rtdc"], features=["deform"])
        writer.store_basin("mapped", paths=["far.rtdc"], features=["image"], mapping=number[::-1])
        writer.store_basin(
            "inner",
            internal_data={"bg_med": np.array([0.5, 1.5, 2.5, 3.5])},
            mapping=number % 4,
        )
        writer.store_basin("web", urls=["https://example.org/a"], features=["mask"])
        writer.store_basin(
            "cloud",
            urls=["s3://bucket/a"],
            basin_format="s3",
            mapping=number // 2,
            perishable=True,
        )
        writer.store_basin("lake", urls=["dcor.example.org/a"], basin_format="dcor")
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path)


def copied(source: Path, target: Path, rows: Any, **options: Any) -> list[str]:
    with h5py.File(source) as h5_src, h5py.File(target, "w") as h5_dst:
        h5_dst.create_group("events")
        left_out = copy_basins(h5_src, h5_dst, rows=rows, **options)
        h5_dst.attrs["experiment:event count"] = len(rows)
    return [basin.name for basin in left_out]


def mapping_of(path: Path, name: str) -> list[int] | None:
    text = basin_texts(path)[name]
    with h5py.File(path) as h5:
        key = text.get("mapping")
        return None if key in {None, "same"} else h5["events"][key][:].tolist()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, N_EVENTS - 1), min_size=1, max_size=40))
def test_each_mapping_is_composed(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    source, target = make_source(folder), folder / "target.rtdc"
    chosen = np.array(rows)
    assert copied(source, target, rows) == []
    assert sorted(basin_texts(target)) == ["cloud", "inner", "lake", "mapped", "same", "web"]
    assert mapping_of(target, "same") == rows
    assert mapping_of(target, "web") == rows
    assert mapping_of(target, "lake") == rows
    assert mapping_of(target, "cloud") == (chosen // 2).tolist()
    with Recording(source) as before, Recording(target) as after:
        for feat in ("deform", "image", "bg_med"):
            np.testing.assert_array_equal(after[feat][:], before[feat][chosen])
        assert len(after.h5["basin_events/bg_med"]) == len(set((chosen % 4).tolist()))


def test_the_rest_of_a_description_stays(source: Path, tmp_path: Path) -> None:
    copied(source, tmp_path / "target.rtdc", [1, 2])
    before, after = basin_texts(source), basin_texts(tmp_path / "target.rtdc")
    for name, text in before.items():
        assert {**text, "mapping": None} == {**after[name], "mapping": None}
    assert after["cloud"]["perishable"] is True


def test_images_of_an_internal_basin(tmp_path: Path) -> None:
    """They keep what says that they are images."""
    images = np.random.default_rng(0).integers(0, 255, (5, 6, 7), np.uint8)
    with HDF5Writer(tmp_path / "source.rtdc", mode="x", event_count=True) as writer:
        writer.store_feature_chunk("userdef1", np.arange(10.0))
        writer.store_basin("bg", internal_data={"image_bg": images}, mapping=np.arange(10) // 2)
        writer.h5["basin_events/image_bg"].attrs["note"] = "kept"
    copied(tmp_path / "source.rtdc", tmp_path / "target.rtdc", [9, 0, 8])
    with h5py.File(tmp_path / "target.rtdc") as h5:
        dset = h5["basin_events/image_bg"]
        np.testing.assert_array_equal(dset[:], images[[0, 4]])
        assert h5["events/basinmap0"][:].tolist() == [1, 0, 1]
        assert dset.attrs["CLASS"] == b"IMAGE"
        assert dset.attrs["note"] == "kept"


def test_chopped_images_are_named_not_copied(source: Path, tmp_path: Path) -> None:
    with h5py.File(source, "a") as h5:
        h5.require_group("basin_events").create_group("mask")["index"] = np.zeros((N_EVENTS, 5))
        put_basin(h5, {
            "name": "chopped", "type": "internal", "format": "h5datasetchop", "mapping": "same",
            "paths": ["basin_events"], "features": ["mask"], "perishable": False,
        })  # fmt: skip
    assert copied(source, tmp_path / "target.rtdc", [1]) == ["chopped"]
    assert "chopped" not in basin_texts(tmp_path / "target.rtdc")
    with h5py.File(tmp_path / "target.rtdc") as h5:
        assert list(h5["basin_events"]) == ["bg_med"]


def test_some_of_the_basins(source: Path, tmp_path: Path) -> None:
    with Recording(source) as recording:
        keys = {s.key for s in recording.basins if s.basin and s.basin.name in {"web", "inner"}}
    copied(source, tmp_path / "target.rtdc", [4, 5], keys=keys)
    assert sorted(basin_texts(tmp_path / "target.rtdc")) == ["inner", "web"]


@pytest.mark.parametrize("rows", [[-1], [0.5], [[1]]])
def test_rows_that_are_none(source: Path, tmp_path: Path, rows: Any) -> None:
    with pytest.raises(DataError, match="rows"):
        copied(source, tmp_path / "target.rtdc", rows)


def test_rows_beyond_a_mapping(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BasinError, match="expected a mapping of more than 25 events, got 25"):
        copied(source, tmp_path / "target.rtdc", [N_EVENTS])
    with h5py.File(tmp_path / "target.rtdc") as h5:
        assert list(h5["events"]) == []


def test_more_mappings_than_there_is_room_for(tmp_path: Path) -> None:
    path = tmp_path / "source.rtdc"
    with HDF5Writer(path, mode="x") as writer:
        writer.store_feature_chunk("userdef1", np.arange(20.0))
        for number in range(10):
            writer.store_basin(
                f"b{number}", paths=["x.rtdc"], mapping=np.roll(np.arange(20), number + 1)
            )
        writer.store_basin("same", paths=["y.rtdc"])
    with pytest.raises(BasinError, match="at most 10 different mappings"):
        copied(path, tmp_path / "target.rtdc", [3, 4])
