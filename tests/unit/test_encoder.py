"""Encoder: the bytes are what HDF5's filters expect; the frame says how much it holds."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numcodecs.fletcher32 import Fletcher32
from numcodecs.zstd import Zstd

from dcwrite.store.encoder import (
    COMPARE_PERIOD,
    MOST_LARGER,
    ChunkCodec,
    EncoderPool,
    usable_cpus,
    zstd_content_size,
)
from dcwrite.store.zstd import (
    LEAN_LEVELS,
    SMALL_BYTES,
    Way,
    compress,
    compress_lean,
    compress_together,
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
    exact = len(compress(chunk.reshape(-1), 5))
    for _ in range(2):
        stored = bytes(codec.encode(chunk))
        assert len(stored) <= (1 + MOST_LARGER) * exact
        np.testing.assert_array_equal(codec.decode(stored, chunk.dtype, chunk.shape), chunk)


def test_lean_parameters_are_left_where_they_cost_size() -> None:
    chunk = noisy_images(0)
    exact, lean = (function(chunk.reshape(-1), 5) for function in (compress, compress_lean))
    assert len(lean) > (1 + MOST_LARGER) * len(exact)
    codec = ChunkCodec(5, fletcher32=False)
    for _ in range(3):
        assert len(codec.encode(chunk)) == len(exact)


def test_exact_is_the_level_itself() -> None:
    chunk = noisy_images(40)
    exact = bytes(compress(chunk.reshape(-1), 5))
    codec = ChunkCodec(5, fletcher32=False, exact=True)
    assert bytes(codec.anew().encode(chunk)) == bytes(codec.encode(chunk)) == exact
    assert bytes(ChunkCodec(5, fletcher32=False).encode(chunk)) != exact


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("n_bytes", [1, 8000, 300_000])
def test_frames_hold_their_size(level: int, n_bytes: int) -> None:
    data = np.random.default_rng(3).integers(0, 9, n_bytes, dtype=np.uint8)
    frames = [compress(data, level)]
    if level in LEAN_LEVELS:
        frames.append(compress_lean(data, level))
    for frame in map(bytes, frames):
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
            is_small = pieces is small
            frames = compress_together(pieces, Way(level, is_lean=False, is_small=is_small))
            assert [bytes(frame) for frame in frames] == [
                bytes(compress(p, level)) for p in pieces
            ]
            if level in LEAN_LEVELS:
                frames = compress_together(pieces, Way(level, is_lean=True, is_small=is_small))
                assert [bytes(frame) for frame in frames] == [
                    bytes(compress_lean(p, level)) for p in pieces
                ]


@pytest.mark.parametrize(
    ("rows", "exact"),
    [
        pytest.param(np.random.default_rng(4).random(1000), False, id="small"),
        pytest.param(noisy_images(40), False, id="large-lean"),
        pytest.param(noisy_images(0), False, id="large-not-lean"),
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
    lean = Way(5, is_lean=True, is_small=True)
    assert codec.way_together(rows.nbytes) is None  # the first one is encoded in both ways
    codec.encode(rows)
    taken = [codec.way_together(rows.nbytes) for _ in range(COMPARE_PERIOD)]
    assert taken.count(lean) == COMPARE_PERIOD - 1
    assert codec.way_together(rows.nbytes) is None  # until one was compared
    codec.encode(rows)
    assert codec.way_together(rows.nbytes) == lean
    assert codec.way_together(SMALL_BYTES + 1) == lean._replace(is_small=False)
    assert codec.way_together(rows.nbytes, 1) is None
    exact = ChunkCodec(5, fletcher32=False, exact=True)
    assert exact.way_together(rows.nbytes) == Way(5, is_lean=False, is_small=True)
    assert ChunkCodec(None, fletcher32=True).way_together(rows.nbytes) is None
