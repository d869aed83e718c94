"""`dcwrite verify`: exit codes, findings, JSON."""

from __future__ import annotations

import json
import re
import shutil
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
    """A missing file, an empty folder, a text file and the beginning of a recording."""
    text, cut = tmp_path / "text.rtdc", tmp_path / "cut.rtdc"
    text.write_text("no recording")
    cut.write_bytes(recording.read_bytes()[:5000])
    (tmp_path / "empty").mkdir()
    return [tmp_path / "missing.rtdc", tmp_path / "empty", text, cut]


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
    code, out, _ = verify(path)  # what is not looked at is said, and is no finding
    assert code == 0
    assert "note: /basins/" in out
    assert "was not looked at" in out
    assert verify("--quiet", path) == (0, "", "")
    code, out, _ = verify("--basin-root", recording.parent, path)
    assert (code, "note" in out) == (0, False)
    recording.rename(recording.with_suffix(".gone"))
    try:
        assert verify("--basin-root", recording.parent, path)[0] == 1
    finally:
        recording.with_suffix(".gone").rename(recording)
    assert verify("--basin-root", tmp_path / "none", path)[0] == 2


def test_folders_and_patterns(recording: Path, damaged: Path, tmp_path: Path) -> None:
    shutil.copyfile(recording, tmp_path / "right.rtdc")
    for argument in (tmp_path, tmp_path / "*.rtdc"):
        code, out, _ = verify(argument)
        assert code == 1
        table = out.partition("\n\n")[2].splitlines()
        assert [line.split()[:2] for line in table[1:]] == [
            [str(damaged), "findings"],
            [str(tmp_path / "right.rtdc"), "right"],
        ]
    code, _, err = verify(tmp_path / "x*.rtdc", tmp_path / "right.rtdc")
    assert code == 2
    assert f"'{tmp_path / 'x*.rtdc'}': no file matches; check the folder and the pattern" in err


def test_a_folder_with_an_unfinished_recording_is_not_right(tmp_path: Path) -> None:
    for name in ("m.rtdc.part", "m.rtdc.journal"):
        (tmp_path / name).write_bytes(b"")
    code, _, err = verify("--quiet", tmp_path)
    assert code == 2
    assert "dcwrite recover" in err
