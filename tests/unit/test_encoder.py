"""Encoder: the bytes are what HDF5's filters expect; the frame says how much it holds."""

from __future__ import annotations

import threading
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
import zstandard
from numcodecs.fletcher32 import Fletcher32
from numcodecs.zstd import Zstd

from dcwrite.store import zstd
from dcwrite.store.encoder import (
    COMPARE_PERIOD,
    MOST_LARGER,
    SOON_PERIOD,
    ChunkCodec,
    EncoderPool,
    usable_cpus,
    zstd_content_size,
)
from dcwrite.store.zstd import (
    KEPT_COMPRESSORS,
    LEAN_LEVELS,
    SMALL_BYTES,
    Way,
    compress,
    compress_together,
    lean_ways,
    own_way,
)

SIZES = sorted(
    {
        *(base + step for base in (0, 255, 256, 257, 511, 512, 65535, 65536, 65791, 65792, 1 << 20)
          for step in (-2, -1, 0, 1, 2)),
        1, 2, 3, 5, 10, 1000, 77777, 3_000_000,
    }
    - {-2, -1, 0}
)  # fmt: skip


@pytest.mark.parametrize("level", [1, 5, 19])
def test_content_size_is_in_the_frame(level: int) -> None:
    codec = Zstd(level=level)
    noise = np.random.default_rng(0).integers(0, 255, max(SIZES), dtype=np.uint8)
    for size in SIZES if level == 1 else SIZES[::7]:
        for data in (noise[:size], np.zeros(size, np.uint8)):
            assert zstd_content_size(codec.encode(data)) == size


def test_content_size_of_what_is_no_frame() -> None:
    frame = bytes(Zstd(level=1).encode(np.zeros(1000, np.uint8)))
    assert zstd_content_size(b"") is None
    assert zstd_content_size(frame[:5]) is None
    assert zstd_content_size(frame[:6]) is None
    assert zstd_content_size(b"\0" + frame[1:]) is None
    # a frame that does not say: no single segment, and a content size field of zero bytes
    assert zstd_content_size(frame[:4] + b"\0" + frame[5:]) is None


@pytest.mark.parametrize("level", [None, 1, 5])
@pytest.mark.parametrize("fletcher32", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "?", "i2", "f8"])
def test_round_trip(level: int | None, fletcher32: bool, dtype: str) -> None:
    codec = ChunkCodec(level, fletcher32=fletcher32)
    chunk = np.arange(3 * 5 * 7).reshape(3, 5, 7).astype(dtype)
    stored = bytes(codec.encode(chunk))
    np.testing.assert_array_equal(codec.decode(stored, chunk.dtype, chunk.shape), chunk)
    if fletcher32:
        Fletcher32().decode(stored)
        with pytest.raises((RuntimeError, ValueError)):
            codec.decode(stored[:-5] + b"\x55" + stored[-4:], chunk.dtype, chunk.shape)
    with pytest.raises((RuntimeError, ValueError)):
        codec.decode(stored, chunk.dtype, (3, 5, 8))


def test_another_level_is_opened_by_every_reader() -> None:
    codec = ChunkCodec(5, fletcher32=True)
    chunk = np.arange(5000) ** 2
    fast = bytes(codec.encode(chunk, level=1))
    assert fast != bytes(codec.encode(chunk))
    np.testing.assert_array_equal(codec.decode(fast, chunk.dtype, chunk.shape), chunk)


def noisy_images(slope: float) -> np.ndarray:
    """Camera noise on a background that is brighter on one side."""
    noise = np.random.default_rng(1).normal(0, 3, (40, 80, 320))
    return np.rint(120 + np.linspace(-slope, slope, 320) + noise).astype(np.uint8)


