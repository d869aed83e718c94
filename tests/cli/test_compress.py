"""`dcwrite compress`: the command; what it does to a recording is tested in tests/store."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dcwrite import HDF5Writer, verify
from dcwrite.cli import main
from dcwrite.tools.compare import compare

from .command import COMMAND, TIMEOUT_S, Running, dcwrite


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["compress", *map(str, args)])


def error_of(*args: object) -> str:
    """The one line of a call that fails."""
    result = run(*args)
    assert result.exit_code == 2, result.output
    return result.stderr.splitlines()[-1]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Return a recording that is not compressed, large enough to be interrupted."""
    path = tmp_path / "raw.rtdc"
    noise = np.random.default_rng(0).integers(90, 120, (600, 80, 300), dtype=np.uint8)
    with HDF5Writer(path, compression="none", event_count=True) as writer:
        writer.store_feature_chunk("deform", np.arange(len(noise)) / 8)
        writer.store_feature_chunk("image", noise)
    return path


def test_one(raw: Path, tmp_path: Path) -> None:
    result = dcwrite("compress", raw, "-o", "out.rtdc", "--check", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("out.rtdc is written.\n")
    assert re.search(
        r"^  file +[\d.]+ MB \(before: [\d.]+ MB; [\d.]+ % saved\)$", result.stdout, re.MULTILINE
    )
    assert re.search(r"^  chunks +15 compressed, 0 moved$", result.stdout, re.MULTILINE)
    assert re.match(r"compressing: 0 B of 14.4 MB\n", result.stderr)
    assert verify(tmp_path / "out.rtdc").exit_code == 0


def test_quiet_and_json(raw: Path, tmp_path: Path) -> None:
    result = run(raw, "-o", tmp_path / "a.rtdc", "-q", "--level", 1)
    assert (result.output, result.exit_code) == ("", 0)
    result = run(raw, "-o", tmp_path / "b.rtdc", "--json", "--preset", "fast")
    assert not result.stderr
    summary = json.loads(result.stdout)
    assert summary["action"] == "compressed"
    assert summary["saved_bytes"] == raw.stat().st_size - (tmp_path / "b.rtdc").stat().st_size


def test_good_already(recording: Path, tmp_path: Path) -> None:
    result = run(recording, "-o", tmp_path / "a.rtdc")
    assert "compressed as wanted already" in result.stdout
    assert "is a copy of it" in result.stdout
    assert (tmp_path / "a.rtdc").read_bytes() == recording.read_bytes()
    result = run(recording, "-o", tmp_path / "b.rtdc", "--if-good", "skip")
    assert "nothing was written" in result.stdout
    assert not (tmp_path / "b.rtdc").exists()
    result = run(recording, "-o", tmp_path / "c.rtdc", "--force")
    assert "is written" in result.stdout


def test_many(raw: Path, recording: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.rtdc").write_text("no recording")
    words = (raw, recording, tmp_path / "bad.rtdc", tmp_path / "missing.rtdc")
    result = run(*words, "--out-dir", tmp_path / "out", "--jobs", 2)
    assert result.exit_code == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 2
    assert "bad.rtdc" in errors[0]
    assert errors[1] == f"Error: '{tmp_path / 'missing.rtdc'}': no such file; check the name"
    lines = [line.split("  ") for line in result.stdout.splitlines()]
    table = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert table[0] == ["file", "state", "before", "after", "saved", "time"]
    assert [row[1] for row in table[1:5]] == [
        "compressed", "good already, copied", "failed", "failed",
    ]  # fmt: skip
    assert table[1][4].endswith(" %")
    assert re.match(r"1 compressed, 1 skipped, 2 failed in [\d.]+ s\. ", "".join(lines[-1]))
    again = run(raw, recording, "--out-dir", tmp_path / "out")
    assert again.exit_code == 0
    assert "complete before" in again.stdout
    assert "copied before" in again.stdout


def test_a_copy_of_before_is_not_what_another_level_makes(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(recording, "--out-dir", out, "-q").exit_code == 0
    assert (out / recording.name).read_bytes() == recording.read_bytes()
    assert "copied before" in run(recording, "--out-dir", out).stdout
    assert "is not what this input" in run(recording, "--out-dir", out, "--level", 9).stderr
    assert "is not what this input" in run(recording, "--out-dir", out, "--force").stderr
    assert run(recording, "--out-dir", out, "--level", 9, "--overwrite", "-q").exit_code == 0
    assert (out / recording.name).read_bytes() != recording.read_bytes()


@pytest.mark.parametrize("command", ["compress", "join", "copy", "basins", "recover", "plot"])
def test_a_folder_is_no_recording(command: str, raw: Path, tmp_path: Path) -> None:
    inputs = [raw.name, raw.name] if command == "join" else [raw.name]
    arguments = {"basins": [".", *inputs], "copy": [*inputs, "."], "plot": [*inputs, "."]}
    given = arguments.get(command, [*inputs, "-o", "."])
    result = dcwrite(command, *given, "--overwrite", cwd=tmp_path)
    assert result.returncode == 2
    assert "unexpected" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw.rtdc"]


def test_a_folder_as_input(raw: Path, tmp_path: Path) -> None:
    result = run(tmp_path, "--out-dir", tmp_path / "out", "--json")
    assert result.exit_code == 0
    (outcome,) = json.loads(result.stdout)["outcomes"]
    assert outcome["path"] == str(raw)
    assert outcome["outputs"] == [str(tmp_path / "out" / "raw.rtdc")]


def test_refused(raw: Path, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.rtdc"
    assert "--output OUT.rtdc (for one input) or --out-dir" in error_of(raw)
    assert "pass --out-dir DIR" in error_of(raw, recording, "-o", out)
    assert "not both" in error_of(raw, "-o", out, "--level", 5, "--preset", "fast")
    assert "--out-dir" in error_of(raw, "-o", out, "--out-dir", tmp_path)
    assert "choose another name" in error_of(raw, "-o", raw, "--overwrite")
    assert "choose another output folder" in error_of(raw, "--out-dir", tmp_path)
    assert "check the name" in error_of(tmp_path / "missing.rtdc", "-o", out)
    assert "create it first" in error_of(raw, "-o", tmp_path / "none" / "out.rtdc")
    out.write_text("mine")
    assert "--overwrite" in error_of(raw, "-o", out)
    assert out.read_text() == "mine"


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "fixed").mkdir(mode=0o555)
    assert "check the permissions" in error_of(raw, "-o", tmp_path / "fixed" / "out.rtdc")


# -- ends from outside ----------------------------------------------------------------------


@pytest.fixture
def many(raw: Path, tmp_path: Path) -> list[Path]:
    (tmp_path / "in").mkdir()
    paths = [tmp_path / "in" / f"{letter}.rtdc" for letter in "abcdef"]
    for path in paths:
        path.write_bytes(raw.read_bytes())
    return paths


@pytest.mark.skipif(os.name != "posix", reason="needs process groups")
@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed(
    number: signal.Signals, jobs: int, many: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["compress", tmp_path / "in", "--out-dir", out, "--level", 12, "--jobs", jobs]
    command = Running(*words, cwd=tmp_path)
    command.wait_for(r"compressing: [\d.]+ [kM]B of 8")
    command.interrupt(number)
    _, errors = command.process.communicate(timeout=TIMEOUT_S)
    assert command.process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    made = sorted(out.iterdir()) if out.exists() else []
    assert not [path for path in made if path.name.startswith(".")]
    assert len(made) < len(many)
    for path in made:
        assert verify(path).exit_code == 0
    result = dcwrite(*words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("complete before") == len(made)
    assert len(list(out.iterdir())) == len(many)
    differences = compare(many[-1], out / many[-1].name)
    assert differences == ["log 'dcwrite-compress': only in the second"]


#: Python runs it when it starts: the process kills itself in the midst of the work.
KILL = """
import os, signal
import dcwrite.tools.progress as progress

show = progress.Clock.show

def show_and_die(self, current, queued=None):
    show(self, current, queued)
    if current > 20e6:
        os.kill(os.getpid(), signal.SIGKILL)

progress.Clock.show = show_and_die
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_and_resumed(many: list[Path], tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILL)
    out = tmp_path / "out"
    words = [*map(str, many), "--out-dir", str(out)]
    killed = subprocess.run(
        [*COMMAND, "compress", *words],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    whole = [path for path in out.iterdir() if not path.name.startswith(".")]
    assert [path.name for path in whole] == ["a.rtdc"]
    result = dcwrite("compress", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("complete before") == 1
    for path in many:
        assert verify(out / path.name).exit_code == 0


def test_help_is_fast() -> None:
    """The libraries for drawing and for clusters are not loaded."""
    code = (
        "import sys; from dcwrite.cli import main; main(['compress', '--help'], "
        "standalone_mode=False); assert not {'matplotlib', 'distributed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
