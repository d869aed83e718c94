"""The journal: rows in several records, replacements that a reader missed, streams that append."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

import dcwrite
from dcwrite.store import journal as journal_module
from dcwrite.store.journal_reader import read_journal
from dcwrite.store.stream_file import StreamFile

OPTIONS = {"threads": 1}


def deform(first: int, last: int) -> np.ndarray:
    return np.arange(float(first), last)


def images(first: int, last: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (4000, 20, 20), dtype=np.uint8)[first:last]


def put(stream: StreamFile, first: int, last: int) -> None:
    stream.store("deform", deform(first, last))
    stream.store("image", images(first, last))
    stream.commit(last - first, 1, None)
    stream.idle()


def check(recording: dcwrite.Recording, n_events: int) -> None:
    assert len(recording) == n_events
    np.testing.assert_array_equal(recording["deform"][:], deform(0, n_events))
    np.testing.assert_array_equal(recording["image"][:], images(0, n_events))
    np.testing.assert_array_equal(recording["deform"][-3:], deform(n_events - 3, n_events))


@pytest.mark.parametrize("limit", [1, 1000, 30_000])
def test_rows_in_several_records(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MAX_BODY_BYTES", limit)
    stream = StreamFile(tmp_path / "run.rtdc", "x", writer_options=OPTIONS)
    put(stream, 0, 100)
    stream.store("contour", [np.full((3, 2), number) for number in range(100)])
    stream.store("deform", deform(100, 150))
    stream.store("image", images(100, 150))
    stream.commit(0, 1, None)
    stream.idle()
    stream.leave()
    state = read_journal(tmp_path / "run.rtdc.journal")
    assert state.n_commits == 2
    assert max(len(rows) for _, rows in state.tails[0]) <= max(1, limit // 8)
    report = dcwrite.recover(tmp_path / "run.rtdc.part")
    with dcwrite.Recording(report.path_out) as recording:
        check(recording, 100)
        assert recording["contour"][99].tolist() == [[99, 99]] * 3


def test_replacements_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system may give the number of the first journal to the third."""
    monkeypatch.setattr(journal_module, "REPLACE_BYTES", 1000)
    stream = StreamFile(tmp_path / "run.rtdc", "x", writer_options=OPTIONS)
    put(stream, 0, 50)
    with dcwrite.Recording(tmp_path / "run.rtdc", live=True) as recording:
        check(recording, 50)
        for n_events in (400, 1300, 2700):
            for first in range(len(recording), n_events, 50):
                put(stream, first, first + 50)
            assert recording.refresh() == n_events
            check(recording, n_events)
        generation = read_journal(tmp_path / "run.rtdc.journal").head["generation"]
        assert generation > 10
        stream.finish()
        assert recording.refresh() == 2700
        check(recording, 2700)


@pytest.mark.parametrize("kwds", [None, {"compression": "gzip"}], ids=["zstd", "gzip"])
def test_a_stream_that_appends_is_followed(kwds: dict[str, str] | None, tmp_path: Path) -> None:
    path = tmp_path / "run.rtdc"
    with dcwrite.HDF5Writer(path, mode="x", ds_kwds=kwds, event_count=True) as writer:
        writer.store_feature_chunk("deform", deform(0, 150))
        writer.store_feature_chunk("image", images(0, 150))
    stream = StreamFile(path, "a", writer_options={**OPTIONS, "event_count": True})
    put(stream, 150, 170)
    with dcwrite.Recording(path, live=True) as recording:
        check(recording, 170)
        for first in range(170, 2970, 700):
            put(stream, first, first + 700)
            recording.refresh()
            check(recording, first + 700)
        assert stream.durable_events == 2820
        stream.finish()
        recording.refresh()
        check(recording, 2970)


def test_a_file_that_appears_under_the_name_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.rtdc"
    stream = StreamFile(path, "x", writer_options=OPTIONS)
    put(stream, 0, 100)
    path.write_bytes(b"somebody else's")
    with pytest.raises(dcwrite.StorageError) as caught:
        stream.finish()
    assert caught.value.errno == errno.EEXIST
    assert path.read_bytes() == b"somebody else's"
    report = dcwrite.recover(tmp_path / "run.rtdc.part")
    assert report.path_out.name == "run_recovered.rtdc"
    with dcwrite.Recording(report.path_out) as recording:
        check(recording, 100)


def test_a_journal_that_never_was_committed(tmp_path: Path) -> None:
    stream = StreamFile(tmp_path / "run.rtdc", "x", writer_options=OPTIONS)
    with dcwrite.Recording(tmp_path / "run.rtdc", live=True) as recording:
        assert len(recording) == 0
        assert recording.features == []
    stream.leave()
    assert dcwrite.recover(tmp_path / "run.rtdc.part").n_events == 0
