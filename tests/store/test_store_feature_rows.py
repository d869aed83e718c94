"""store_feature_rows: rows of another file's dataset, moved where they fit, else decoded."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcwrite import (
    DamagedFileError,
    DataError,
    EventError,
    HDF5Writer,
    UsageError,
)
from dcwrite.store import moving, write_behind
from dcwrite.store.checksum import fletcher32

from .files import contents, make_recording

AnyArray = npt.NDArray[Any]

ZSTD5 = {"compression": 32015, "compression_opts": (5,)}
#: Filters of a source: arguments of h5py, and whether its whole chunks are moved into Zstandard 5
#: with checksums.
FILTERS: dict[str, tuple[dict[str, Any], bool]] = {
    "zstd5": ({**ZSTD5, "fletcher32": True}, True),
    "zstd9": ({"compression": 32015, "compression_opts": (9,), "fletcher32": True}, True),
    "zstd5-no-checksum": (ZSTD5, True),
    "zstd1": ({"compression": 32015, "compression_opts": (1,), "fletcher32": True}, False),
    "zstd5-shuffle": ({**ZSTD5, "shuffle": True}, False),
    "gzip": ({"compression": "gzip"}, False),
    "gzip-shuffle-checksum": ({"compression": "gzip", "shuffle": True, "fletcher32": True}, False),
    "lzf": ({"compression": "lzf"}, False),
    "blosc2": (dict(hdf5plugin.Blosc2()), False),
    "bitshuffle": (dict(hdf5plugin.Bitshuffle()), False),
    "none": ({}, False),
    "checksum": ({"fletcher32": True}, False),
}


@pytest.fixture(params=["small", "big"])
def bundle_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Chunks count as small (several per task) or as big (a task each)."""
    if request.param == "big":
        for module in (moving, write_behind):
            monkeypatch.setattr(module, "BUNDLE_BYTES", 1)
    return str(request.param)


def rows_of_images(n_events: int, dtype: str = "u1") -> AnyArray:
    rng = np.random.default_rng(n_events)
    return rng.integers(0, 200, (n_events, 3, 4)).astype(dtype)


def source_file(path: Path, **datasets: tuple[AnyArray, dict[str, Any]]) -> Path:
    with h5py.File(path, "w") as h5:
        for name, (data, kwds) in datasets.items():
            h5.create_dataset(f"events/{name}", data=data, **kwds)
    return path


def moved(
    path_in: Path,
    path_out: Path,
    feat: str,
    rows: Any = None,
    *,
    before: AnyArray | None = None,
    visible: bool = False,
    threads: int = 2,
    **kwds: Any,
) -> tuple[AnyArray, moving.MoveCounts]:
    """Rows in the new file, and the counts."""
    with h5py.File(path_in) as h5, HDF5Writer(path_out, mode="x", threads=threads) as writer:
        if visible:
            assert writer.h5
        if before is not None:
            writer.store_feature_chunk(feat, before)
        counts = writer.store_feature_rows(feat, h5[f"events/{feat}"], rows, **kwds)
        if visible:
            assert len(writer.events[feat]) == writer.lengths()[feat]
    with h5py.File(path_out) as h5:
        return h5[f"events/{feat}"][:], counts


@pytest.mark.usefixtures("bundle_bytes")
@pytest.mark.parametrize("visible", [False, True], ids=["deferred", "visible"])
@pytest.mark.parametrize(("filters", "moves"), FILTERS.values(), ids=FILTERS.keys())
def test_values_for_each_filter(
    filters: dict[str, Any], moves: bool, visible: bool, tmp_path: Path
) -> None:
    data = rows_of_images(1130)
    kwds = {"chunks": (250, 3, 4), "maxshape": (None, 3, 4), **filters}
    path = source_file(tmp_path / "in.rtdc", image=(data, kwds))
    got, counts = moved(path, tmp_path / "out.rtdc", "image", visible=visible)
    np.testing.assert_array_equal(got, data)
    assert got.dtype == data.dtype
    assert (counts.n_moved == 4) == moves
    if not moves:
        assert counts.n_moved == 0
    with h5py.File(tmp_path / "out.rtdc") as h5:
        dset = h5["events/image"]
        assert dset.chunks == (250, 3, 4)
        assert dset.fletcher32
        assert "32015" in dset._filters


