"""Where chunks are in the file: told without HDF5's index, and never told wrong."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dcwrite
from dcwrite import Compression, HDF5Writer, StorageError
from dcwrite.store import places as places_module
from dcwrite.store.append import GrowingDataset
from dcwrite.store.checksum import fletcher32
from dcwrite.store.hdf5 import dataset_filters
from dcwrite.store.places import ChunkPlaces

N_EVENTS = 4000


def features(kind: str) -> dict[str, Any]:
    """Features with chunks of all sizes."""
    rng = np.random.default_rng(5)
    image = rng.integers(0, 250, (N_EVENTS, 20, 30), dtype=np.uint8)
    if kind == "zeros":
        image[:] = 0
    elif kind == "repeated":
        image[:] = image[0]
    return {
        "image": image,
        "mask": image[:, :16] > 125,
        "deform": rng.random(N_EVENTS),
        "frame": np.arange(float(N_EVENTS)),
        "bg_med": np.full(N_EVENTS, 7.0),
    }


def write_watched(
    path: Path, events: dict[str, Any], mode: str = "w", **options: Any
) -> dict[str, list[tuple[int, int, int, int]]]:
    """Write in batches; gives what was told of the chunks of each feature."""
    told: dict[str, list[tuple[int, int, int, int]]] = {}
    with HDF5Writer(path, mode, stream=True, **options) as writer:
        writer.watch_chunks(lambda ds, *args: told.setdefault(ds.name, []).append(args))
        for start in range(0, N_EVENTS, 370):
            for feat, data in events.items():
                writer.store_feature_chunk(feat, data[start : start + 370])
    return told


def assert_told_right(path: Path, told: dict[str, Any]) -> int:
    """Compare with HDF5's index; gives the number of chunks."""
    raw = path.read_bytes()
    n_chunks = 0
    with h5py.File(path) as h5:
        for feat, chunks in told.items():
            dset = h5[f"events/{feat}"]
            for start, offset, size, checksum in chunks:
                info = dset.id.get_chunk_info_by_coord((start, *[0] * (dset.ndim - 1)))
                assert (info.byte_offset, info.size) == (offset, size), feat
                stored = raw[offset : offset + size]
                is_its_own = dset.fletcher32 and len(dataset_filters(dset)) > 1  # compressed
                right = fletcher32(stored[:-4]) if is_its_own else zlib.crc32(stored)
                assert right == checksum
                n_chunks += 1
    return n_chunks