def test_lean_parameters_keep_the_size_of_the_level() -> None:
    codec, chunk = ChunkCodec(5, fletcher32=False), noisy_images(40)
    ways = lean_ways(5, chunk.shape[1:], chunk.itemsize, chunk.nbytes)
    assert ways[-1] == Way(5)
    smallest = min(len(compress(chunk.reshape(-1), way)) for way in ways)
    for _ in range(2):
        stored = bytes(codec.encode(chunk))
        assert len(stored) <= (1 + MOST_LARGER) * smallest
        np.testing.assert_array_equal(codec.decode(stored, chunk.dtype, chunk.shape), chunk)


def test_lean_parameters_are_left_where_they_cost_size() -> None:
    """Long matches, as in a text, are what levels are made for."""
    rng = np.random.default_rng(8)
    words = [rng.bytes(rng.integers(3, 12)) for _ in range(3000)]
    text = b"".join(words[n] for n in rng.zipf(1.3, 100_000) if n < len(words))[: 5 * 200 * 320]
    chunk = np.frombuffer(text, np.uint8).reshape(5, 200, 320)
    *lean, exact = (
        len(compress(chunk.reshape(-1), way)) for way in lean_ways(5, (200, 320), 1, chunk.nbytes)
    )
    assert all(size > (1 + MOST_LARGER) * exact for size in lean)
    codec = ChunkCodec(5, fletcher32=False)
    for _ in range(3):
        assert len(codec.encode(chunk)) == exact


def test_the_fastest_of_the_small_ways() -> None:
    chunk = noisy_images(40)
    ways = lean_ways(5, chunk.shape[1:], 1, chunk.nbytes)
    sizes = {way: len(compress(chunk.reshape(-1), way)) for way in ways}
    codec = ChunkCodec(5, fletcher32=False)
    codec.encode(chunk)
    taken = codec.way_together(chunk.nbytes)
    assert taken is not None
    most = (1 + MOST_LARGER) * min(sizes.values())
    assert sizes[taken] <= most
    assert all(sizes[way] > most for way in ways[: ways.index(taken)])


@pytest.mark.parametrize(
    ("item_shape", "itemsize", "expected"),
    [
        pytest.param((80, 320), 1, [6400, 3200, 1600], id="320 wide"),
        pytest.param((80, 400), 1, [6400, 3200, 1600], id="400 wide"),
        pytest.param((80, 250), 1, [5000, 2500, 1250], id="rows of 250"),
        pytest.param((100, 1010), 1, [5050, 4040, 2020], id="rows of 1010"),
        pytest.param((97, 320), 1, [6080, 2880, 1600], id="prime height"),
        pytest.param((10, 20), 1, [6000, 3000, 1600], id="smaller than a block"),
        pytest.param((80, 320), 2, [6400, 3200, 1280], id="uint16"),
        pytest.param((80, 5000), 1, [5000], id="rows larger than blocks"),
        pytest.param((3, 200_000), 1, [], id="rows larger than Zstandard's"),
        pytest.param((1, 1), 1, [6000, 3000, 1500], id="one pixel"),
        pytest.param((50_000_000, 1), 1, [6250, 3125, 1600], id="very high"),
        pytest.param((0, 320), 1, [], id="no rows"),
    ],
)
def test_blocks_hold_whole_rows(
    item_shape: tuple[int, int], itemsize: int, expected: list[int]
) -> None:
    sizes = zstd._sizes_of_blocks(item_shape, itemsize, (6000, 3000, 1500))
    assert sizes == expected


