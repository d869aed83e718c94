"""What is no recording, as input of each command: one line with a remedy, exit code 2."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from click.testing import CliRunner

from dcwrite.cli import main

#: Commands with one input; NAME is its name.
WORDS = {
    "basins": "basins new.rtdc NAME",
    "compress": "compress NAME --output new.rtdc",
    "copy": "copy NAME new.rtdc",
    "info": "info NAME",
    "plot": "plot NAME",
    "recover": "recover NAME --output new.rtdc",
    "replay": "replay NAME new.rtdc",
    "split": "split NAME --out-dir new",
    "verify": "verify NAME",
    "watch": "watch NAME",
}
#: What to do, as messages say it.
REMEDY = re.compile(
    r"check (the name|whether)|name (the files|a recording)|dcwrite recover|download"
)


def text(path: Path) -> None:
    path.write_text("no recording")


def empty(path: Path) -> None:
    path.touch()


def folder(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    path.symlink_to(os.devnull)


def missing(path: Path) -> None:
    del path


def link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere.rtdc")


JUNK: dict[str, Callable[[Path], None]] = {
    function.__name__: function
    for function in (text, empty, folder, device, missing, link_to_nowhere)
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Return a function that runs a command on "junk.rtdc"; the lines of its error."""
    monkeypatch.chdir(tmp_path)

    def run_command(command: str) -> list[str]:
        before = sorted(tmp_path.rglob("*"))
        words = WORDS[command].replace("NAME", "junk.rtdc").split()
        result = CliRunner().invoke(main, [*words, "--quiet"])
        assert result.exit_code == 2, result.output
        assert sorted(tmp_path.rglob("*")) == before
        return result.stderr.splitlines()

    return run_command


@pytest.mark.parametrize("command", WORDS)
@pytest.mark.parametrize("kind", JUNK)
def test_one_input(run: Callable[[str], list[str]], command: str, kind: str) -> None:
    JUNK[kind](Path("junk.rtdc"))
    (line,) = run(command)
    assert line.startswith("Error: ")
    assert "junk.rtdc" in line
    assert REMEDY.search(line), line


@pytest.mark.parametrize("command", ["plot", "verify", "info", "compress", "copy", "split"])
@pytest.mark.parametrize("kind", JUNK)
def test_of_many_inputs(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, kind: str
) -> None:
    """The others go on."""
    monkeypatch.chdir(tmp_path)
    JUNK[kind](Path("junk.rtdc"))
    shutil.copyfile(recording, "good.rtdc")
    options = {"verify": [], "info": [], "plot": ["--out-dir", "out", "--panels", "rate"]}
    words = options.get(command, ["--out-dir", "out"])
    result = CliRunner().invoke(main, [command, "junk.rtdc", "good.rtdc", *words, "--json"])
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if "rror" in line]
    assert line.startswith("Error: ")
    assert "junk.rtdc" in line
    assert REMEDY.search(line), line
    if command not in {"verify", "info"}:
        assert [path.name[:4] for path in Path("out").iterdir()] == ["good"]


@pytest.mark.parametrize(
    "command", ["basins", "compress", "copy", "info", "plot", "replay", "split", "verify"]
)
def test_an_unfinished_recording(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(folder)
    for name in ("m.rtdc", "m.rtdc.part", "m.rtdc.journal"):
        words = WORDS[command].replace("NAME", name).split()
        result = CliRunner().invoke(main, [*words, "--quiet"])
        assert result.exit_code == 2, name
        (line,) = result.stderr.splitlines()
        assert re.match(r"Error: .*dcwrite recover", line), (name, line)
    assert sorted(path.name for path in folder.iterdir()) == ["m.rtdc.journal", "m.rtdc.part"]


@pytest.mark.parametrize("command", ["basins", "compress", "copy", "plot", "split"])
def test_a_file_without_events(run: Callable[[str], list[str]], command: str) -> None:
    with h5py.File("junk.rtdc", "w") as h5:
        h5["data"] = 1
    (line,) = run(command)
    assert "expected a group 'events', got none; this is no recording; check the name" in line
