"""Fletcher-32 as HDF5 has it: numcodecs, and HDF5's own filter, are the judges."""

from __future__ import annotations

import sys
import zlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numcodecs.fletcher32 import Fletcher32

from dcwrite.store import checksum
from dcwrite.store.journal import CRC32, FLETCHER32, FeatureRecord
from dcwrite.store.short_calls import SHORT_BYTES


def reference(data: bytes) -> bytes:
    return bytes(Fletcher32().encode(np.frombuffer(data, np.uint8)))


@given(st.binary(min_size=1, max_size=3000))
def test_what_is_appended_is_that_of_numcodecs(data: bytes) -> None:
    stored = checksum.with_fletcher32(data)
    assert stored == reference(data)
    assert checksum.fletcher32(data) == checksum.chunk_checksum(stored)
    assert checksum.without_fletcher32(stored).tobytes() == data


@pytest.mark.parametrize(
    "size", [720, 721, 722, SHORT_BYTES - 1, SHORT_BYTES, SHORT_BYTES + 1, 65535, 1_000_003]
)
@pytest.mark.parametrize("value", [0, 255, None])
def test_long_and_extreme_ones(size: int, value: int | None) -> None:
    rng = np.random.default_rng(size)
    data = rng.integers(0, 256, size, np.uint8)
    if value is not None:
        data[:] = value
    assert checksum.with_fletcher32(data) == reference(data.tobytes())
    assert checksum._sum_of_numcodecs(data) == checksum.fletcher32(data)


@pytest.mark.skipif(sys.platform != "linux", reason="not tried: numcodecs may have to do it there")
def test_the_function_of_hdf5_is_found() -> None:
    assert checksum._sum_of_hdf5() is not None


def test_hdf5_reads_what_gets_a_checksum_here(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).integers(0, 256, 5001, np.uint8)
    with h5py.File(tmp_path / "sums.h5", "w") as h5:
        dset = h5.create_dataset("rows", rows.shape, "u1", chunks=rows.shape, fletcher32=True)
        dset.id.write_direct_chunk((0,), checksum.with_fletcher32(rows))
    with h5py.File(tmp_path / "sums.h5") as h5:
        np.testing.assert_array_equal(h5["rows"][:], rows)


@pytest.mark.parametrize("place", [0, 500, 999, 1000, 1003])
def test_one_wrong_bit_is_told(place: int) -> None:
    stored = bytearray(checksum.with_fletcher32(np.arange(1000, dtype=np.uint16).astype(np.uint8)))
    stored[place] ^= 1
    with pytest.raises(ValueError, match="Fletcher-32"):
        checksum.without_fletcher32(stored)


@pytest.mark.parametrize("stored", [b"", b"abc", b"abcd"])
def test_what_is_too_short_is_told(stored: bytes) -> None:
    with pytest.raises(ValueError, match="expected bytes and a checksum"):
        checksum.without_fletcher32(stored)


def test_what_the_journal_says_of_a_chunk() -> None:
    record = FeatureRecord(0, "events/deform", "<f8", (), 1000, 0)
    stored = checksum.with_fletcher32(np.arange(99, dtype=np.uint8))
    other = checksum.with_fletcher32(np.ones(99, np.uint8))
    assert record.checksum == CRC32  # journals before version 3 do not say
    assert record.has_written(stored, zlib.crc32(stored))
    assert not record.has_written(other, zlib.crc32(stored))
    record = replace(record, checksum=FLETCHER32)
    told = checksum.chunk_checksum(stored)
    assert record.has_written(stored, told)
    assert not record.has_written(other, told)  # a whole chunk, but another one
    assert not record.has_written(b"\1" + stored[1:], told)
    assert not record.has_written(stored[:-1], told)
    assert not record.has_written(b"", told)
