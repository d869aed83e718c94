"""The group of commands: help, version, completion, encodings, pipes, errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import dcwrite as package
from dcwrite.cli import _COMMANDS, main

from .command import COMMAND, TIMEOUT_S, dcwrite

COMMANDS = tuple(_COMMANDS)


def test_help_lists_the_commands() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert all(f"\n  {name}" in result.stdout for name in COMMANDS)
    assert "Example:\n    dcwrite demo\n" in result.stdout


def test_help_loads_neither_terminal_nor_plotting_library() -> None:
    code = (
        "import sys; from dcwrite.cli import main; main(['--help'], standalone_mode=False); "
        "print({'rich', 'matplotlib', 'dcwrite.simulate'} & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )
    assert shown.stdout.endswith("set()\n")


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.stdout == f"dcwrite, version {package.__version__}\n"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("verfiy", "did you mean verify?"),
        ("compres", "did you mean compress?"),
        ("xyz", f"there are {', '.join(COMMANDS)}."),
    ],
)
def test_unknown_command_names_those_that_exist(typed: str, hint: str) -> None:
    result = CliRunner().invoke(main, [typed])
    assert result.exit_code == 2
    assert f"No such command '{typed}'; {hint}" in result.stderr


@pytest.mark.parametrize(
    "args",
    [["info"], ["verify"], ["replay", "one.rtdc"], ["demo", "--frames", "0"], ["demo", "x"]],
    ids=" ".join,
)
def test_usage_errors(args: list[str]) -> None:
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")
    assert not result.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])  # click makes UTF-8 out of ascii
@pytest.mark.parametrize("command", ["info", "verify"])
def test_terminals_that_lack_characters(
    recording: Path, tmp_path: Path, encoding: str, command: str
) -> None:
    copy = tmp_path / "\u03bcm \u2713.rtdc"
    copy.write_bytes(recording.read_bytes())
    result = dcwrite(command, copy, cwd=tmp_path, env={"PYTHONIOENCODING": encoding, "LANG": "C"})
    assert (result.returncode, result.stderr.count("Traceback")) == (0, 0)
    assert ("?m ?" if encoding == "cp1252" else "\u03bcm \u2713") + ".rtdc" in result.stdout


def test_a_reader_that_leaves_early_is_no_error(recording: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "info", *[str(recording)] * 30],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
        process.wait(TIMEOUT_S)


def test_text_of_a_file_cannot_control_the_terminal(recording: Path, tmp_path: Path) -> None:
    copy = tmp_path / "c.rtdc"
    copy.write_bytes(recording.read_bytes())
    with package.HDF5Writer(copy) as writer:
        writer.store_metadata({"user:\x1b[31mred": "[bold]\x1b]0;title\x07"})
    result = CliRunner().invoke(main, ["info", str(copy)])
    assert "\x1b" not in result.stdout
    assert "\\x1b[31mred" in result.stdout
    assert "[bold]" in result.stdout


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    arguments = ["replay", str(tmp_path / "none.rtdc"), str(tmp_path / "out.rtdc")]
    short, long = (CliRunner().invoke(main, [*arguments, *extra]) for extra in ([], ["--debug"]))
    assert short.exit_code == long.exit_code == 2
    assert len(short.stderr.splitlines()) == 1
    assert "Traceback" in long.stderr
    assert long.stderr.endswith(short.stderr)