@pytest.fixture(params=["descriptor of HDF5", "handle of our own"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to read what was written; the second is that of Windows."""
    if request.param == "handle of our own":
        monkeypatch.setattr(places_module, "descriptor_of", lambda _h5: None)
    return str(request.param)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("kind", ["noise", "zeros", "repeated"])
@pytest.mark.parametrize(
    "compression",
    [Compression(), Compression(fletcher32=False), Compression.preset("none"),
     Compression(level=None, fletcher32=False)],
    ids=["archive", "no-checksum", "none", "bare"],
)  # fmt: skip
def test_told_right(kind: str, compression: Compression, tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    told = write_watched(path, features(kind), compression=compression)
    assert set(told) == set(features(kind))
    assert assert_told_right(path, told) > 10


@pytest.mark.usefixtures("reader")
def test_told_right_behind_what_was_there(tmp_path: Path) -> None:
    """The same chunks stand in the file already, and the unfinished ones of before move."""
    path = tmp_path / "out.rtdc"
    events = features("noise")
    write_watched(path, events, compression="none")
    told = write_watched(path, events, "a", compression="none")
    assert assert_told_right(path, told) > 10


def test_the_index_is_hardly_ever_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 walks through all chunks of a dataset to tell where one is."""
    asked: list[int] = []
    place_of = GrowingDataset.place_of

    def counting(dataset: GrowingDataset, start: int) -> tuple[int, int]:
        asked.append(start)
        return place_of(dataset, start)

    monkeypatch.setattr(GrowingDataset, "place_of", counting)
    rng = np.random.default_rng(6)
    events = {"image": rng.integers(0, 250, (N_EVENTS, 100, 100), dtype=np.uint8)}
    kwds = {"chunks": (10, 100, 100)}
    told = write_watched(tmp_path / "out.rtdc", events, ds_kwds=kwds)
    assert len(told["image"]) == N_EVENTS // 10
    assert len(asked) <= 2


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    with h5py.File(path, "w") as h5:
        places = ChunkPlaces(h5)
        end = places.end_of_file()
        dset = h5.create_dataset("x", (0, 5000), "u1", maxshape=(None, 5000), chunks=(1, 5000))
        dset.resize(1, axis=0)
        stored = np.random.default_rng(7).bytes(5000)
        dset.id.write_direct_chunk((0, 0), stored)
        where = dset.id.get_chunk_info(0).byte_offset
        assert places.find(stored, where) == where
        assert places.find(b"\0" * 5000, end) is None  # zeros are anywhere
        assert places.find(b"!" + stored[1:], where) is None
        assert places.find(stored[:-1] + b"!", where) is None
        places.close()
        assert places.find(stored, where) is None


def test_a_place_that_was_filled_before_is_compared_as_a_whole(tmp_path: Path) -> None:
    """A chunk fills a hole, and the one behind the hole has the ends of the next chunk."""
    rng = np.random.default_rng(9)
    ends = b"7" * places_module.COMPARED_BYTES
    with h5py.File(tmp_path / "out.h5", "w") as h5:
        dset = h5.create_dataset("x", (9, 50000), "u1", chunks=(1, 50000), compression="gzip")
        places = ChunkPlaces(h5)

        def write(row: int, stored: bytes) -> tuple[int | None, int]:
            end = places.end_of_file()
            dset.id.write_direct_chunk((row, 0), stored)
            where = int(dset.id.get_chunk_info_by_coord((row, 0)).byte_offset)
            found = places.find(stored, end)
            if found is None:
                places.remember(where, len(stored))
            return found, where

        first = write(0, rng.bytes(6000))
        behind = write(1, ends + rng.bytes(4000) + ends)
        write(0, rng.bytes(9000))  # elsewhere: a hole of 6000 bytes is left
        assert write(2, rng.bytes(6000))[1] == first[1]
        assert behind[1] == first[1] + 6000
        found, where = write(3, ends + rng.bytes(4000) + ends)
        assert found in {None, where}
        places.close()


def test_little_is_read_of_new_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no chunk stood before, its two ends tell."""
    monkeypatch.setattr(places_module, "descriptor_of", lambda _h5: None)
    own_reader, n_read = ChunkPlaces._own_reader, [0]

    def counting(places: ChunkPlaces, path: Path) -> Any:
        read_at = own_reader(places, path)

        def read(offset: int, n_bytes: int) -> bytes:
            n_read[0] += n_bytes
            return read_at(offset, n_bytes)

        return read

    monkeypatch.setattr(ChunkPlaces, "_own_reader", counting)
    path = tmp_path / "out.rtdc"
    told = write_watched(path, features("noise"))
    n_chunks = assert_told_right(path, told)
    assert n_read[0] < 4 * n_chunks * places_module.COMPARED_BYTES
    assert n_read[0] < path.stat().st_size / 4


def test_a_chunk_that_is_not_in_the_index_is_an_error(tmp_path: Path) -> None:
    """Its rows would be read as zeros: the recording does not get its name."""
    path = tmp_path / "out.rtdc"
    rng = np.random.default_rng(8)
    writer = HDF5Writer(path, "w", stream=True)
    writer.watch_chunks(lambda *_: None)
    writer.store_feature_chunk("deform", rng.random(2500))
    writer.write_waiting()
    (_, dataset), = writer.datasets()  # fmt: skip
    dataset.dset.id.set_extent((0,))  # HDF5 drops the chunks
    with pytest.raises(StorageError, match="expected 3 chunks in the index, got 1"):
        writer.close()


@pytest.mark.usefixtures("reader")
def test_a_recording_that_is_read_meanwhile(tmp_path: Path) -> None:
    """Live files are closed and opened again, so that they have other handles afterwards."""
    path = tmp_path / "out.rtdc"
    events = features("noise")
    dq = dcwrite.stream.chunk_writer.WriterQueue()
    writer = dcwrite.ChunkWriter(path, dq, _Value(), mode="w", live=True)
    writer.start()
    for start in range(0, N_EVENTS, 500):
        for feat, data in events.items():
            dq.put((feat, data[start : start + 500]), writer.check)
        dq.put(dcwrite.stream.chunk_writer.BatchEnd(500, 500), writer.check)
    writer.finished_when_queue_empty()
    writer.join()
    with dcwrite.Recording(path) as recording:
        for feat, data in events.items():
            np.testing.assert_array_equal(recording[feat][:], data)
    assert [item.name for item in tmp_path.iterdir()] == ["out.rtdc"]


class _Value:
    value = 0
