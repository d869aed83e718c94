"""HDF5Writer: logs, tables and metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dcwrite import DataError, HDF5Writer, MetadataError

from .files import contents

LOGS: dict[str, tuple[Any, list[str]]] = {
    "fault17-non-ascii": (["größe: 3 µm", "日本語"], ["größe: 3 µm", "日本語"]),
    "fault17-empty-list": ([], []),
    "fault17-empty-line": (["a", "", "b"], ["a", "", "b"]),
    "fault17-only-empty-lines": (["", ""], ["", ""]),
    "fault17-plain-string": ("one\ntwo\r\nthree", ["one", "two", "three"]),
    "fault17-empty-string": ("", []),
    "bytes": ([b"a", "ä".encode()], ["a", "ä"]),
    "plain-bytes": (b"a\nb", ["a", "b"]),
    "generator": ((text for text in ("a", "b")), ["a", "b"]),
    "trailing-blanks": (["a  ", "\tb"], ["a  ", "\tb"]),
}


@pytest.mark.parametrize("override", [False, True], ids=["new", "override"])
@pytest.mark.parametrize(("data", "lines"), LOGS.values(), ids=LOGS.keys())
def test_log(data: Any, lines: list[str], override: bool, tmp_path: Path) -> None:
    if not isinstance(data, (str, bytes, list)):
        data = list(data) or lines  # a generator can be read once only
    with HDF5Writer(tmp_path / "a") as writer:
        if override:
            writer.store_log("log", ["an older one that is longer"])
        dset = writer.store_log("log", data, override=override)
        assert isinstance(dset, h5py.Dataset)
        assert dset.name == "/logs/log"
        assert dset.dtype.kind == "S"
        assert [line.decode() for line in dset[:]] == lines
        assert list(writer.h5["logs"]) == ["log"]
    assert [line.decode() for line in contents(tmp_path / "a")["logs/log"]] == lines


@pytest.mark.parametrize(
    "data", [5, [5], ["a\0b"], [None], ["\ud800"]], ids=["int", "ints", "nul", "none", "surrogate"]
)
def test_fault17_a_log_that_cannot_be_stored_leaves_the_old_one(data: Any, tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a") as writer:
        writer.store_log("log", ["old"])
        with pytest.raises(MetadataError, match="log"):
            writer.store_log("log", data, override=True)
        with pytest.raises(MetadataError, match="log"):
            writer.store_log("new", data)
    assert {name: data.tolist() for name, data in contents(tmp_path / "a").items()} == {
        "logs/log": [b"old"]
    }


def test_fault17_a_failed_override_keeps_the_old_log(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a") as writer:
        writer.store_log("log", ["old"])
        writer.ds_kwds["compression"] = "nonsense"  # fails inside HDF5
        with pytest.raises(DataError, match="nonsense"):
            writer.store_log("log", ["new"], override=True)
        assert writer.h5["logs/log"][:].tolist() == [b"old"]


def test_arguments_for_events_are_not_for_texts(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a", ds_kwds={"chunks": (10, 4, 5), "scaleoffset": 0}) as writer:
        writer.store_log("log", ["a"])
        writer.store_table("table", {"a": [1]})
        writer.store_basin("basin", paths=["a.rtdc"])
        assert len(writer.h5["basins"]) == 1


def test_a_log_is_not_replaced_unasked(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a") as writer:
        writer.store_log("log", ["old"])
        with pytest.raises(MetadataError, match="override=True"):
            writer.store_log("log", ["new"])
        assert writer.h5["logs/log"][:].tolist() == [b"old"]


@pytest.mark.parametrize("name", ["", "a/b", 5, "a\0b", "."], ids=repr)
def test_names_that_cannot_be(name: Any, tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a") as writer:
        with pytest.raises(MetadataError, match="name"):
            writer.store_log(name, ["a"])
        with pytest.raises(MetadataError, match="name"):
            writer.store_table(name, {"a": [1]})


def test_table(tmp_path: Path) -> None:
    columns = {"time": [0.0, 1.5], "count": np.array([3, 4], np.int16)}
    with HDF5Writer(tmp_path / "a") as writer:
        dset = writer.store_table("first", columns)
        assert dset.dtype.names == ("time", "count")
        writer.store_table("second", dset[:])
        writer.store_table("empty", {"time": []})
        writer.store_table("first", {"b": [1]}, override=True)
    found = contents(tmp_path / "a")
    assert found["tables/first"]["b"].tolist() == [1]
    assert found["tables/second"]["count"].tolist() == [3, 4]
    assert found["tables/second"]["count"].dtype == np.int16
    assert found["tables/empty"].shape == (0,)


@pytest.mark.parametrize(
    "columns",
    [{}, {"a": [1], "b": [1, 2]}, {"a": [[1]]}, {"a": ["b"]}, {"a": 5}, np.zeros(3), [1, 2]],
    ids=["none", "lengths", "dimensions", "text", "number", "unstructured", "list"],
)
def test_table_that_cannot_be(columns: Any, tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a") as writer:
        writer.store_table("table", {"a": [7]})
        with pytest.raises(MetadataError, match="'table'"):
            writer.store_table("table", columns, override=True)
        assert writer.h5["tables/table"]["a"].tolist() == [7]


def test_metadata(tmp_path: Path) -> None:
    metadata = {
        "setup:channel width": 20,
        "experiment:sample": "Blut µ",
        "experiment:run index": np.int64(3),
        "online_contour:no absdiff": True,
        "qpi:sideband freq": (0.1, 0.2),
        "user:anything": "goes",
    }
    with HDF5Writer(tmp_path / "a") as writer:
        writer.store_metadata(metadata)
    with h5py.File(tmp_path / "a", "r") as h5:
        assert h5.attrs["setup:channel width"] == 20.0
        assert isinstance(h5.attrs["setup:channel width"], float)
        assert h5.attrs["experiment:sample"] == "Blut µ"
        assert h5.attrs["experiment:run index"] == 3
        assert h5.attrs["online_contour:no absdiff"]
        assert h5.attrs["qpi:sideband freq"].tolist() == [0.1, 0.2]
        assert h5.attrs["user:anything"] == "goes"


BAD_METADATA: dict[str, Any] = {
    "pairs": [("user:a", 1)],
    "nul": {"experiment:sample": "a\0b"},
    "surrogate": {"experiment:sample": b"\xff"},
    "nul-in-list": {"user:a": ["b\0"]},
    "mixed-list": {"user:a": [1, "a"]},
    "ragged-list": {"user:a": [[1], [1, 2]]},
    "object": {"user:a": object()},
    "large-integer": {"experiment:event count": 2**70},
    "large-user-integer": {"user:a": 2**70},
    "large-float": {"setup:channel width": 2**2000},
}


@pytest.mark.parametrize("metadata", BAD_METADATA.values(), ids=BAD_METADATA.keys())
def test_metadata_that_cannot_be(metadata: Any, tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a") as writer:
        given = {"user:first": 1, **metadata} if isinstance(metadata, dict) else metadata
        with pytest.raises(MetadataError):
            writer.store_metadata(given)
        assert not writer.h5.attrs


def test_metadata_of_lists(tmp_path: Path) -> None:
    values = {"user:texts": ["a", "b"], "user:array": np.array(["c"]), "user:numbers": (1, 2.5)}
    with HDF5Writer(tmp_path / "a") as writer:
        writer.store_metadata(values)
        for key, value in values.items():
            assert writer.h5.attrs[key].tolist() == list(value)


def test_metadata_are_set_all_or_none(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a") as writer:
        with pytest.raises(MetadataError, match="run index"):
            writer.store_metadata({"setup:channel width": 20, "experiment:run index": "x"})
        assert not writer.h5.attrs