def test_moved_chunks_are_the_stored_bytes(tmp_path: Path) -> None:
    data = rows_of_images(1000)
    kwds = {"chunks": (250, 3, 4), "maxshape": (None, 3, 4), **FILTERS["zstd9"][0]}
    path = source_file(tmp_path / "in.rtdc", image=(data, kwds))
    moved(path, tmp_path / "out.rtdc", "image")
    with h5py.File(path) as a, h5py.File(tmp_path / "out.rtdc") as b:
        for start in range(0, 1000, 250):
            first, second = (
                h5["events/image"].id.read_direct_chunk((start, 0, 0)) for h5 in (a, b)
            )
            assert first == second


def test_recode_moves_nothing(tmp_path: Path) -> None:
    data = rows_of_images(1000)
    kwds = {"chunks": (250, 3, 4), "maxshape": (None, 3, 4), **FILTERS["zstd9"][0]}
    path = source_file(tmp_path / "in.rtdc", image=(data, kwds))
    got, counts = moved(path, tmp_path / "out.rtdc", "image", recode=True)
    np.testing.assert_array_equal(got, data)
    assert counts.n_moved == 0


ROWS: dict[str, Any] = {
    "all": None,
    "slice": slice(100, 800),
    "slice-unaligned": slice(37, 1111),
    "slice-in-one-chunk": slice(3, 9),
    "slice-empty": slice(5, 5),
    "slice-step": slice(3, 1000, 7),
    "slice-backwards": slice(900, 100, -1),
    "run": np.arange(100, 700),
    "sorted": np.flatnonzero(np.arange(1130) % 11),
    "sorted-with-whole-chunk": np.r_[3, 300:600, 777],
    "sorted-repeats": np.repeat(np.arange(0, 1100, 5), 2),
    "any-order": np.random.default_rng(1).permutation(1130),
    "uint8": np.array([250, 3, 250], np.uint8),
    "list": [5, 2, 1129],
    "empty": [],
}


@pytest.mark.usefixtures("bundle_bytes")
@pytest.mark.parametrize("n_before", [0, 300, 337])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
def test_rows_in_order_behind_those_that_are_there(
    rows: Any, n_before: int, tmp_path: Path
) -> None:
    data, before = rows_of_images(1130), rows_of_images(n_before)
    kwds = {"chunks": (300, 3, 4), "maxshape": (None, 3, 4), **FILTERS["zstd5"][0]}
    path = source_file(tmp_path / "in.rtdc", image=(data, kwds))
    index = slice(None) if rows is None else rows if isinstance(rows, slice) else list(rows)
    got, _ = moved(path, tmp_path / "out.rtdc", "image", rows, before=before)
    np.testing.assert_array_equal(got, np.concatenate([before, data[index]]))


def test_what_fits_is_moved_after_a_partial_chunk(tmp_path: Path) -> None:
    """An unaligned beginning costs one chunk, where both sides are off by the same."""
    data = rows_of_images(1000)
    kwds = {"chunks": (250, 3, 4), "maxshape": (None, 3, 4), **FILTERS["zstd5"][0]}
    path = source_file(tmp_path / "in.rtdc", image=(data, kwds))
    with h5py.File(path) as h5, HDF5Writer(tmp_path / "out.rtdc") as writer:
        dset = h5["events/image"]
        assert writer.store_feature_rows("image", dset, slice(0, 130)) == (0, 1)
        assert writer.store_feature_rows("image", dset, slice(130, 1000)) == (3, 1)
        assert writer.store_feature_rows("image", dset, slice(0, 250)) == (1, 0)
        assert writer.store_feature_rows("image", dset, slice(10, 20)) == (0, 1)
        assert writer.store_feature_rows("image", dset, slice(20, 250)) == (0, 1)
    with h5py.File(tmp_path / "out.rtdc") as h5:
        np.testing.assert_array_equal(
            h5["events/image"], np.concatenate([data, data[:250], data[10:250]])
        )


LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "one-event-chunks": {"chunks": (1, 3, 4), "compression": "gzip"},
    "one-chunk": {"chunks": (1130, 3, 4), "compression": "gzip"},
    "parts-of-events": {"chunks": (100, 2, 3), "compression": "gzip"},
    "whole-length-parts": {"chunks": (1130, 1, 1), "compression": "gzip"},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("rows", [None, slice(37, 1111), [7, 7, 1000], [9, 3]], ids=str)
