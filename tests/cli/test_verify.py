"""`dcwrite verify`: exit codes, findings, JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from dcwrite import HDF5Writer
from dcwrite.cli import main


def verify(*args: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["verify", *map(str, args)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def damaged(recording: Path, tmp_path: Path) -> Path:
    """A copy in which one byte of an image chunk is another."""
    path = tmp_path / "damaged.rtdc"
    path.write_bytes(recording.read_bytes())
    with HDF5Writer(path) as writer:
        place = writer.h5["events/image"].id.get_chunk_info(0)
    with path.open("rb+") as file:
        file.seek(place.byte_offset + place.size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    return path


@pytest.fixture
def unreadable(recording: Path, tmp_path: Path) -> list[Path]:
    """A missing file, a folder, a text file and the beginning of a recording."""
    text, cut = tmp_path / "text.rtdc", tmp_path / "cut.rtdc"
    text.write_text("no recording")
    cut.write_bytes(recording.read_bytes()[:5000])
    return [tmp_path / "missing.rtdc", tmp_path, text, cut]


def test_right(recording: Path) -> None:
    code, out, err = verify(recording)
    assert code == 0
    assert re.fullmatch(
        rf"{re.escape(str(recording))}: right \(\d+ events, \d+ chunks, [\d.]+ kB read\)\n", out
    )
    assert re.search(r"^verifying: 0 B of [\d.]+ kB$", err, re.MULTILINE)


def test_quiet_and_right_says_nothing(recording: Path) -> None:
    assert verify("--quiet", recording) == (0, "", "")


def test_findings(damaged: Path) -> None:
    code, out, err = verify("--quiet", damaged)
    assert (code, err) == (1, "")
    first, second = out.splitlines()
    assert first == f"{damaged}: 1 finding"
    assert second.startswith("  /events/image, chunk at row 0: damaged: ")


def test_unreadable(unreadable: list[Path]) -> None:
    for path in unreadable:
        code, out, err = verify("--quiet", path)
        assert code == 2
        assert out == f"{path}: unreadable\n"
        assert len(err.splitlines()) == 1
        assert err.startswith("Error: ")
        assert str(path) in err


def test_the_worst_of_many_counts(recording: Path, damaged: Path, unreadable: list[Path]) -> None:
    assert verify(recording, damaged)[0] == 1
    code, out, _ = verify(recording, *unreadable, damaged)
    assert code == 2
    table = out.partition("\n\n")[2].splitlines()
    assert [line.split()[1] for line in table] == [
        "result",
        "right",
        *["unreadable"] * 4,
        "findings",
    ]


def test_json(recording: Path, damaged: Path, unreadable: list[Path]) -> None:
    code, out, _ = verify("--json", recording, damaged, unreadable[0])
    reports = json.loads(out, parse_constant=pytest.fail)
    assert code == 2
    assert [report["exit_code"] for report in reports] == [0, 1, 2]
    assert [report["path"] for report in reports] == [
        str(path) for path in (recording, damaged, unreadable[0])
    ]
    assert reports[1]["findings"][0]["where"] == "/events/image, chunk at row 0"


def test_basin_roots(recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "refers.rtdc"
    with HDF5Writer(path) as writer:
        writer.store_basin("far", paths=[recording])
        writer.store_metadata({"experiment:event count": 1})
    assert verify("--quiet", path)[0] == 1
    assert verify("--quiet", "--basin-root", recording.parent, path) == (0, "", "")
    assert verify("--basin-root", tmp_path / "none", path)[0] == 2
