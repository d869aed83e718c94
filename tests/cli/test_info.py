"""`dcwrite info`: what it shows, as text and as JSON."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from dcwrite import HDF5Writer, Recording
from dcwrite.cli import main


def info(*args: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["info", *map(str, args)])
    return result.exit_code, result.stdout, result.stderr


def test_sections(recording: Path) -> None:
    code, out, err = info(recording)
    assert (code, err) == (0, "")
    for title in ("Features", "Metadata", "Logs", "Tables", "Basins"):
        assert re.search(rf"^{title} \(\d+\)$", out, re.MULTILINE), title
    with Recording(recording) as rec:
        n_events = len(rec)
    assert f"\n{n_events} events; file " in out
    assert re.search(
        rf"^  image +{n_events} x 48 x 96 +uint8 .*zstd-5 \+ fletcher32", out, re.MULTILINE
    )
    assert re.search(r"^  setup:channel width +20\.0$", out, re.MULTILINE)
    assert re.search(r"^  notes +2$", out, re.MULTILINE)
    assert re.search(r"^  pressures +3 +2$", out, re.MULTILINE)
    assert re.search(r"^  light +internal/h5dataset .* yes$", out, re.MULTILINE)
    assert not re.search(r" $", out, re.MULTILINE)


def test_json(recording: Path) -> None:
    code, out, err = info("--json", recording, recording)
    assert (code, out.isascii()) == (0, True)
    first, second = json.loads(out, parse_constant=pytest.fail)
    assert first == second
    assert first["path"] == str(recording)
    assert first["metadata"]["user:ratio"] is None
    assert first["logs"] == {"notes": 2}
    assert first["basins"][0]["reachable"] is True
    assert {"name", "shape", "dtype", "chunks", "filters", "stored_bytes", "ratio"} <= set(
        first["features"][0]
    )
    assert "reading: 2 of 2 files" in err


def test_basin_roots(recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "refers.rtdc"
    with HDF5Writer(path) as writer:
        writer.store_basin("far", paths=[recording])
    assert "no: '" in info(path)[1]
    assert re.search(
        r"far +file/hdf5 .* yes$", info("--basin-root", recording.parent, path)[1], re.MULTILINE
    )


def test_files_that_cannot_be_read(recording: Path, tmp_path: Path) -> None:
    text, cut = tmp_path / "text.rtdc", tmp_path / "cut.rtdc"
    text.write_text("no recording")
    cut.write_bytes(recording.read_bytes()[:5000])
    (tmp_path / "empty").mkdir()
    wrong = [tmp_path / "missing.rtdc", tmp_path / "empty", text, cut]
    code, out, err = info("--json", "--quiet", *wrong, recording)
    assert code == 2
    assert [set(item) == {"path", "error"} for item in json.loads(out)] == [True] * 4 + [False]
    lines = err.splitlines()
    assert len(lines) == 4
    for line, path in zip(lines, wrong, strict=True):
        assert line.startswith(f"Error: '{path}': ")
        assert ";" in line


def test_many_files_end_with_a_table(recording: Path, tmp_path: Path) -> None:
    shutil.copyfile(recording, tmp_path / "a.rtdc")
    (tmp_path / "b.rtdc").write_text("no recording")
    code, out, err = info(tmp_path)
    assert code == 2
    assert err.count("Error: ") == 1
    assert "b.rtdc" in err
    header, first, second = out.rstrip().splitlines()[-3:]
    assert header.split()[:3] == ["file", "result", "events"]
    assert first.split()[:2] == [str(tmp_path / "a.rtdc"), "read"]
    assert second.split() == [str(tmp_path / "b.rtdc"), "unreadable"]
    assert "unreadable" not in info("--quiet", tmp_path)[1]
