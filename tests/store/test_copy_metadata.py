"""copy_metadata: attributes, logs and tables; what the output has already stays."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import dcwrite
from dcwrite import HDF5Writer, copy_features, copy_metadata

from .files import contents, make_recording, opened

OURS = f"dcwrite {dcwrite.__version__}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_recording(tmp_path / "in.rtdc")


def test_all_is_copied(source: Path, tmp_path: Path) -> None:
    with opened(source, tmp_path / "out") as (h5_src, h5_dst):
        copy_metadata(h5_src, h5_dst)
        assert dict(h5_dst.attrs) == dict(h5_src.attrs)
        assert h5_dst["logs/notes"].attrs["software"] == OURS
        assert h5_dst["tables/channels"].attrs["software"] == OURS
    before, after = contents(source), contents(tmp_path / "out")
    assert after["logs/notes"].tolist() == before["logs/notes"].tolist()
    np.testing.assert_array_equal(after["tables/channels"], before["tables/channels"])


def test_texts_that_are_no_utf8(source: Path, tmp_path: Path) -> None:
    sample = "5 \N{MICRO SIGN}m beads".encode("latin-1")
    with h5py.File(source, "r+") as h5:
        h5.attrs["experiment:sample"] = h5["logs/notes"].attrs["author"] = sample
        h5["events/deform"].attrs["unit"] = sample
    dcwrite.copy_recording(source, tmp_path / "copy.rtdc", events="0:9")
    dcwrite.link(tmp_path / "link.rtdc", [source])
    parts = [part.path for part in dcwrite.split(source, tmp_path / "parts", events=9).parts]
    dcwrite.join(parts, tmp_path / "joined.rtdc", sort="given", offsets="none")
    outputs = sorted(tmp_path.rglob("*.rtdc"))
    assert len(outputs) == 4 + len(parts)
    for path in outputs:
        with h5py.File(path) as h5:
            assert h5.attrs["experiment:sample"].encode("utf-8", "surrogateescape") == sample
    with h5py.File(tmp_path / "copy.rtdc") as h5:
        for item in (h5["logs/notes"].attrs["author"], h5["events/deform"].attrs["unit"]):
            assert item.encode("utf-8", "surrogateescape") == sample


def test_the_output_wins(source: Path, tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "out") as writer:
        writer.store_metadata({"setup:identifier": "mine"})
        writer.store_log("notes", ["mine"])
        writer.store_table("channels", {"mine": [1]})
    with opened(source, tmp_path / "out") as (h5_src, h5_dst):
        copy_metadata(h5_src, h5_dst)
        assert h5_dst.attrs["setup:identifier"] == "mine"
        assert h5_dst.attrs["experiment:date"] == "2024-01-02"
        assert h5_dst["logs/notes"][:].tolist() == [b"mine"]
        assert "software" not in h5_dst["logs/notes"].attrs
        assert h5_dst["tables/channels"].dtype.names == ("mine",)


def test_event_count_is_that_of_the_output(source: Path, tmp_path: Path) -> None:
    with opened(source, tmp_path / "out") as (h5_src, h5_dst):
        copy_features(h5_src, h5_dst, ["deform", "trace"], mapping=[1, 2])
        copy_metadata(h5_src, h5_dst)
        assert h5_dst.attrs["experiment:event count"] == 2


@pytest.mark.parametrize(
    ("stored", "lines"),
    [
        (np.bytes_(b"only line"), [b"only line"]),
        ("only line µ", ["only line µ".encode()]),
        (np.array(["größe", ""], dtype=object), ["größe".encode(), b""]),
        (np.array([b"a", b"bcd"]), [b"a", b"bcd"]),
    ],
    ids=["fault16-scalar", "fault16-scalar-text", "variable-length", "fixed-length"],
)
def test_logs_become_fixed_length(stored: object, lines: list[bytes], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in", "w") as h5:
        is_variable = isinstance(stored, np.ndarray) and stored.dtype.hasobject
        dtype = h5py.string_dtype() if is_variable else None
        h5.create_dataset("logs/log", data=stored, dtype=dtype)
    with opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst):
        copy_metadata(h5_src, h5_dst)
        assert h5_dst["logs/log"].dtype.kind == "S"
        assert h5_dst["logs/log"][:].tolist() == lines


def test_fault16_groups_in_logs(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in", "w") as h5:
        h5["logs/group/inner"] = np.array([b"deep"])
        h5["logs/broken"] = h5py.SoftLink("/nowhere")
        h5["logs/log"] = np.array([b"flat"])
    with opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst):
        copy_metadata(h5_src, h5_dst)
    after = contents(tmp_path / "out")
    assert after["logs/group/inner"].tolist() == [b"deep"]
    assert after["logs/log"].tolist() == [b"flat"]
    assert len(after) == 2


@pytest.mark.parametrize("software", [b"ShapeIn 2.0", "ShapeIn 2.0", np.bytes_(b"ShapeIn 2.0")])
def test_fault16_software_is_appended(software: object, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in", "w") as h5:
        h5["logs/log"] = np.array([b"a"])
        h5["logs/log"].attrs["software"] = software
        h5["logs/log"].attrs["other"] = 5
    with opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst):
        copy_metadata(h5_src, h5_dst)
        assert h5_dst["logs/log"].attrs["software"] == f"ShapeIn 2.0 | {OURS}"
        assert h5_dst["logs/log"].attrs["other"] == 5


@pytest.mark.parametrize("keep_empty", [False, True])
def test_empty_logs_and_tables(keep_empty: bool, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in", "w") as h5:
        h5["logs/empty"] = np.array([], "S5")
        h5.create_dataset("logs/variable", shape=(0,), dtype=h5py.string_dtype())
        h5["tables/empty"] = np.zeros(0, [("a", float)])
        h5["logs/null"] = h5py.Empty("S1")
    with opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst):
        copy_metadata(h5_src, h5_dst, keep_empty=keep_empty)
    names = {"logs/empty", "logs/variable", "tables/empty"} if keep_empty else set()
    assert set(contents(tmp_path / "out")) == names


def test_tables_with_texts_and_dimensions(tmp_path: Path) -> None:
    texts = np.array([("a", 1.0)], [("name", h5py.string_dtype()), ("value", float)])
    with h5py.File(tmp_path / "in", "w") as h5:
        h5["tables/texts"] = texts
        h5["tables/square"] = np.arange(6.0).reshape(2, 3)
    with opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst):
        copy_metadata(h5_src, h5_dst)
        assert h5_dst["tables/texts"]["name"].tolist() == [b"a"]
        np.testing.assert_array_equal(h5_dst["tables/square"], np.arange(6.0).reshape(2, 3))


def test_a_source_without_anything(tmp_path: Path) -> None:
    h5py.File(tmp_path / "in", "w").close()
    with opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst):
        copy_metadata(h5_src, h5_dst)
        assert list(h5_dst) == []