@pytest.mark.parametrize("level", sorted(LEAN_LEVELS))
@pytest.mark.parametrize("item_shape", [(), (177,), (80, 320), (7, 11), (3, 2, 50), (1, 9000)])
def test_all_ways_are_opened_by_every_reader(
    level: int, item_shape: tuple[int, ...], tmp_path: Path
) -> None:
    rng = np.random.default_rng(7)
    chunk = rng.integers(0, 40, (10, *item_shape), dtype=np.uint8)
    ways = {*lean_ways(level, item_shape, 1, chunk.nbytes)}
    ways |= {*lean_ways(level, item_shape, 1, SMALL_BYTES + 1)}  # those of larger chunks as well
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        for number, way in enumerate(sorted(ways, key=str)):
            frame = bytes(compress(chunk.reshape(-1), way))
            assert zstd_content_size(frame) == chunk.nbytes
            assert Zstd().decode(frame) == chunk.tobytes()
            assert zstandard.ZstdDecompressor().decompress(frame) == chunk.tobytes()
            dset = h5.create_dataset(
                f"x{number}", chunk.shape, "u1", chunks=chunk.shape, **hdf5plugin.Zstd()
            )
            dset.id.write_direct_chunk((0,) * chunk.ndim, frame)
            np.testing.assert_array_equal(dset[:], chunk)


def test_exact_is_the_level_itself() -> None:
    chunk = noisy_images(40)
    exact = bytes(compress(chunk.reshape(-1), Way(5)))
    codec = ChunkCodec(5, fletcher32=False, exact=True)
    assert bytes(codec.anew().encode(chunk)) == bytes(codec.encode(chunk)) == exact
    assert bytes(ChunkCodec(5, fletcher32=False).encode(chunk)) != exact


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("n_bytes", [1, 8000, 300_000])
def test_frames_hold_their_size(level: int, n_bytes: int) -> None:
    data = np.random.default_rng(3).integers(0, 9, n_bytes, dtype=np.uint8)
    for way in lean_ways(level, (10, 100), 1, n_bytes):
        frame = bytes(compress(data, way))
        assert zstd_content_size(frame) == n_bytes
        assert Zstd().decode(frame) == data.tobytes()


def test_pool_without_threads_runs_at_once() -> None:
    pool = EncoderPool(1)
    future = pool.submit(threading.get_ident)
    assert future.done()
    assert future.result() == threading.get_ident()
    failed = pool.submit(divmod, 1, 0)
    with pytest.raises(ZeroDivisionError):
        failed.result()
    pool.close()


def test_pool_with_threads() -> None:
    pool = EncoderPool(2)
    assert pool.submit(threading.get_ident).result() != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result()
    pool.close()
    pool.close()
    assert usable_cpus() >= 1
    assert EncoderPool().threads == usable_cpus()


def test_chunks_in_one_call_are_the_same_frames() -> None:
    rng = np.random.default_rng(3)
    small = [rng.random(n).view(np.uint8) for n in (1, 500, 1000, 2048)]
    large = [noisy_images(slope).reshape(-1) for slope in (0, 40, 80)]
    for level in (1, 2, 3, 4, 5, 9):
        for pieces in (small, large):
            for way in lean_ways(level, (80, 320), 1, pieces[0].nbytes):
                frames = compress_together(pieces, way)
                assert [bytes(frame) for frame in frames] == [
                    bytes(compress(piece, way)) for piece in pieces
                ]


@pytest.mark.parametrize(
    ("rows", "exact"),
    [
        pytest.param(np.random.default_rng(4).random(1000), False, id="small"),
        pytest.param(noisy_images(40), False, id="large-lean"),
        pytest.param(noisy_images(0), False, id="large-flat"),
        pytest.param(noisy_images(40), True, id="exact"),
    ],
)
def test_a_way_gives_what_encode_gives(rows: np.ndarray, exact: bool) -> None:
    codec = ChunkCodec(5, fletcher32=True, exact=exact)
    stored = bytes(codec.encode(rows))
    way = codec.way_together(rows.nbytes)
    assert way is not None
    frame = compress_together([rows.reshape(-1).view(np.uint8)], way)[0]
    assert bytes(codec.finish(frame)) == stored