def test_layouts(layout: dict[str, Any], rows: Any, tmp_path: Path) -> None:
    data = rows_of_images(1130)
    path = source_file(tmp_path / "in.rtdc", image=(data, layout))
    got, counts = moved(path, tmp_path / "out.rtdc", "image", rows)
    np.testing.assert_array_equal(got, data[slice(None) if rows is None else rows])
    assert counts.n_moved == 0
    with h5py.File(tmp_path / "out.rtdc") as h5:
        assert h5["events/image"].chunks[0] in {1000, 1130}


@pytest.mark.parametrize("dtype", [">f8", "<f4", ">i2", "u8", "f2", "?", "i1"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 4)], ids=str)
def test_dtypes(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    data = (np.arange(2500 * int(np.prod(shape))) % 100).reshape(2500, *shape).astype(dtype)
    kwds = {"chunks": (1000, *shape), "maxshape": (None, *shape), **FILTERS["zstd5"][0]}
    path = source_file(tmp_path / "in.rtdc", some=(data, kwds))
    got, counts = moved(path, tmp_path / "out.rtdc", "some")
    assert got.dtype == data.dtype
    np.testing.assert_array_equal(got, data)
    assert counts == (2, 1)


def test_another_byte_order_is_converted(tmp_path: Path) -> None:
    data = np.arange(2000.0)
    kwds = {"chunks": (1000,), "maxshape": (None,), **FILTERS["zstd5"][0]}
    path = source_file(tmp_path / "in.rtdc", deform=(data.astype(">f8"), kwds))
    before = np.arange(1000.0)
    got, counts = moved(path, tmp_path / "out.rtdc", "deform", before=before)
    np.testing.assert_array_equal(got, np.concatenate([before, data]))
    assert got.dtype == np.dtype("<f8")
    assert counts.n_moved == 0


def test_masks_of_bool_become_numbers(tmp_path: Path) -> None:
    data = rows_of_images(300) > 100
    kwds = {"chunks": (100, 3, 4), "maxshape": (None, 3, 4), **FILTERS["zstd5"][0]}
    path = source_file(tmp_path / "in.rtdc", mask=(data, kwds))
    got, counts = moved(path, tmp_path / "out.rtdc", "mask")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, data * np.uint8(255))
    assert counts.n_moved == 0


def test_masks_of_numbers_stay_as_they_are(tmp_path: Path) -> None:
    data = (rows_of_images(1130) > 100).astype(np.uint8)
    kwds = {"chunks": (250, 3, 4), "maxshape": (None, 3, 4), **FILTERS["zstd5"][0]}
    path = source_file(tmp_path / "in.rtdc", mask=(data, kwds))
    got, counts = moved(path, tmp_path / "out.rtdc", "mask")
    np.testing.assert_array_equal(got, data)
    assert counts.n_moved == 4


def test_values_that_do_not_fit_leave_nothing(tmp_path: Path) -> None:
    data = np.arange(3000.0)
    data[2500] = 0.5
    path = source_file(tmp_path / "in.rtdc", frame=(data, {"chunks": (1000,)}))
    with h5py.File(path) as h5, HDF5Writer(tmp_path / "out.rtdc") as writer:
        writer.store_feature_chunk("frame", np.arange(7))
        with pytest.raises(EventError, match=r"expected values that dtype int64 can hold"):
            writer.store_feature_rows("frame", h5["events/frame"])
        writer.store_feature_chunk("frame", np.arange(3))
    assert contents(tmp_path / "out.rtdc")["events/frame"].tolist() == [*range(7), *range(3)]


