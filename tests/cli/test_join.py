"""`dcwrite join`: the command; what it does to recordings is in tests/store and tests/peer."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dcwrite import HDF5Writer, verify
from dcwrite.cli import main

from .command import dcwrite


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["join", *map(str, args)])


@pytest.fixture
def measured(recording: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that gives a recording that was measured at some time."""

    def copy(name: str, time: str, **metadata: object) -> Path:
        path = Path(shutil.copyfile(recording, tmp_path / name))
        changed = {
            key.replace("__", ":").replace("_", " "): value for key, value in metadata.items()
        }
        with HDF5Writer(path) as writer:
            writer.store_metadata({"experiment:time": time, **changed})
        return path

    return copy


def test_joined_in_the_order_of_time(measured: Callable[..., Path], tmp_path: Path) -> None:
    measured("b.rtdc", "12:00:10")
    measured("a.rtdc", "12:00:00")
    result = dcwrite("join", "b.rtdc", "a.rtdc", "-o", "out.rtdc", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "out.rtdc is written."
    rows = [line.split() for line in lines if "rtdc " in line and "+" in line]
    assert [row[0] for row in rows] == ["a.rtdc", "b.rtdc"]
    assert rows[1][-3:] == ["+10.000", "s", "+30,000"]
    assert re.search(
        r"^  features +\d+ stored, 1 referred to: userdef1$", result.stdout, re.MULTILINE
    )
    assert result.stderr.startswith("looking: 0 of 2 files\n")
    assert re.search(r"^joining: .* of .* kB", result.stderr, re.MULTILINE)
    assert verify(tmp_path / "out.rtdc").findings == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.rtdc", "b.rtdc", "out.rtdc"]


def test_virtual(measured: Callable[..., Path], tmp_path: Path) -> None:
    measured("a.rtdc", "12:00:00")
    measured("b.rtdc", "12:00:10")
    result = dcwrite("join", "--virtual", tmp_path, "-o", "out.rtdc", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "out.virtual.h5 belongs to it; keep it and the inputs." in result.stdout
    assert verify(tmp_path / "out.rtdc").findings == []
    assert dcwrite("verify", "out.rtdc", cwd=tmp_path).returncode == 0


def test_json_and_quiet(measured: Callable[..., Path], tmp_path: Path) -> None:
    inputs = [measured("a.rtdc", "12:00:00"), measured("b.rtdc", "12:00:10")]
    result = run(*inputs, "-o", tmp_path / "out.rtdc", "--json")
    summary = json.loads(result.stdout)
    assert result.stderr == ""
    assert summary["path_virtual"] is None
    assert [item["path"] for item in summary["inputs"]] == list(map(str, inputs))
    assert summary["inputs"][1]["time_s"] == 10.0
    quiet = run(*inputs, "-o", tmp_path / "out.rtdc", "--overwrite", "--quiet")
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_one_line_for_each_problem(measured: Callable[..., Path], tmp_path: Path) -> None:
    inputs = [
        measured("a.rtdc", "12:00:00"),
        measured("b.rtdc", "12:00:10", setup__medium="PBS"),
        tmp_path / "none.rtdc",
        tmp_path / "text.rtdc",
    ]
    inputs[3].write_text("no recording")
    result = run("--quiet", *inputs, "-o", tmp_path / "out.rtdc")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("Error: ") and ";" in line for line in lines)
    for part in ("none.rtdc", "text.rtdc", "'setup:medium' differs: 'CellCarrierB' in 'a.rtdc'"):
        assert sum(part in line for line in lines) == 1
    assert not (tmp_path / "out.rtdc").exists()


def test_what_is_left_out_is_said(measured: Callable[..., Path], tmp_path: Path) -> None:
    inputs = [measured("a.rtdc", "12:00:00"), measured("b.rtdc", "12:00:10")]
    with HDF5Writer(inputs[0]) as writer:
        n_events = len(writer.h5["events/deform"])
        writer.store_feature_chunk("emodulus", [1.0] * n_events)
    out = tmp_path / "out.rtdc"
    refused = run(*inputs, "-o", out, "--quiet")
    assert refused.exit_code == 2
    assert refused.stderr.startswith(
        "Error: 'b.rtdc' lacks a feature that others have: emodulus; "
    )
    assert "--features common" in refused.stderr
    done = run(*inputs, "-o", out, "--features", "common", "--quiet")
    assert done.exit_code == 1
    assert done.stderr == "Note: left out: 'b.rtdc' lacks a feature that others have: emodulus\n"


def test_the_same_twice(measured: Callable[..., Path], tmp_path: Path) -> None:
    path = measured("a.rtdc", "12:00:00")
    out = tmp_path / "out.rtdc"
    result = run(path, path, "-o", out)
    assert result.exit_code == 2
    assert "--allow-differences" in result.stderr
    assert run(path, path, "-o", out, "--allow-differences").exit_code == 0


def test_existing_outputs(measured: Callable[..., Path], tmp_path: Path) -> None:
    inputs = [measured("a.rtdc", "12:00:00"), measured("b.rtdc", "12:00:10")]
    (tmp_path / "out.rtdc").write_text("mine")
    result = run("--quiet", *inputs, "-o", tmp_path / "out.rtdc")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "--overwrite" in result.stderr
    assert (tmp_path / "out.rtdc").read_text() == "mine"


@pytest.mark.parametrize(
    "args", [["a.rtdc", "b.rtdc"], ["-o", "out.rtdc"], ["a", "b", "-o", "c", "--sort", "size"]]
)
def test_usage(args: list[str]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")


def test_one_input_is_too_few(measured: Callable[..., Path], tmp_path: Path) -> None:
    result = run(measured("a.rtdc", "12:00:00"), "-o", tmp_path / "out.rtdc")
    assert result.exit_code == 2
    assert "at least two recordings" in result.stderr
