"""`dcwrite basins`: the command; what may stand together is tested in tests/store."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dcwrite import HDF5Writer, Recording
from dcwrite.cli import main

from .command import dcwrite


@pytest.fixture
def inputs(recording: Path, tmp_path: Path) -> list[Path]:
    """A recording, and one with another feature of the same events."""
    first, second = tmp_path / "a.rtdc", tmp_path / "b.rtdc"
    first.write_bytes(recording.read_bytes())
    with Recording(first) as opened:
        metadata, n_events = opened.metadata, len(opened)
    keys = ("experiment:date", "experiment:time", "setup:identifier", "experiment:run identifier")
    with HDF5Writer(second, mode="x", event_count=True) as writer:
        writer.store_feature_chunk("userdef2", np.arange(n_events) / 2)
        writer.store_metadata({key: metadata[key] for key in keys if key in metadata})
    return [first, second]


def invoke(*args: object) -> Any:
    return CliRunner().invoke(main, ["basins", *map(str, args)])


def test_two_recordings(inputs: list[Path], tmp_path: Path) -> None:
    result = dcwrite("basins", "out.rtdc", "a.rtdc", "b.rtdc", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("checking: 0 of 2 files\n")
    with Recording(inputs[0]) as before, Recording(tmp_path / "out.rtdc") as after:
        assert after.own_features == []
        np.testing.assert_array_equal(after["image"][:], before["image"][:])
        np.testing.assert_array_equal(after["userdef1"][:], before["userdef1"][:])
        n_events, n_features = len(after), len(after.features)
    first, header, *rows = result.stdout.splitlines()
    assert first == (
        f"out.rtdc is written: {n_events} events, {n_features} features through basins."
    )
    assert header.split() == ["basin", "locations", "mapping", "features", "reachable"]
    assert [re.split(r"\s{2,}", row.strip())[0] for row in rows] == ["a.rtdc", "b.rtdc"]
    assert all(row.endswith("yes") for row in rows)


def test_a_pattern_and_json(inputs: list[Path], tmp_path: Path) -> None:
    result = dcwrite(
        "basins", "--json", "--features", "user*", "out.rtdc", "[ab].rtdc", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["features"] == ["userdef1", "userdef2"]
    assert [basin["reachable"] for basin in summary["basins"]] == [True, True]
    assert [Path(path).name for path in summary["paths"]] == ["a.rtdc", "b.rtdc"]


def test_mapped_and_quiet(inputs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("3\n2\n2\n")
    result = invoke("-q", "--mapping", tmp_path / "rows.txt", tmp_path / "out.rtdc", *inputs)
    assert (result.exit_code, result.output) == (0, "")
    with Recording(tmp_path / "out.rtdc") as recording:
        assert recording["userdef2"][:].tolist() == [1.5, 1.0, 1.0]


def test_what_cannot_be_reached(inputs: list[Path], tmp_path: Path) -> None:
    with HDF5Writer(inputs[1]) as writer:
        writer.store_basin("web", urls=["https://example.org/a"])
    result = invoke("--json", tmp_path / "out.rtdc", *inputs)
    assert result.exit_code == 1
    *_, line = result.stderr.splitlines()
    assert line.startswith("Note: basin 'web' cannot be reached from here: remote")
    assert json.loads(result.stdout)["basins"][-1]["reason"].startswith("remote")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--features", "imag"], "did you mean image"),
        (["--mapping", "nowhere.npy"], "No such file or directory; check the name"),
        (["nowhere.rtdc"], "No such file or directory; check the name"),
    ],
)
def test_errors_are_one_line(
    inputs: list[Path], tmp_path: Path, options: list[str], message: str
) -> None:
    result = invoke("-q", tmp_path / "out.rtdc", *inputs, *options)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert not (tmp_path / "out.rtdc").exists()


def test_outputs_that_lead_to_themselves(inputs: list[Path], tmp_path: Path) -> None:
    assert invoke(tmp_path / "out.rtdc", *inputs).exit_code == 0
    (tmp_path / "link.rtdc").symlink_to(inputs[0])
    for out, paths in (
        (inputs[0], inputs),
        (tmp_path / "link.rtdc", inputs),
        (inputs[0], [tmp_path / "out.rtdc"]),
    ):
        result = invoke("--overwrite", out, *paths)
        assert result.exit_code == 2
        assert "expected an output" in result.stderr
    with Recording(inputs[0]) as recording:
        assert "image" in recording.own_features
