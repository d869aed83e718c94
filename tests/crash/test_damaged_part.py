"""An unfinished file with damage: whole events only, their basins right."""

from __future__ import annotations

from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - plain h5py needs the Zstandard filter
import numpy as np
import pytest

import dcwrite
from dcwrite.store.journal_reader import read_journal
from dcwrite.store.recover import recover
from dcwrite.store.stream_file import StreamFile

#: 26 images of this shape are a chunk, 10 events have one background.
SHAPE = (200, 200)
N_EVENTS = 520


def images(first: int, last: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.integers(0, 255, (N_EVENTS, *SHAPE), dtype=np.uint8)[first:last]


def backgrounds(first: int, last: int) -> np.ndarray:
    rng = np.random.default_rng(6)
    distinct = rng.integers(0, 255, (N_EVENTS // 10, *SHAPE), dtype=np.uint8)
    return np.repeat(distinct, 10, axis=0)[first:last]


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """What is left of a stream whose backgrounds are stored once."""
    stream = StreamFile(
        tmp_path / "run.rtdc", "w", writer_options={"threads": 1, "dedup_background": True}
    )
    for first in range(0, N_EVENTS, 65):
        last = first + 65
        stream.store("deform", np.arange(float(first), last))
        stream.store("image", images(first, last))
        stream.store("image_bg", backgrounds(first, last))
        stream.commit(65, 65, None)
    stream.idle()
    assert stream.durable_events == N_EVENTS
    stream.leave()
    return tmp_path / "run.rtdc.part"


def damage(part: Path, path: str, start: int) -> None:
    """Change a byte in the chunk of a feature that begins with a row."""
    state = read_journal(part.with_suffix(".journal"))
    number = next(f.number for f in state.features.values() if f.path == path)
    offset, size, _ = state.chunks[number][start]
    data = bytearray(part.read_bytes())
    data[offset + size // 2] ^= 1
    part.write_bytes(data)


def check(target: Path, kept: np.ndarray) -> None:
    with dcwrite.Recording(target) as recording:
        assert len(recording) == len(kept)
        np.testing.assert_array_equal(recording["deform"][:], kept)
        np.testing.assert_array_equal(recording["image"][:], images(0, N_EVENTS)[kept])
        np.testing.assert_array_equal(recording["image_bg"][:], backgrounds(0, N_EVENTS)[kept])
        assert [status.reachable for status in recording.basins] == [True]
        assert len(recording.basins) == 1
        assert set(recording.own_features) == {"deform", "image", "basinmap0"}


def test_whole(part: Path, tmp_path: Path) -> None:
    assert recover(part, tmp_path / "out.rtdc").exit_code == 0
    check(tmp_path / "out.rtdc", np.arange(N_EVENTS))
    assert not dcwrite.verify(tmp_path / "out.rtdc").findings


@pytest.mark.parametrize("cut_damaged", [False, True])
def test_damaged_image(part: Path, tmp_path: Path, cut_damaged: bool) -> None:
    damage(part, "events/image", 130)
    report = recover(part, tmp_path / "out.rtdc", cut_damaged=cut_damaged)
    assert report.exit_code == 1
    kept = np.arange(N_EVENTS)
    kept = kept[(kept < 130) | (kept >= 156)] if cut_damaged else kept[:130]
    check(tmp_path / "out.rtdc", kept)
    assert not dcwrite.verify(tmp_path / "out.rtdc").findings


@pytest.mark.parametrize("cut_damaged", [False, True])
def test_damaged_background(part: Path, tmp_path: Path, cut_damaged: bool) -> None:
    damage(part, "basin_events/image_bg", 0)
    report = recover(part, tmp_path / "out.rtdc", cut_damaged=cut_damaged)
    assert report.exit_code == 1
    # the first 20 of the 26 backgrounds were in the journal before their chunk was whole
    kept = np.arange(N_EVENTS)
    check(tmp_path / "out.rtdc", kept[(kept < 200) | (kept >= 260)] if cut_damaged else kept[:200])
    # no rows of zeros are left where the damaged backgrounds stood
    assert not dcwrite.verify(tmp_path / "out.rtdc").findings
    with h5py.File(tmp_path / "out.rtdc") as h5:
        assert len(h5["basin_events/image_bg"]) == len(np.unique(h5["events/basinmap0"]))


@pytest.mark.parametrize("compression", ["none", "archive", "fast"])
@pytest.mark.parametrize("value", [0x00, 0xFF])
def test_a_lost_page_never_counts(tmp_path: Path, compression: str, value: int) -> None:
    """Zeros in place of a page (a power cut), also where Fletcher-32 takes 0xFFFF for 0x0000."""
    stream = StreamFile(
        tmp_path / "run.rtdc", "w", writer_options={"threads": 1, "compression": compression}
    )
    rng = np.random.default_rng(7)
    rows = np.full((40, 80, 320), 0xFF, np.uint8)
    rows[:, ::2] = rng.integers(0, 255, (40, 40, 320), dtype=np.uint8)
    stream.store("image", rows)
    stream.store("mask", np.ones((40, 80, 320), bool))
    stream.commit(40, 40, None)
    stream.idle()
    stream.leave()
    part = tmp_path / "run.rtdc.part"
    state = read_journal(part.with_suffix(".journal"))
    raw = bytearray(part.read_bytes())
    for number in state.chunks:
        for offset, size, _ in state.chunks[number].values():
            start = -(-offset // 4096) * 4096
            if start + 4096 <= offset + size:
                raw[start : start + 4096] = bytes([value]) * 4096
    was_changed = bytes(raw) != part.read_bytes()
    part.write_bytes(raw)
    report = recover(part, tmp_path / "out.rtdc")
    with h5py.File(tmp_path / "out.rtdc") as h5:
        np.testing.assert_array_equal(h5["events/image"], rows[: report.n_events])
        assert (h5["events/mask"][:] == 255).all()
    assert was_changed
    assert report.n_events == 0
    assert report.damaged
