"""The benchmarks run, from the command line, and print a ratio for each comparison."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

#: Rows that start no processes beside their own.
SHORT_ROWS = ("1", "3", "7", "8", "11")


def run(*arguments: object, folder: Path) -> tuple[str, list[dict[str, object]]]:
    """What the benchmarks print, and the rows that they keep."""
    pytest.importorskip("dcnum", reason="the benchmarks compare with dcnum (extra `peer`)")
    kept = folder / "kept.json"
    command = [sys.executable, BENCHMARKS / "run.py", "--quick", "--folder", folder]
    process = subprocess.run(
        [*map(str, command), "--json", str(kept), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    content = json.loads(kept.read_text(encoding="utf-8"))
    assert content["quick"]
    assert [path for path in folder.iterdir() if path != kept] == []
    return process.stdout, content["rows"]


@pytest.mark.peer
def test_short_rows(tmp_path: Path) -> None:
    chosen = [part for row in SHORT_ROWS for part in ("--only", row)]
    printed, rows = run(*chosen, folder=tmp_path)
    assert "ratio" in printed
    assert "h5py" in printed
    assert {row["number"] for row in rows} == set(SHORT_ROWS)
    assert all(row["ratio"] > 0 for row in rows)  # type: ignore[operator]


@pytest.mark.peer
@pytest.mark.slow
def test_rows_with_processes(tmp_path: Path) -> None:
    printed, rows = run("--only", "5", "--only", "12", "--markdown", folder=tmp_path)
    assert {row["number"] for row in rows} == {"5", "12"}
    assert "| row | what |" in printed


def test_only_rows_that_exist(tmp_path: Path) -> None:
    pytest.importorskip("dcnum", reason="the benchmarks compare with dcnum (extra `peer`)")
    process = subprocess.run(
        [sys.executable, str(BENCHMARKS / "run.py"), "--only", "99"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert process.returncode == 2
    assert "invalid choice" in process.stderr