@pytest.mark.usefixtures("bundle_bytes")
@pytest.mark.parametrize("visible", [False, True], ids=["deferred", "visible"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("filters", ["zstd1", "gzip", "zstd5-shuffle", "blosc2"])
@pytest.mark.parametrize("chunks", [100, 300])
def test_a_damaged_source_leaves_nothing(
    chunks: int, filters: str, threads: int, visible: bool, tmp_path: Path
) -> None:
    """Chunks before the damaged one are taken back; the writer goes on."""
    data, before = rows_of_images(1130), rows_of_images(137)
    kwds = {"chunks": (chunks, 3, 4), "maxshape": (None, 3, 4), **FILTERS[filters][0]}
    path = source_file(tmp_path / "in.rtdc", image=(data, kwds), bad=(data, kwds))
    damage(path, "bad", (600, 0, 0))
    with (
        h5py.File(path) as h5,
        HDF5Writer(tmp_path / "out.rtdc", mode="x", threads=threads) as writer,
    ):
        if visible:
            assert writer.h5
        writer.store_feature_chunk("image", before)
        for _ in range(2):
            with pytest.raises(DamagedFileError, match=r"in\.rtdc'.*'/events/bad'"):
                writer.store_feature_rows("image", h5["events/bad"])
        with pytest.raises(DamagedFileError):
            writer.store_feature_rows("new", h5["events/bad"])
        writer.store_feature_rows("image", h5["events/image"])
        assert writer.lengths() == {"image": 137 + 1130}
    with h5py.File(tmp_path / "out.rtdc") as h5:
        assert set(h5["events"]) == {"image"}
        np.testing.assert_array_equal(h5["events/image"], np.concatenate([before, data]))


def damage(path: Path, name: str, offset: tuple[int, ...]) -> None:
    """Overwrite the middle of a chunk."""
    with h5py.File(path) as h5:
        info = h5[f"events/{name}"].id.get_chunk_info_by_coord(offset)
    with path.open("rb+") as file:
        file.seek(info.byte_offset + 4)
        file.write(b"\xff" * (info.size - 4))


def test_frames_without_their_size_are_never_moved(tmp_path: Path) -> None:
    """Some readers refuse such chunks, others return garbage; they are no chunks here either."""
    data = rows_of_images(250)
    kwds = {"chunks": (250, 3, 4), "maxshape": (None, 3, 4), **ZSTD5}
    path = source_file(tmp_path / "in.rtdc", image=(data, kwds))
    with h5py.File(path, "r+") as h5:
        dset = h5["events/image"]
        _, stored = dset.id.read_direct_chunk((0, 0, 0))
        # single segment off, window descriptor instead of the content size
        head = bytes([stored[4] & 0x04, 0x40])
        width = 2 if stored[4] >> 6 == 1 else 4
        dset.id.write_direct_chunk((0, 0, 0), stored[:4] + head + stored[5 + width :])
    with pytest.raises(DamagedFileError):
        moved(path, tmp_path / "out.rtdc", "image")


@pytest.mark.usefixtures("bundle_bytes")
def test_filter_masks(tmp_path: Path) -> None:
    """A chunk that a filter was left out for is never moved."""
    data = rows_of_images(900)
    for number, filters in enumerate(["zstd5", "gzip-shuffle-checksum", "lzf"]):
        kwds = {"chunks": (300, 3, 4), "maxshape": (None, 3, 4), **FILTERS[filters][0]}
        path = source_file(tmp_path / f"in{number}.rtdc", image=(data, kwds))
        with h5py.File(path, "r+") as h5:
            raw = (data[300:600] + 1).tobytes()
            h5["events/image"].id.write_direct_chunk((300, 0, 0), raw, filter_mask=0b111)
        expected = data.copy()
        expected[300:600] += 1
        got, counts = moved(path, tmp_path / f"out{number}.rtdc", "image")
        np.testing.assert_array_equal(got, expected)
        assert counts.n_moved == (2 if filters == "zstd5" else 0)


@pytest.mark.usefixtures("bundle_bytes")
def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.rtdc", "w") as h5:
        dset = h5.create_dataset(
            "events/image",
            shape=(1000, 3, 4),
            dtype="u1",
            chunks=(250, 3, 4),
            maxshape=(None, 3, 4),
            fillvalue=9,
            **FILTERS["zstd5"][0],
        )
        dset[250:500] = 1
    got, counts = moved(tmp_path / "in.rtdc", tmp_path / "out.rtdc", "image")
    assert np.all(got[250:500] == 1)
    assert np.all(got[:250] == 9)
    assert np.all(got[500:] == 9)
    assert counts.n_moved == 1


def test_virtual_and_external_sources(tmp_path: Path) -> None:
    data = np.arange(100.0)
    part = source_file(tmp_path / "part.h5", deform=(data, {}))
    layout = h5py.VirtualLayout((150,), "f8")
    layout[:100] = h5py.VirtualSource(part.name, "events/deform", (100,))
    layout[100:] = h5py.VirtualSource(part.name, "events/deform", (100,))[:50]
    with h5py.File(tmp_path / "in.rtdc", "w") as h5:
        h5.create_virtual_dataset("events/deform", layout)
    got, _ = moved(tmp_path / "in.rtdc", tmp_path / "a.rtdc", "deform", slice(50, None))
    np.testing.assert_array_equal(got, np.concatenate([data, data[:50]])[50:])
    with h5py.File(tmp_path / "far.rtdc", "w") as h5:
        h5.create_dataset("events/deform", (100,), "f8", external=[("/etc/hostname", 0, 800)])
    with (
        h5py.File(tmp_path / "far.rtdc") as h5,
        HDF5Writer(tmp_path / "b.rtdc") as writer,
    ):
        with pytest.raises(DamagedFileError, match="not read otherwise"):
            writer.store_feature_rows("deform", h5["events/deform"])
        assert not list(writer.events)


REFUSED: dict[str, tuple[str, Any, type[Exception], str]] = {
    "group": ("trace", None, EventError, "trace/NAME"),
    "text": ("text", None, EventError, "numeric"),
    "scalar": ("single", None, EventError, "first axis"),
    "outside": ("deform", [100], DataError, "below 10"),
    "negative": ("deform", [-1], DataError, "from 0"),
    "floats": ("deform", [1.0], DataError, "integer"),
    "mask": ("deform", np.ones(10, bool), DataError, "flatnonzero"),
    "name": ("a/b", None, EventError, "feature name"),
}


@pytest.mark.parametrize(("name", "rows", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(
    name: str, rows: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "in.rtdc", "w") as h5:
        h5["events/trace/fl1_raw"] = np.zeros((10, 3))
        h5["events/text"] = [b"a", b"b"]
        h5["events/single"] = 3.0
        h5["events/deform"] = np.arange(10.0)
        h5["events/a/b"] = np.arange(10.0)
    with h5py.File(tmp_path / "in.rtdc") as h5, HDF5Writer(tmp_path / "out.rtdc") as writer:
        with pytest.raises(error, match=message):
            writer.store_feature_rows(name, h5[f"events/{name}"], rows)
        assert not list(writer.events)


def test_the_dataset_itself_is_refused(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "out.rtdc") as writer:
        writer.store_feature_chunk("deform", np.arange(10.0))
        with pytest.raises(UsageError, match="another file"):
            writer.store_feature_rows("deform", writer.events["deform"])


def test_traces_groups_and_contours(tmp_path: Path) -> None:
    path = make_recording(tmp_path / "in.rtdc")
    rows = [3, 1, 24]
    seen: list[int] = []
    with h5py.File(path) as h5, HDF5Writer(tmp_path / "out.rtdc", event_count=True) as writer:
        for _ in range(2):
            writer.store_feature_rows("contour", h5["events/contour"], rows, on_rows=seen.append)
            writer.store_feature_rows("trace/fl1_raw", h5["events/trace/fl1_raw"], rows)
        writer.store_feature_rows("deform", h5["events/deform"], group_name="basin_events")
        with h5py.File(tmp_path / "gap.rtdc", "w") as gap:
            h5.copy("events/contour", gap, "contour")
            gap.move("contour/3", "contour/more")
            with pytest.raises(DamagedFileError, match="contour"):
                writer.store_feature_rows("contour", gap["contour"])
        assert writer.lengths() == {"contour": 6, "trace/fl1_raw": 6}
    before, after = contents(path), contents(tmp_path / "out.rtdc")
    assert seen == [1, 2, 3] * 2
    for number, row in enumerate(rows * 2):
        np.testing.assert_array_equal(
            after[f"events/contour/{number}"], before[f"events/contour/{row}"]
        )
        np.testing.assert_array_equal(
            after["events/trace/fl1_raw"][number], before["events/trace/fl1_raw"][row]
        )
    np.testing.assert_array_equal(after["basin_events/deform"], before["events/deform"])


def test_scalar_attributes_count_moved_rows(tmp_path: Path) -> None:
    data = np.arange(2500.0)
    kwds = {"chunks": (1000,), "maxshape": (None,), **FILTERS["zstd5"][0]}
    path = source_file(tmp_path / "in.rtdc", deform=(data, kwds))
    with (
        h5py.File(path) as h5,
        HDF5Writer(tmp_path / "out.rtdc", scalar_attributes=True) as writer,
    ):
        writer.store_feature_rows("deform", h5["events/deform"])
    with h5py.File(tmp_path / "out.rtdc") as h5:
        assert dict(h5["events/deform"].attrs) == {"min": 0, "max": 2499, "mean": 1249.5}


@pytest.mark.usefixtures("bundle_bytes")
def test_a_call_can_be_ended_from_outside(tmp_path: Path) -> None:
    data = rows_of_images(1130)
    path = source_file(
        tmp_path / "in.rtdc", image=(data, {"chunks": (100, 3, 4), "shuffle": True})
    )

    def end(n_rows: int) -> None:
        if n_rows > 500:
            raise KeyboardInterrupt

    with h5py.File(path) as h5, HDF5Writer(tmp_path / "out.rtdc") as writer:
        writer.store_feature_chunk("image", data[:37])
        with pytest.raises(KeyboardInterrupt):
            writer.store_feature_rows("image", h5["events/image"], on_rows=end)
        writer.store_feature_rows("image", h5["events/image"], slice(37, None))
    np.testing.assert_array_equal(contents(tmp_path / "out.rtdc")["events/image"], data)


@pytest.mark.usefixtures("bundle_bytes")
def test_watched_chunks(tmp_path: Path) -> None:
    """Streams are told where each chunk is, and its checksum, moved ones included."""
    data = rows_of_images(1130)
    kwds = {"chunks": (300, 3, 4), "maxshape": (None, 3, 4), **FILTERS["zstd5"][0]}
    path = source_file(tmp_path / "in.rtdc", image=(data, kwds))
    told: list[tuple[int, int, int, int]] = []
    with h5py.File(path) as h5, HDF5Writer(tmp_path / "out.rtdc") as writer:
        writer.watch_chunks(lambda _dataset, *args: told.append(args))
        writer.store_feature_rows("image", h5["events/image"])
        writer.store_feature_rows("image", h5["events/image"])
        writer.write_waiting()
    assert [start for start, *_ in told] == list(range(0, 2100, 300))
    raw = (tmp_path / "out.rtdc").read_bytes()
    for _start, offset, size, checksum in told:
        assert fletcher32(raw[offset : offset + size - 4]) == checksum


CHUNKS = st.integers(1, 40)


@given(
    n_events=st.integers(0, 130),
    chunks=CHUNKS,
    filters=st.sampled_from(sorted(FILTERS)),
    steps=st.lists(
        st.one_of(
            st.tuples(st.integers(0, 140), st.integers(0, 140)).map(lambda ends: slice(*ends)),
            st.lists(st.integers(0, 129), max_size=20),
        ),
        max_size=4,
    ),
    events=st.integers(0, 60),
    look=st.booleans(),
    bundle=st.sampled_from([1, 64, write_behind.BUNDLE_BYTES]),
)
def test_any_rows_of_any_chunks(
    tmp_path_factory: pytest.TempPathFactory,
    n_events: int,
    chunks: int,
    filters: str,
    steps: list[Any],
    events: int,
    look: bool,
    bundle: int,
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    data, before = rows_of_images(n_events), rows_of_images(events)
    kwds = {"chunks": (chunks, 3, 4), "maxshape": (None, 3, 4), **FILTERS[filters][0]}
    path = source_file(folder / "in.rtdc", image=(data, kwds))
    expected = [before]
    with pytest.MonkeyPatch.context() as patch:
        for module in (moving, write_behind):
            patch.setattr(module, "BUNDLE_BYTES", bundle)
        with (
            h5py.File(path) as h5,
            HDF5Writer(folder / "out.rtdc", ds_kwds={"chunks": (20, 3, 4)}, threads=2) as writer,
        ):
            writer.store_feature_chunk("image", before)
            for number, rows in enumerate(steps):
                if isinstance(rows, list):
                    rows = [row for row in rows if row < n_events]  # noqa: PLW2901
                    index: Any = np.array(rows, dtype=int)
                else:
                    index = rows
                if look and number == 1:
                    assert writer.h5
                writer.store_feature_rows("image", h5["events/image"], rows)
                expected.append(data[index])
                writer.store_feature_chunk("image", data[:3])
                expected.append(data[:3])
    np.testing.assert_array_equal(
        contents(folder / "out.rtdc")["events/image"], np.concatenate(expected)
    )


#: As in test_full_disk: a limit for files stands in for a full disk.
FULL_DISK = """
import resource, signal, sys
import h5py, dcwrite

path_in, path_out = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
try:
    with h5py.File(path_in) as h5, dcwrite.HDF5Writer(path_out) as writer:
        writer.store_feature_rows("image", h5["events/image"])
except dcwrite.StorageError as exc:
    print("StorageError", exc.errno, exc.filename == path_out)
"""


@pytest.mark.parametrize("filters", ["zstd5", "gzip", "blosc2"])
def test_a_full_disk(filters: str, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 255, (400, 60, 70)).astype("u1")
    kwds = {"chunks": (100, 60, 70), "maxshape": (None, 60, 70), **FILTERS[filters][0]}
    path = source_file(tmp_path / "in.rtdc", image=(data, kwds))
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path, tmp_path / "out.rtdc"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout.split() == ["StorageError", str(errno.EFBIG), "True"], result.stderr
