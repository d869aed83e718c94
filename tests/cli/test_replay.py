"""`dcwrite replay`: the command; what it does to a recording is tested in tests/stream."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from dcwrite import HDF5Writer
from dcwrite.cli import main

from .command import dcwrite


def refused(*args: object) -> tuple[int, str]:
    """Exit code and error of a call that ends before any process is started."""
    result = CliRunner().invoke(main, ["replay", *map(str, args)])
    (line,) = result.stderr.splitlines()
    return result.exit_code, line


def test_equal_and_checked(recording: Path, tmp_path: Path) -> None:
    result = dcwrite("replay", "--check", "--seed", 1, recording, "out.rtdc", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("out.rtdc is written.\n")
    assert result.stdout.endswith("Both hold the same.\n")
    assert re.search(r"^  rate +[\d,]+ events/s, [\d.]+ MB/s$", result.stdout, re.MULTILINE)
    assert re.match(r"replaying: 0 of \d+ events\n", result.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["out.rtdc"]


def test_an_inconsistent_recording_is_refused(recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.rtdc"
    path.write_bytes(recording.read_bytes())
    with HDF5Writer(path) as writer:
        writer.store_feature_chunk("deform", [0.5])
    code, line = refused(path, tmp_path / "out.rtdc")
    assert code == 2
    assert re.search(r"expected all features to have \d+ events .*: deform; ", line)
    assert not (tmp_path / "out.rtdc").exists()


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "cut"])
def test_inputs_that_are_no_recordings(recording: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "in.rtdc"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("no recording")
    elif kind == "cut":
        path.write_bytes(recording.read_bytes()[:5000])
    code, line = refused(path, tmp_path / "out.rtdc")
    assert code == 2
    assert line.startswith("Error: ")
    assert "in.rtdc" in line
    assert not (tmp_path / "out.rtdc").exists()


def test_existing_outputs(recording: Path, tmp_path: Path) -> None:
    (tmp_path / "out.rtdc").write_text("mine")
    code, line = refused(recording, tmp_path / "out.rtdc")
    assert code == 2
    assert "--overwrite" in line
    assert (tmp_path / "out.rtdc").read_text() == "mine"
    done = dcwrite("replay", "--overwrite", "--quiet", recording, "out.rtdc", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out.rtdc").read_bytes().startswith(b"\x89HDF")


def test_input_as_output_is_refused(recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.rtdc"
    path.write_bytes(recording.read_bytes())
    code, line = refused("--overwrite", path, tmp_path / "in.rtdc")
    assert code == 2
    assert "none of the inputs" in line
    assert path.read_bytes() == recording.read_bytes()
