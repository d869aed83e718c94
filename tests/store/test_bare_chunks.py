"""Chunks that are stored as they are: their memory is not used again before they are written."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from dcwrite import HDF5Writer

BARE = {"compression": None, "compression_opts": None, "fletcher32": False}
SLOW = {"compression": 32015, "compression_opts": (19,), "fletcher32": True}


@pytest.mark.parametrize("feat", ["image_bg", "mask"])
def test_slow_chunks_in_front(feat: str, tmp_path: Path) -> None:
    """Chunks are written in order: bare ones wait for those that take long to compress."""
    rng = np.random.default_rng(5)
    slow = rng.integers(0, 64, (2 * 41, 80, 320), np.uint8)
    bare = rng.integers(0, 2, (41 * 12, 80, 320), np.uint8)
    data = bare.astype(bool) if feat == "mask" else bare
    shape = {"shape": (0, 80, 320), "maxshape": (None, 80, 320), "chunks": (41, 80, 320)}
    with h5py.File(tmp_path / "x.rtdc", "w", libver=("v110", "latest")) as h5:
        h5.create_dataset("events/image", dtype=np.uint8, **shape, **SLOW)
        h5.create_dataset(f"events/{feat}", dtype=np.uint8, **shape, **BARE)
    with HDF5Writer(tmp_path / "x.rtdc", threads=2) as writer:
        for number in range(2):
            writer.store_feature_chunk("image", slow[number * 41 : (number + 1) * 41])
            for start in range(number * 246, (number + 1) * 246, 41):
                writer.store_feature_chunk(feat, data[start : start + 41])
    with h5py.File(tmp_path / "x.rtdc") as h5:
        assert np.array_equal(h5["events/image"][:], slow)
        expected = bare * np.uint8(255) if feat == "mask" else bare
        assert np.array_equal(h5[f"events/{feat}"][:], expected)