def test_chunks_are_compared_now_and_then() -> None:
    codec = ChunkCodec(5, fletcher32=False)
    rows = np.random.default_rng(4).random(1000)
    lean, own = Way(3, is_small=True), Way(5, is_small=True)
    assert codec.way_together(rows.nbytes) is None  # the first one is encoded in all ways
    codec.encode(rows)
    frame = compress(rows.view(np.uint8), lean)
    for _ in range(COMPARE_PERIOD - 1):
        assert codec.way_together(rows.nbytes) == lean
        codec.note_together(frame, rows.nbytes)
    assert codec.way_together(rows.nbytes) is None  # until one was compared
    codec.encode(rows)
    assert codec.way_together(rows.nbytes) == lean
    assert codec.way_together(SMALL_BYTES + 1) is None
    assert codec.way_together(rows.nbytes, 1) is None
    exact = ChunkCodec(5, fletcher32=False, exact=True)
    assert exact.way_together(rows.nbytes) == own_way(5, rows.nbytes) == own
    assert ChunkCodec(None, fletcher32=True).way_together(rows.nbytes) is None


def test_each_level_is_compared_for_itself() -> None:
    codec = ChunkCodec(5, fletcher32=False)
    rows = np.random.default_rng(4).random(1000)
    for _ in range(COMPARE_PERIOD - 1):
        codec.encode(rows, 5)
        codec.encode(rows, 4)
    assert codec.way_together(rows.nbytes, 5) is not None
    for level in (5, 4):
        codec.encode(rows, level)
        assert codec.way_together(rows.nbytes, level) is None


@pytest.mark.parametrize("together", [False, True])
def test_data_that_change_get_another_way(together: bool) -> None:
    codec = ChunkCodec(5, fletcher32=False)
    images = noisy_images(40).transpose(0, 2, 1).copy()  # each few rows have other values
    masks = np.zeros_like(images)
    masks[:, 100:150, 20:50] = 255
    codec.encode(images)
    before = codec.way_together(images.nbytes)
    assert before is not None
    for _ in range(SOON_PERIOD):
        way = codec.way_together(masks.nbytes) if together else None
        if way is None:
            codec.encode(masks)
        else:
            codec.note_together(compress(masks.reshape(-1), way), masks.nbytes)
    after = codec.way_together(images.nbytes)
    assert after is not None
    sizes = [len(compress(masks.reshape(-1), way)) for way in (before, after)]
    assert sizes[1] < sizes[0]


def test_black_images_at_the_start() -> None:
    """What is decided by chunks without a cell, or with the lamp off, does not last."""
    codec, other = (ChunkCodec(5, fletcher32=False) for _ in range(2))
    images = noisy_images(40).transpose(0, 2, 1).copy()
    codec.encode(np.zeros_like(images))
    for _ in range(SOON_PERIOD + 1):
        stored = codec.encode(images)
    assert bytes(stored) == bytes(other.encode(images))


def test_one_way_among_threads() -> None:
    """Many threads of one dataset: all that they make can be read, and they end with a choice."""
    codec = ChunkCodec(5, fletcher32=False)
    chunks = [np.random.default_rng(n).integers(0, 2 + n, 3000, np.uint8) for n in range(40)]
    found: list[bool] = []

    def work(seed: int) -> None:
        for number in np.random.default_rng(seed).permutation(len(chunks)).tolist() * 8:
            chunk = chunks[number]
            stored = bytes(codec.encode(chunk, 5 - number % 2))
            found.append(bool((codec.decode(stored, chunk.dtype, chunk.shape) == chunk).all()))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * (6 * 8 * len(chunks))


def test_few_compressors_are_kept() -> None:
    """Blocks are as wide as rows: each width of images has compressors of its own."""
    for width in range(100, 100 + KEPT_COMPRESSORS):
        image = np.zeros((1, 100, width + 100), np.uint8)
        ChunkCodec(5, fletcher32=False).encode(image)
    assert len(zstd._compressors.by_way) <= KEPT_COMPRESSORS
    # as many as one recording needs, whatever its level is
    shapes = [((), 8, 8000), ((80, 320), 1, 1 << 20)]
    needed = {way for level in LEAN_LEVELS for shape in shapes for way in lean_ways(level, *shape)}
    assert len(needed) <= KEPT_COMPRESSORS
