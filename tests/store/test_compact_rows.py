"""Compact rows in a file: the same chunks, byte for byte, as those of the array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from dcwrite import Compression, HDF5Writer
from dcwrite.store.append import GrowingDataset
from dcwrite.store.compact_rows import BitRows, RepeatedRows, as_array

SHAPE = (80, 320)
N_EVENTS = 260


def made_up(feat: str, first: int, n_events: int) -> Any:
    """Rows of events from `first` on: masks as bits, backgrounds with a new one now and then."""
    rng = np.random.default_rng(first)
    if feat == "mask":
        array = rng.random((n_events, *SHAPE)) < 0.01
        return BitRows(np.packbits(array.reshape(n_events, -1), axis=1), SHAPE)
    return RepeatedRows(backgrounds(), (first + np.arange(n_events)) // 100)


_BACKGROUNDS: list[np.ndarray] = []


def backgrounds() -> list[np.ndarray]:
    """Always the same objects, as a queue gives them."""
    if not _BACKGROUNDS:
        rng = np.random.default_rng(3)
        _BACKGROUNDS.extend(rng.integers(90, 140, (3, *SHAPE), np.uint8))
    return _BACKGROUNDS


def stored_chunks(path: Path, name: str) -> list[bytes]:
    with h5py.File(path) as h5:
        dset = h5[name]
        starts = range(0, len(dset), dset.chunks[0])
        return [dset.id.read_direct_chunk((start, 0, 0))[1] for start in starts]


def write(path: Path, feat: str, *, compact: bool, **options: Any) -> None:
    visible = options.pop("visible", False)
    with HDF5Writer(path, "w", threads=2, **options) as writer:
        if visible:
            writer.h5  # noqa: B018 - from now on all rows are in the file at once
        for first in range(0, N_EVENTS, 65):
            rows = made_up(feat, first, 65)
            writer.store_feature_chunk(feat, rows if compact else as_array(rows))


OPTIONS: dict[str, dict[str, Any]] = {
    "stream": {"stream": True},
    "copied": {},
    "visible": {"visible": True},
    "no checksum": {"compression": Compression(fletcher32=False), "stream": True},
    "not compressed": {"compression": "none", "stream": True},
    "bare": {"compression": Compression(level=None, fletcher32=False), "stream": True},
    "level 1": {"compression": "fast", "stream": True},
    "exact": {"compression": Compression(exact=True), "stream": True},
    "gzip": {"ds_kwds": {"compression": "gzip", "fletcher32": True}, "stream": True},
    "blosc": {"ds_kwds": dict(hdf5plugin.Blosc()), "stream": True},
}


@pytest.mark.parametrize("feat", ["mask", "image_bg"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_same_chunks(feat: str, options: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "ours.rtdc", feat, compact=True, **options)
    write(tmp_path / "theirs.rtdc", feat, compact=False, **options)
    with h5py.File(tmp_path / "ours.rtdc") as h5:
        expected = np.concatenate([as_array(made_up(feat, n, 65)) for n in range(0, N_EVENTS, 65)])
        if feat == "mask":
            expected = expected * np.uint8(255)
        assert h5["events"][feat].dtype == np.uint8
        np.testing.assert_array_equal(h5["events"][feat][:], expected)
    name = f"events/{feat}"
    ours, theirs = (stored_chunks(tmp_path / f"{who}.rtdc", name) for who in ("ours", "theirs"))
    assert ours == theirs


def test_a_background_is_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = GrowingDataset._encode

    def counting(self: GrowingDataset, codec: Any, rows: Any, level: Any) -> Any:
        encoded.append(len(rows))
        return encode(self, codec, rows, level)

    monkeypatch.setattr(GrowingDataset, "_encode", counting)
    with HDF5Writer(tmp_path / "x.rtdc", "w", stream=True, threads=1) as writer:
        for number in range(3):
            writer.store_feature_chunk(
                "image_bg", RepeatedRows(backgrounds(), np.full(400, number))
            )
    with h5py.File(tmp_path / "x.rtdc") as h5:
        n_chunks = h5["events/image_bg"].id.get_num_chunks()
        expected = np.repeat(np.stack(backgrounds()), 400, axis=0)
        np.testing.assert_array_equal(h5["events/image_bg"][:], expected)
    assert n_chunks == 30  # 400 events are ten whole chunks
    assert len(encoded) == 3


class Interrupted(GrowingDataset):
    """In the moment in which a value is noted, another thread encodes another one."""

    noted: Any = None
    other: Any = None

    @property
    def _repeated(self) -> Any:
        return self.noted

    @_repeated.setter
    def _repeated(self, noted: Any) -> None:
        self.noted = noted
        if noted is not None and self.other is not None:
            other, self.other = self.other, None
            self.encode(other, 1)


def test_threads_that_encode_different_backgrounds(tmp_path: Path) -> None:
    """Each gets the bytes of its own, now and later."""
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        kwds = {"chunks": (4, *SHAPE), "fletcher32": True, **hdf5plugin.Zstd(clevel=1)}
        h5.create_dataset("x", (0, *SHAPE), "u1", maxshape=(None, *SHAPE), **kwds)
        first, second = (RepeatedRows([v], np.zeros(4, np.intp)) for v in backgrounds()[:2])
        expected = [bytes(GrowingDataset(h5, "x").encode(rows, 1)) for rows in (first, second)]
        assert expected[0] != expected[1]
        dataset = Interrupted(h5, "x")
        dataset.other = second
        for _ in range(2):
            for rows, stored in zip((first, second), expected, strict=True):
                assert bytes(dataset.encode(rows, 1)) == stored


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "x.rtdc", "w", stream=True) as writer:
        writer.store_feature_chunk("mask", np.zeros((3, 4, 5), bool))
        with pytest.raises(ValueError, match="shape"):
            writer.store_feature_chunk("mask", made_up("mask", 0, 2))
        assert writer.lengths() == {"mask": 3}
