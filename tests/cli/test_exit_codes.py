"""The exit codes that the reference lists, command by command."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from dcwrite import HDF5Writer
from dcwrite.cli import main

ROOT = Path(__file__).parents[2]
#: What is run in the folder of `files`, and how it ends; the highest code of many counts.
CASES = [
    ("info right.rtdc", 0),
    ("info right.rtdc missing.rtdc", 2),
    ("verify right.rtdc", 0),
    ("verify right.rtdc damaged.rtdc", 1),
    ("verify damaged.rtdc missing.rtdc right.rtdc", 2),
    ("verify .", 1),
    ("recover right.rtdc new.rtdc", 0),
    ("recover damaged.rtdc new.rtdc", 1),
    ("recover missing.rtdc new.rtdc", 2),
    ("recover --out-dir new right.rtdc damaged.rtdc", 1),
    ("recover --out-dir new missing.rtdc damaged.rtdc", 2),
    ("watch right.rtdc", 0),
    ("watch right.rtdc missing.rtdc", 2),
    ("plot --panels rate --dpi 50 right.rtdc new.png", 0),
    ("plot --panels pie right.rtdc new.png", 2),
    ("plot missing.rtdc new.png", 2),
    ("replay missing.rtdc new.rtdc", 2),
    ("verify", 2),
    ("verify --no-such-option right.rtdc", 2),
    ("no-such-command", 2),
    ("--help", 0),
    ("--version", 0),
]


@pytest.fixture
def files(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], int]:
    """Return a function that runs a command beside a right and a damaged recording."""
    for name in ("right.rtdc", "damaged.rtdc"):
        shutil.copyfile(recording, tmp_path / name)
    with HDF5Writer(tmp_path / "damaged.rtdc") as writer:
        place = writer.h5["events/image"].id.get_chunk_info(0)
    with (tmp_path / "damaged.rtdc").open("rb+") as file:
        file.seek(place.byte_offset + place.size // 2)
        file.write(b"not what was here")
    monkeypatch.chdir(tmp_path)
    return lambda line: CliRunner().invoke(main, line.split()).exit_code


@pytest.mark.parametrize(("line", "code"), CASES, ids=[line for line, _ in CASES])
def test_exit_code(files: Callable[[str], int], line: str, code: int) -> None:
    assert files(line) == code


def test_the_reference_lists_them() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    table = text.partition("## Exit codes")[2]
    listed = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)
              for code in row.split(",")}  # fmt: skip
    assert listed == {code for _, code in CASES} | {129, 130, 143}
