"""`dcwrite recover` and `dcwrite watch` on a stream whose writer was killed, or has finished."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dcwrite import Recording

from .command import Running, dcwrite


@pytest.mark.parametrize("name", ["m.rtdc.part", "m.rtdc.journal", "m.rtdc"])
def test_recover_by_any_of_its_names(folder: Path, name: str) -> None:
    result = dcwrite("recover", name, "out.rtdc", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "400 of 400 events rescued" in result.stdout
    with Recording(folder / "out.rtdc") as recording:
        assert np.array_equal(recording["deform"][:], np.arange(400) / 4)
        assert recording.metadata["experiment:event count"] == 400
        assert "dcwrite-recover" in recording.logs
    assert dcwrite("verify", "out.rtdc", cwd=folder).returncode == 0
    assert (folder / "m.rtdc.part").exists()


def test_recover_to_the_default_name_as_json(folder: Path) -> None:
    result = dcwrite("recover", "--json", "m.rtdc.part", cwd=folder)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["way"], report["n_events"]) == ("journal", 400)
    assert (folder / "m.rtdc").exists()
    again = dcwrite("recover", "m.rtdc.part", "m.rtdc", cwd=folder)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    replaced = dcwrite("recover", "--overwrite", "m.rtdc.part", "-o", "m.rtdc", cwd=folder)
    assert replaced.returncode == 0


def test_recover_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.rtdc").write_text("no recording")
    for name in ("missing.rtdc", "text.rtdc"):
        result = dcwrite("recover", name, "out.rtdc", cwd=tmp_path)
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1
        assert not (tmp_path / "out.rtdc").exists()


@pytest.mark.parametrize("name", ["m.rtdc.part", "m.rtdc"])
def test_verify_names_an_unfinished_recording(folder: Path, name: str) -> None:
    result = dcwrite("verify", "--quiet", name, cwd=folder)
    assert result.returncode == 2
    assert "dcwrite recover m.rtdc.part" in result.stderr


def test_watch_follows_the_journal_and_ends_with_the_writer(folder: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (folder / "m.rtdc.journal").open("rb") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)  # as its writer does
        running = Running("watch", "--interval", "0.05", "m.rtdc", cwd=folder)
        assert running.process.stdout is not None
        first = running.process.stdout.readline()
        assert first.startswith("400 durable events")
        dcwrite("recover", "m.rtdc.part", "done.rtdc", cwd=folder)
        # what a writer does in the end: the whole file gets its name, and the journal goes
        (folder / "done.rtdc").rename(folder / "m.rtdc")
        (folder / "m.rtdc.part").unlink()
        (folder / "m.rtdc.journal").unlink()
    out, err = running.process.communicate(timeout=60)
    assert running.process.returncode == 0, err
    assert out.endswith("m.rtdc: finished with 400 events\n")


def test_watch_nothing(tmp_path: Path) -> None:
    result = dcwrite("watch", "missing.rtdc", cwd=tmp_path)
    assert result.returncode == 2
    assert "expected a recording or an unfinished one" in result.stderr


def test_watch_ends_when_the_writer_was_killed(folder: Path) -> None:
    pytest.importorskip("fcntl", reason="the lock that tells it is not there on Windows")
    result = dcwrite("watch", "--interval", "0.05", "m.rtdc", cwd=folder)
    assert result.returncode == 2
    assert result.stdout.startswith("400 durable events")
    assert "dcwrite recover m.rtdc.part" in result.stderr
