"""Zstandard's own functions: frames that all readers open, and a way without them."""

from __future__ import annotations

import threading
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from numcodecs.zstd import Zstd

from dcwrite import HDF5Writer
from dcwrite.store import zstd, zstd_library
from dcwrite.store.checksum import FLETCHER32_BYTES, with_fletcher32
from dcwrite.store.encoder import ChunkCodec, zstd_content_size
from dcwrite.store.zstd import (
    LEAN_LEVELS,
    SMALL_BYTES,
    Way,
    compress,
    compress_together,
    lean_ways,
)
from dcwrite.store.zstd_library import (
    ROOM_BYTES,
    LibraryCompressor,
    Parameter,
    RoomyFrame,
    find_library,
)

LIBRARY = zstd._library()
#: What only the library can do.
BLOCKS = {Parameter.STRATEGY: 1, Parameter.BLOCK_BYTES: 1024}
needs_library = pytest.mark.skipif(LIBRARY is None, reason="no Zstandard with callable functions")


def noisy_images(n_images: int = 40) -> np.ndarray:
    """Camera noise, more of it where there is more light."""
    rng = np.random.default_rng(5)
    light = 90 + 60 * np.sin(np.linspace(0, 3, 80))[:, np.newaxis] * np.ones(320)
    noise = rng.normal(0, 1, (n_images, 80, 320)) * np.sqrt(light) / 3
    return np.rint(light + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the functions cannot be called."""
    monkeypatch.setattr(zstd, "_library", lambda: None)
    monkeypatch.setattr(zstd, "_compressors", zstd._Compressors())


def all_ways() -> list[Way]:
    found = [way for level in LEAN_LEVELS for way in lean_ways(level, (80, 320), 1, 1 << 20)]
    return list(dict.fromkeys([*found, Way(9), Way(19)]))


def frames_of(rows: np.ndarray, way: Way) -> list[bytes]:
    data = rows.reshape(-1).view(np.uint8)
    one = compress(data, way)
    return [bytes(one), *map(bytes, compress_together([data, data[:30_000]], way))]


@needs_library
@pytest.mark.parametrize("way", all_ways(), ids=str)
def test_every_reader_opens_it(way: Way, tmp_path: Path) -> None:
    rows = noisy_images()
    data = rows.tobytes()
    alone, together, short = frames_of(rows, way)
    assert alone == together
    assert zstd_content_size(alone) == len(data)
    assert Zstd().decode(alone) == data
    assert Zstd().decode(short) == data[:30_000]
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        dset = h5.create_dataset("x", rows.shape, "u1", chunks=rows.shape, **hdf5plugin.Zstd())
        dset.id.write_direct_chunk((0, 0, 0), alone)
        np.testing.assert_array_equal(dset[:], rows)


@needs_library
@pytest.mark.parametrize(
    "way", [way for way in all_ways() if way.search is None or not way.search.needs_library]
)
def test_the_same_bytes_either_way(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same version and parameters."""
    rows = noisy_images(8)
    ours = frames_of(rows, way)
    monkeypatch.setattr(zstd, "_library", lambda: None)
    monkeypatch.setattr(zstd, "_compressors", zstd._Compressors())
    assert frames_of(rows, way) == ours


@needs_library
def test_the_cutting_search_is_as_small(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = noisy_images()
    way, own = lean_ways(1, (80, 320), 1, rows.nbytes)
    ours = len(frames_of(rows, way)[0])
    exact = len(frames_of(rows, own)[0])
    monkeypatch.setattr(zstd, "_library", lambda: None)
    monkeypatch.setattr(zstd, "_compressors", zstd._Compressors())
    way, own = lean_ways(1, (80, 320), 1, rows.nbytes)
    theirs = len(frames_of(rows, way)[0])
    assert ours <= 1.01 * theirs
    assert ours < 0.97 * exact


@needs_library
def test_blocks_of_rows_are_smaller() -> None:
    """More light in some rows than in others: each few rows have symbols of their own."""
    rows = noisy_images()
    *blocks, lean, own = lean_ways(5, (80, 320), 1, rows.nbytes)
    assert [way.search.block_bytes for way in blocks if way.search] == [6400, 3200, 1600]
    size = min(len(frames_of(rows, way)[0]) for way in blocks)
    assert size < len(frames_of(rows, lean)[0])
    assert size < len(frames_of(rows, own)[0])


@pytest.mark.usefixtures("without_library")
@pytest.mark.parametrize("level", sorted(LEAN_LEVELS))
def test_without_the_functions(level: int) -> None:
    rows = noisy_images(4)
    for way in lean_ways(level, (80, 320), 1, rows.nbytes):
        assert way.search is None or not way.search.needs_library
        for frame in frames_of(rows, way)[:2]:
            assert Zstd().decode(frame) == rows.tobytes()


@pytest.mark.parametrize("level", [1, 5])
@pytest.mark.parametrize("fletcher32", [True, False])
@pytest.mark.parametrize("rows", [noisy_images(6), np.zeros((40, 80, 320), np.uint8)],
                         ids=["noise", "zeros"])  # fmt: skip
def test_the_checksum_goes_into_the_room(level: int, fletcher32: bool, rows: np.ndarray) -> None:
    data = rows.reshape(-1)
    assert data.nbytes > SMALL_BYTES
    frame = bytes(compress(data, Way(level)))
    codec = ChunkCodec(level, fletcher32=fletcher32, exact=True)
    stored = codec.encode(rows)
    assert bytes(stored) == (bytes(with_fletcher32(frame)) if fletcher32 else frame)
    np.testing.assert_array_equal(codec.decode(bytes(stored), rows.dtype, rows.shape), rows)


@needs_library
def test_frames_keep_little_memory() -> None:
    """What is compressed to nearly nothing does not hold the memory of what it could have been."""
    assert ROOM_BYTES == FLETCHER32_BYTES
    assert LIBRARY is not None
    compressor = LibraryCompressor(LIBRARY, {Parameter.LEVEL: 1})
    for data in (np.zeros(1 << 20, np.uint8), noisy_images().reshape(-1)):
        frame = compressor.compress(data)
        assert isinstance(frame, RoomyFrame)
        owner = frame.memory if frame.memory.base is None else frame.memory.base
        assert owner.nbytes <= 4 * len(frame) + 4 * ROOM_BYTES


@needs_library
def test_threads_have_compressors_of_their_own() -> None:
    data = noisy_images(6).reshape(-1)
    way = lean_ways(1, (80, 320), 1, data.nbytes)[0]
    expected = bytes(compress(data, way))
    found: list[bytes] = []

    def work() -> None:
        found.extend(bytes(compress(data, way)) for _ in range(30))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 120


def test_searches_that_need_the_library() -> None:
    for level in LEAN_LEVELS:
        for way in lean_ways(level, (80, 320), 1, 1 << 20):
            if way.search is not None and way.search.needs_library:
                with pytest.raises(ValueError, match="own functions, got none"):
                    way.search.compressor(None)


@needs_library
def test_parts_of_arrays_are_refused() -> None:
    """C would read what lies in between."""
    with pytest.raises(ValueError, match="contiguous"):
        compress(np.zeros(100_000, np.uint8)[::2], Way(3))


@needs_library
def test_unknown_parameters() -> None:
    assert LIBRARY is not None
    with pytest.raises(ValueError, match="parameter 99999 cannot be 1"):
        LibraryCompressor(LIBRARY, {99999: 1})
    assert find_library([BLOCKS, {99999: 1}]) is None
    assert find_library([BLOCKS]) is not None


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that are not there, are no libraries, or are too old."""
    monkeypatch.setattr(zstd_library, "_MODULES", ("no_such_package.module", "json", "_struct"))
    assert find_library([BLOCKS]) is None
    monkeypatch.undo()
    monkeypatch.setattr(zstd_library, "_LEAST_VERSION", 10**9)
    assert find_library([BLOCKS]) is None


@pytest.mark.usefixtures("without_library")
def test_a_recording_without_the_functions(tmp_path: Path) -> None:
    rows = noisy_images(120)
    with HDF5Writer(tmp_path / "x.rtdc", "w", stream=True, compression="fast") as writer:
        writer.store_feature_chunk("image", rows)
    with h5py.File(tmp_path / "x.rtdc") as h5:
        np.testing.assert_array_equal(h5["events/image"][:], rows)
