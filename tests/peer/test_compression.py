"""Other readers unpack the chunks that dcwrite compresses.

HDF5's Zstandard filter needs frames that say how much they hold: without it, hdf5plugin 4 returns
garbage without an error, and hdf5plugin 7 refuses. This needs neither dclab nor dcnum.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - the reader
import numpy as np
import pytest
from numcodecs.fletcher32 import Fletcher32
from numcodecs.zstd import Zstd

import dcwrite
from dcwrite.store.encoder import ChunkCodec, zstd_content_size
from tests.peer.judge import recording, simulated_file

#: Events in a chunk of images of 40 x 160 pixels.
N_CHUNK = 163


@functools.cache
def images(n_events: int) -> np.ndarray:
    simulated = recording()
    found: list[np.ndarray] = []
    for frame in range(len(simulated)):
        if (events := simulated.frame_events(frame)) is not None:
            found += list(events["image"])
    return np.array(found[:n_events])


def chunks(dset: h5py.Dataset) -> Iterator[bytes]:
    """Each stored chunk; all filters were applied."""
    for number in range(dset.id.get_num_chunks()):
        info = dset.id.get_chunk_info(number)
        assert info.filter_mask == 0
        yield dset.id.read_direct_chunk(info.chunk_offset)[1]


def assert_frames_hold_their_size(path: Path) -> int:
    """Number of frames that were looked at."""
    n_frames = 0
    with h5py.File(path) as h5:
        for dset in h5["events"].values():
            expected = int(np.prod(dset.chunks)) * dset.dtype.itemsize
            for stored in chunks(dset):
                frame = stored[:-4] if dset.fletcher32 else stored
                assert frame[:4] == b"\x28\xb5\x2f\xfd"
                # RFC 8878, 3.1.1.1.1: bits 7 and 6, or bit 5, mean that the size is there
                assert frame[4] >> 5, dset.name
                assert zstd_content_size(frame) == expected
                n_frames += 1
    return n_frames


@pytest.mark.parametrize("ds_kwds", [None, {"fletcher32": False}], ids=["checksum", "bare"])
@pytest.mark.parametrize("batch", [1, 13, N_CHUNK, 340])
@pytest.mark.parametrize("looks", [False, True], ids=["closed", "looked at"])
def test_writer(tmp_path: Path, batch: int, looks: bool, ds_kwds: dict[str, bool] | None) -> None:
    """Whole chunks and unfinished ones, encoded here or by HDF5."""
    path, expected = tmp_path / "x.rtdc", images(340)
    with dcwrite.HDF5Writer(path, ds_kwds=ds_kwds) as writer:
        for start in range(0, 340, batch):
            writer.store_feature_chunk("image", expected[start : start + batch])
            if looks:
                assert len(writer.h5["events/image"]) == min(340, start + batch)
        writer.store_feature_chunk("deform", np.arange(340.0))
    assert assert_frames_hold_their_size(path) == 4
    with h5py.File(path) as h5:
        assert np.array_equal(h5["events/image"], expected)


def test_stream_and_copy(tmp_path: Path) -> None:
    path = simulated_file(tmp_path / "x.rtdc")
    assert assert_frames_hold_their_size(path) > 50
    with h5py.File(path) as h5, h5py.File(tmp_path / "y.rtdc", "w") as h5_copy:
        dcwrite.copy_features(h5, h5_copy, list(h5["events"]), mapping=np.arange(200)[::-1])
        assert np.array_equal(h5_copy["events/image"], h5["events/image"][:200][::-1])
    assert assert_frames_hold_their_size(tmp_path / "y.rtdc") > 50


@pytest.mark.parametrize("level", [1, 5, 9])
@pytest.mark.parametrize("size", [1, 255, 256, 65791, 65792, 3 * 1024**2])
def test_each_width_of_the_size(level: int, size: int) -> None:
    """The size takes 1, 2 or 4 bytes."""
    data = np.arange(size, dtype=np.uint64).astype(np.uint8)
    codec = ChunkCodec(level, fletcher32=True)
    stored = bytes(codec.encode(data))
    assert zstd_content_size(stored[:-4]) == size
    frame = bytes(Fletcher32().decode(stored))
    assert zlib.crc32(bytes(Zstd().decode(frame))) == zlib.crc32(data.tobytes())
    assert np.array_equal(codec.decode(stored, data.dtype, data.shape), data)


def test_a_frame_without_its_size_is_refused() -> None:
    """Made by hand: window descriptor, one raw block, no content size."""
    data = b"abcdefgh"
    block = (len(data) << 3 | 1).to_bytes(3, "little")
    frame = b"\x28\xb5\x2f\xfd" + b"\x00\x58" + block + data
    assert bytes(Zstd().decode(frame)) == data  # a good frame for Zstandard itself
    assert zstd_content_size(frame) is None
    with pytest.raises(ValueError, match="expected 8 bytes"):
        ChunkCodec(5, fletcher32=False).decode(frame, np.dtype(np.uint8), (8,))
