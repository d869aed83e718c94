"""Basins: stored and copied with mapping and data, or not at all."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dcwrite import BasinError, HDF5Writer, IgnoringBasinTypeWarning, copy_basins

from .files import basin_texts, contents, image, make_recording, opened, put_basin, tree

DCLAB = {
    "description": None, "features": ["deform"], "identifier": "abc", "perishable": False,
}  # fmt: skip


def test_file_basin(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a") as writer:
        key = writer.store_basin(
            "first", paths=["rel.rtdc", tmp_path / "in.rtdc"], features=["deform"],
            description="d", mapping=[2, 0], identifier="x",
        )  # fmt: skip
        assert list(writer.h5["basins"]) == [key]
        writer.store_basin("second", paths=Path("b.rtdc"))
    texts = basin_texts(tmp_path / "a")
    assert texts["first"] == {
        "description": "d", "name": "first", "format": "hdf5", "type": "file", "identifier": "x",
        "paths": ["rel.rtdc", str(tmp_path / "in.rtdc")], "features": ["deform"],
        "mapping": "basinmap0",
    }  # fmt: skip
    assert texts["second"]["paths"] == ["b.rtdc"]
    assert "mapping" not in texts["second"]
    assert contents(tmp_path / "a")["events/basinmap0"].tolist() == [2, 0]


def test_remote_basin(tmp_path: Path) -> None:
    urls = ["https://example.org/a.rtdc"]
    with HDF5Writer(tmp_path / "a") as writer:
        writer.store_basin("web", urls=urls, basin_format="s3", perishable=True)
        writer.store_basin("plain", urls=urls, mapping=[0])
        writer.store_basin("one", urls=urls[0])
    texts = basin_texts(tmp_path / "a")
    assert (texts["web"]["type"], texts["web"]["format"]) == ("remote", "s3")
    assert (texts["web"]["urls"], texts["web"]["perishable"]) == (urls, True)
    assert texts["web"]["mapping"] == "same"
    assert (texts["plain"]["format"], texts["plain"]["mapping"]) == ("http", "basinmap0")
    assert texts["one"]["urls"] == urls


def test_internal_basin(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a") as writer:
        writer.store_basin(
            "in", internal_data={"image_bg": image(2), "bg_med": [1.0, 2.0]}, mapping=[0, 1, 1, 0]
        )
        with pytest.warns(UserWarning, match="identifier 'x'"):
            writer.store_basin("id", internal_data={"a": [1]}, mapping=[0], identifier="x")
    assert basin_texts(tmp_path / "a")["in"] == {
        "description": None, "name": "in", "format": "h5dataset", "paths": ["basin_events"],
        "type": "internal", "features": ["bg_med", "image_bg"], "mapping": "basinmap0",
    }  # fmt: skip
    found = contents(tmp_path / "a")
    np.testing.assert_array_equal(found["basin_events/image_bg"], image(2))


REFUSED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "empty-paths": {"paths": []},
    "paths-and-urls": {"paths": ["a"], "urls": ["b"]},
    "numbers-as-paths": {"paths": [5]},
    "empty-path": {"paths": [""]},
    "number-as-name": {"name": 5, "paths": ["a"]},
    "number-as-feature": {"paths": ["a"], "features": [5]},
    "text-as-features": {"paths": ["a"], "features": "deform"},
    "mapping-as-feature": {"paths": ["a"], "features": ["deform", "basinmap0"]},
    "mapping-as-internal": {"internal_data": {"basinmap4": [1]}, "mapping": [0]},
    "number-as-internal": {"internal_data": {5: [1]}, "mapping": [0]},
    "number-as-description": {"paths": ["a"], "description": 5},
    "format": {"paths": ["a"], "basin_format": "http"},
    "remote-format": {"urls": ["a"], "basin_format": "ftp"},
    "fault15-float-mapping": {"paths": ["a"], "mapping": [0.0, 1.0]},
    "fault15-bool-mapping": {"paths": ["a"], "mapping": [True, False]},
    "fault15-negative-mapping": {"paths": ["a"], "mapping": [0, -1]},
    "fault15-two-dimensional": {"paths": ["a"], "mapping": [[0, 1]]},
    "fault15-internal-without-mapping": {"internal_data": {"new": [1.0]}},
    "fault15-internal-out-of-range": {"internal_data": {"new": [1.0]}, "mapping": [0, 1]},
    "fault15-internal-float-mapping": {"internal_data": {"new": [1.0]}, "mapping": [0.0]},
    "internal-twice": {"internal_data": {"taken": [1.0], "new": [2.0]}, "mapping": [0]},
    "internal-features": {"internal_data": {"new": [1]}, "mapping": [0], "features": ["new"]},
    "internal-paths": {"internal_data": {"new": [1]}, "mapping": [0], "paths": ["a"]},
    "internal-text": {"internal_data": {"fine": [1.0], "new": ["a"]}, "mapping": [0]},
    "fault15-eleventh-mapping": {"internal_data": {"new": [1.0] * 20}, "mapping": [17, 3]},
}


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """Write a file with an internal basin and ten mappings."""
    with HDF5Writer(tmp_path / "full") as writer:
        writer.store_basin("in", internal_data={"taken": np.arange(20)}, mapping=[0, 0])
        for number in range(1, 10):
            writer.store_basin(str(number), paths=["a"], mapping=[number, 0])
    return tmp_path / "full"


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED.keys())
def test_refused(arguments: dict[str, Any], full: Path) -> None:
    before = tree(full)
    with HDF5Writer(full) as writer, pytest.raises(BasinError, match=r"basin|mapping"):
        writer.store_basin(**{"name": "bad", **arguments})
    assert tree(full) == before


def test_fault15_equal_mappings_are_shared_and_others_are_not(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a") as writer:
        for name, mapping in (("a", [0, 0, 0]), ("b", [0]), ("c", [0, 0, 0]), ("d", [0, 0])):
            writer.store_basin(name, paths=["a"], mapping=mapping)
    texts = basin_texts(tmp_path / "a")
    assert {name: text["mapping"] for name, text in texts.items()} == {
        "a": "basinmap0", "b": "basinmap1", "c": "basinmap0", "d": "basinmap2",
    }  # fmt: skip


def test_threads_that_store_basins_get_the_mappings_that_they_stored(tmp_path: Path) -> None:
    mappings = {f"{number}": np.arange(300) % (number + 2) for number in range(6)}
    start = threading.Barrier(len(mappings))

    def store(name: str, mapping: Any) -> None:
        start.wait()
        writer.store_basin(name, paths=["a"], mapping=mapping)

    with HDF5Writer(tmp_path / "a") as writer:
        threads = [threading.Thread(target=store, args=item) for item in mappings.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    texts, found = basin_texts(tmp_path / "a"), contents(tmp_path / "a")
    for name, mapping in mappings.items():
        np.testing.assert_array_equal(found[f"events/{texts[name]['mapping']}"], mapping)


def test_fault15_a_full_file_takes_an_equal_mapping(full: Path) -> None:
    with HDF5Writer(full) as writer:
        writer.store_basin("again", paths=["a"], mapping=[4, 0])
    assert basin_texts(full)["again"]["mapping"] == "basinmap4"


def test_a_failure_on_the_way_takes_everything_back(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a") as writer:
        writer.store_basin("first", internal_data={"a": [1.0]}, mapping=[0])
    before = tree(tmp_path / "a")
    with (
        HDF5Writer(tmp_path / "a", ds_kwds={"chunks": (5,)}) as writer,
        pytest.raises(ValueError, match="chunks"),
    ):
        # the mapping and the first data fit into such chunks, the second do not
        writer.store_basin("second", internal_data={"b": [1.0], "image": image(1)}, mapping=[0, 0])
    assert tree(tmp_path / "a") == before


def test_copy_renumbers_mappings(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "in") as writer:
        writer.store_basin("file", paths=["/a"], mapping=[3, 1])
        writer.store_basin("inner", internal_data={"bg_med": [5.0, 6.0]}, mapping=[1, 0])
        writer.store_basin("same", paths=["/b"])
    with HDF5Writer(tmp_path / "out") as writer:
        writer.store_basin("mine", paths=["/c"], mapping=[9, 9])
    with opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst):
        copy_basins(h5_src, h5_dst)
        copy_basins(h5_src, h5_dst, internal_basins=False)  # all are there already
    found, texts = contents(tmp_path / "out"), basin_texts(tmp_path / "out")
    assert len(texts) == 4
    for name, mapping in (("file", [3, 1]), ("inner", [1, 0]), ("mine", [9, 9])):
        assert found[f"events/{texts[name]['mapping']}"].tolist() == mapping
    assert "mapping" not in texts["same"]
    assert found["basin_events/bg_med"].tolist() == [5, 6]


def test_copy_without_internal_basins(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "in") as writer:
        writer.store_basin("inner", internal_data={"bg_med": [5.0, 6.0]}, mapping=[1, 0])
    with opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst):
        copy_basins(h5_src, h5_dst, internal_basins=False)
    assert contents(tmp_path / "out") == {}


def test_fault14_mapping_same_chop_and_remote(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in", "w") as h5:
        keys = {
            put_basin(h5, {
                **DCLAB, "name": "same", "type": "file", "format": "hdf5", "mapping": "same",
                "paths": ["/a.rtdc"],
            }),
            put_basin(h5, {
                **DCLAB, "name": "chop", "type": "internal", "format": "h5datasetchop",
                "mapping": "same", "paths": ["basin_events"], "features": ["image"],
            }),
            put_basin(h5, {
                **DCLAB, "name": "web", "type": "remote", "format": "http", "mapping": "same",
                "urls": ["https://example.org/a"],
            }),
        }  # fmt: skip
        h5["basin_events/image/0"] = image(3)
        h5["basin_events/image/1"] = image(2)
    with opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst):
        copy_basins(h5_src, h5_dst)
        assert set(h5_dst["basins"]) == keys
        for key in keys:  # unchanged, so the text and its name are those of the source
            assert h5_dst["basins"][key][:].tolist() == h5_src["basins"][key][:].tolist()
    found = contents(tmp_path / "out")
    np.testing.assert_array_equal(found["basin_events/image/1"], image(2))


BROKEN: dict[str, dict[str, Any]] = {
    "mapping-not-there": {
        "type": "file", "format": "hdf5", "mapping": "basinmap3", "paths": ["a"],
    },
    "mapping-of-no-kind": {"type": "file", "format": "hdf5", "mapping": "deform", "paths": ["a"]},
    "fault15-float-mapping": {
        "type": "file", "format": "hdf5", "mapping": "basinmap1", "paths": ["a"],
    },
    "fault15-internal-without-mapping": {
        "type": "internal", "format": "h5dataset", "paths": ["basin_events"],
        "features": ["bg_med"],
    },
    "internal-data-not-there": {
        "type": "internal", "format": "h5dataset", "paths": ["basin_events"],
        "mapping": "basinmap0", "features": ["bg_med", "tilt"],
    },
    "internal-without-features": {
        "type": "internal", "format": "h5dataset", "paths": ["basin_events"],
        "mapping": "basinmap0",
    },
    "internal-out-of-range": {
        "type": "internal", "format": "h5dataset", "paths": ["basin_events"],
        "mapping": "basinmap2", "features": ["bg_med"],
    },
    "no-type": {"format": "hdf5", "paths": ["a"]},
    "no-location": {"type": "file", "format": "hdf5"},
    "locations-of-no-kind": {"type": "file", "format": "hdf5", "paths": "a"},
}  # fmt: skip


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_fault14_a_broken_basin_leaves_no_partial_copy(
    data: dict[str, Any], tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "in", "w") as h5:
        h5["events/basinmap0"] = [0, 1]
        h5["events/basinmap1"] = [0.5, 1.0]
        h5["events/basinmap2"] = [0, 7]
        h5["basin_events/bg_med"] = [1.0, 2.0]
        put_basin(h5, {"name": "a", "type": "file", "format": "hdf5", "paths": ["b"]})
        put_basin(h5, {"name": "broken", **data})
    with opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst):
        with pytest.raises(BasinError) as caught:
            copy_basins(h5_src, h5_dst)
        assert list(h5_dst) == []
    assert "in" in str(caught.value)


@pytest.mark.parametrize(
    "lines",
    [[b"{"], [b"[1]"], [b"\xff"], np.zeros(3), np.zeros((2, 2), "S1")],
    ids=["json", "list", "bytes", "numbers", "dimensions"],
)
def test_what_is_no_description(lines: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in", "w") as h5:
        h5["basins/key"] = lines
    with (
        opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst),
        pytest.raises(BasinError, match="'key'"),
    ):
        copy_basins(h5_src, h5_dst)


def test_a_type_from_the_future_is_left_out_with_a_warning(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in", "w") as h5:
        put_basin(h5, {"name": "odd", "type": "quantum", "format": "qubit"})
        put_basin(h5, {"name": "fine", "type": "file", "format": "hdf5", "paths": ["a"]})
    with opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst):
        with pytest.warns(IgnoringBasinTypeWarning, match="quantum"):
            copy_basins(h5_src, h5_dst)
        assert len(h5_dst["basins"]) == 1


def test_internal_data_that_the_output_has_already(tmp_path: Path) -> None:
    for name in ("in", "out"):
        with HDF5Writer(tmp_path / name) as writer:
            writer.store_basin(name, internal_data={"bg_med": [5.0, 6.0]}, mapping=[1, 0])
    before = tree(tmp_path / "out")
    with (
        opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst),
        pytest.raises(BasinError, match="bg_med"),
    ):
        copy_basins(h5_src, h5_dst)
    assert tree(tmp_path / "out") == before


def test_relative_paths_still_lead_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    make_recording(tmp_path / "base.rtdc", 3)
    with HDF5Writer(tmp_path / "in") as writer:
        writer.store_basin("a", paths=["base.rtdc", "nowhere.rtdc"])
    with opened(tmp_path / "in", tmp_path / "deep" / "out") as (h5_src, h5_dst):
        copy_basins(h5_src, h5_dst)
    assert basin_texts(tmp_path / "deep" / "out")["a"]["paths"] == [
        "base.rtdc", "nowhere.rtdc", str(tmp_path / "base.rtdc"), "../base.rtdc",
    ]  # fmt: skip
    with opened(tmp_path / "in", tmp_path / "beside") as (h5_src, h5_dst):
        copy_basins(h5_src, h5_dst)
    assert basin_texts(tmp_path / "beside")["a"]["paths"] == ["base.rtdc", "nowhere.rtdc"]


def test_descriptions_of_a_scalar_or_variable_length_dataset(tmp_path: Path) -> None:
    data = {"name": "a", "type": "file", "format": "hdf5", "paths": ["µ"]}
    for number, text in enumerate((np.bytes_(json.dumps(data)), json.dumps(data))):
        with h5py.File(tmp_path / f"in{number}", "w") as h5:
            h5["basins/key"] = text
        with opened(tmp_path / f"in{number}", tmp_path / f"out{number}") as (h5_src, h5_dst):
            copy_basins(h5_src, h5_dst)
        assert basin_texts(tmp_path / f"out{number}")["a"]["paths"] == ["µ"]
