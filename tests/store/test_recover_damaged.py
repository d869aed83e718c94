"""recover(): damaged chunks of finished files, with and without cutting them out."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import dcwrite

N_EVENTS = 3000


def _damaged(path: Path, feat: str, chunk: int) -> dict[str, np.ndarray]:
    """A recording with one flipped byte in a chunk; what it held."""
    rng = np.random.default_rng(1)
    data = {
        "deform": rng.random(N_EVENTS),
        "image": rng.integers(0, 200, (N_EVENTS, 20, 30)).astype(np.uint8),
    }
    with dcwrite.HDF5Writer(path, mode="x", event_count=True) as writer:
        for name, values in data.items():
            writer.store_feature_chunk(name, values)
        writer.store_log("notes", ["kept"])
        place = writer.h5[f"events/{feat}"].id.get_chunk_info(chunk).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 50] ^= 0xFF
    path.write_bytes(content)
    return data


@pytest.mark.parametrize("feat", ["deform", "image"])
def test_output_ends_before_the_first_damaged_event(tmp_path: Path, feat: str) -> None:
    source = tmp_path / "damaged.rtdc"
    data = _damaged(source, feat, 1)
    before = source.read_bytes()
    report = dcwrite.recover(source, tmp_path / "out.rtdc")
    assert report.exit_code == 1
    assert report.damaged
    assert source.read_bytes() == before
    assert dcwrite.verify(tmp_path / "out.rtdc").findings == []
    with dcwrite.Recording(tmp_path / "out.rtdc") as recording:
        n_events = len(recording)
        assert 0 < n_events < N_EVENTS
        for name, values in data.items():
            assert np.array_equal(recording[name][:], values[:n_events])
        assert recording.logs["notes"] == ["kept"]


@pytest.mark.parametrize("feat", ["deform", "image"])
def test_damaged_events_are_cut_out_on_request(tmp_path: Path, feat: str) -> None:
    source = tmp_path / "damaged.rtdc"
    data = _damaged(source, feat, 1)
    report = dcwrite.recover(source, tmp_path / "out.rtdc", cut_damaged=True)
    assert report.exit_code == 1
    assert dcwrite.verify(tmp_path / "out.rtdc").findings == []
    with dcwrite.Recording(tmp_path / "out.rtdc") as recording:
        kept = recording.tables["dcwrite-recover"]["original_index"]
        assert len(recording) == len(kept) == report.n_events < N_EVENTS
        assert kept[-1] == N_EVENTS - 1
        for name, values in data.items():
            assert np.array_equal(recording[name][:], values[kept])


def test_a_file_of_the_old_format_that_was_cut_off(tmp_path: Path) -> None:
    """HDF5 refuses it, because it is shorter than its head says."""
    path = tmp_path / "cut.rtdc"
    values = np.arange(10_000.0)
    with h5py.File(path, "x", libver=("earliest", "v108")) as h5:
        h5.create_dataset("events/deform", data=values, chunks=(1000,), fletcher32=True)
    content = path.read_bytes()
    assert content[8] == 0  # the superblock's version
    path.write_bytes(content[: -2 * 8004])
    with pytest.raises(dcwrite.DamagedFileError, match="dcwrite recover"):
        dcwrite.Recording(path)
    report = dcwrite.recover(path, tmp_path / "out.rtdc")
    assert (report.n_announced, report.exit_code) == (10_000, 1)
    assert 7000 <= report.n_events < 9000
    with dcwrite.Recording(tmp_path / "out.rtdc") as recording:
        np.testing.assert_array_equal(recording["deform"][:], values[: report.n_events])
