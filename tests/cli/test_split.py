"""`dcwrite split`: the command; what it does to recordings is in tests/store and tests/peer."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dcwrite import Recording, verify
from dcwrite.cli import main

from .command import dcwrite


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["split", *map(str, args)])


@pytest.fixture
def source(recording: Path, tmp_path: Path) -> Path:
    """Return a recording in the folder of the test."""
    return Path(shutil.copyfile(recording, tmp_path / "in.rtdc"))


def n_events(path: Path) -> int:
    with Recording(path) as opened:
        return len(opened)


def test_parts_of_so_many_events(source: Path, tmp_path: Path) -> None:
    result = dcwrite("split", "--events", 6, "in.rtdc", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("3 parts of in.rtdc:\n")
    assert re.search(r"^  in_0002\.rtdc +6 +6 +[\d.,]+ kB$", result.stdout, re.MULTILINE)
    assert re.match(r"splitting: 0 B of [\d.]+ .B\n", result.stderr)
    parts = sorted(tmp_path.glob("in_*.rtdc"))
    assert [n_events(part) for part in parts] == [6, 6, 4]
    assert all(verify(part).findings == [] for part in parts)
    assert len(list(tmp_path.iterdir())) == 4


def test_linked_parts_at_times(source: Path, tmp_path: Path) -> None:
    with Recording(source) as opened:
        times = opened["time"][:]
    at = f"{times[5]},{times[9]}"
    result = run("--times", at, "--link", "--out-dir", tmp_path / "parts", source, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert [part["first_event"] for part in summary["parts"]] == [0, 5, 9]
    assert summary["references"] == ["image", "image_bg", "mask"]
    with Recording(tmp_path / "parts" / "in_0002.rtdc", basin_roots=[tmp_path]) as part:
        assert part["image"].shape == (4, 48, 96)
        assert "image" not in part.own_features


def test_every_second(source: Path) -> None:
    assert run("--every", 0.005, source, "--quiet").output == ""
    parts = sorted(source.parent.glob("in_*.rtdc"))
    assert sum(map(n_events, parts)) == n_events(source)
    assert len(parts) > 1


def test_several_inputs(source: Path, tmp_path: Path) -> None:
    shutil.copyfile(source, tmp_path / "other.rtdc")
    (tmp_path / "text.rtdc").write_text("no recording")
    result = dcwrite("split", "--events", 10, "--jobs", 2, "*.rtdc", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert "text.rtdc" in line
    assert "2 split, 1 failed" in result.stdout
    names = ["in_0001.rtdc", "in_0002.rtdc", "other_0001.rtdc", "other_0002.rtdc"]
    assert sorted(path.name for path in tmp_path.glob("*_0*.rtdc")) == names


def test_two_inputs_of_one_name(source: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    other = shutil.copyfile(source, tmp_path / "sub" / "in.rtdc")
    result = run("--out-dir", tmp_path / "parts", source, other)
    assert result.exit_code == 2
    assert "different folders" in result.stderr
    assert not (tmp_path / "parts").exists()


def test_existing_parts(source: Path, tmp_path: Path) -> None:
    (tmp_path / "in_0002.rtdc").write_text("mine")
    result = run("--events", 6, source, "--quiet")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "--overwrite" in result.stderr
    assert (tmp_path / "in_0002.rtdc").read_text() == "mine"
    assert not (tmp_path / "in_0001.rtdc").exists()
    assert run("--events", 6, source, "--quiet", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    "args",
    [
        ["--events", "0", "in.rtdc"],
        ["--events", "5", "--every", "1", "in.rtdc"],
        ["--times", "1,x", "in.rtdc"],
        ["--every", "0", "in.rtdc"],
        [],
    ],
    ids=str,
)
def test_usage(args: list[str]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")


def test_times_that_make_no_sense(source: Path) -> None:
    result = run("--times", "2,1", source, "--quiet")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: times: expected seconds, each later")
