"""What holds for every command: help, options, errors, completion, Ctrl-C; new ones included."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from dcwrite import verify
from dcwrite.cli import main

from .command import TIMEOUT_S, Running, dcwrite
from .walk import COMMANDS, arguments, command_of, has_option, n_inputs, writes

#: Python runs it when it starts. The interrupt goes to the whole process group, as from a
#: terminal, at a moment in the midst of the work.
INTERRUPT = """
import os, signal, sys

if "spawn_main" not in " ".join(sys.orig_argv):
    import {module}

    original, sent = {name}, []

    def interrupt(*args, **kwargs):
        result = original(*args, **kwargs)
        if not sent and ({condition}):
            sent.append(True)
            print("the interrupt is sent", file=sys.stderr)
            os.killpg(os.getpgrp(), signal.SIGINT)
        return result

    {name} = interrupt
"""
MOMENTS = {
    "something is done": (
        "dcwrite.tools.progress", "dcwrite.tools.progress.Clock.show", "args[1]"
    ),
    "an output is complete but for its name": ("os", "os.fsync", "True"),
}  # fmt: skip
#: They show no progress: done at once, or ended by Ctrl-C (see test_watch_many.py).
SHOW_NOTHING = {"basins", "watch"}

posix = pytest.mark.skipif(os.name != "posix", reason="needs process groups")


@pytest.fixture
def inputs(recording: Path, tmp_path: Path) -> Callable[[str], list[Path]]:
    """Return a function that gives the inputs of a command: copies in a folder of their own."""
    (tmp_path / "in").mkdir()

    def copies(name: str) -> list[Path]:
        found = [tmp_path / "in" / f"{letter}.rtdc" for letter in "ab"[: n_inputs(name)]]
        return [Path(shutil.copyfile(recording, path)) for path in found]

    return copies


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return the folder in which commands run."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files_in(folder)
    }


def assert_whole(path: Path) -> None:
    """A file is complete, whatever it is."""
    assert not path.name.startswith("."), path
    if path.suffix == ".png":
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    else:
        assert path.suffix == ".rtdc", path
        assert verify(path, basin_roots=[path.parents[2]]).exit_code == 0


def run_here(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    """Run a command in this process, which is faster."""
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, words)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert f"Example:\n    dcwrite {name}" in result.stdout
    assert "--quiet" in result.stdout
    assert "--debug" in result.stdout
    assert max(map(len, result.stdout.splitlines())) < 100
    params = command_of(name).params
    for option in (param for param in params if isinstance(param, click.Option)):
        assert option.help or option.name == "seed", option.name


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run(
    name: str,
    inputs: Callable[[str], list[Path]],
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = arguments(name, inputs(name))
    before = digests(work.parent / "in")
    result = dcwrite(*words, cwd=work)
    assert result.returncode == 0, result.stderr
    assert bool(files_in(work)) == writes(name)
    for path in files_in(work):
        assert_whole(path)
    assert digests(work.parent / "in") == before
    if writes(name):  # a second time, to the same names
        outputs = digests(work)
        code, _, err = run_here(work, monkeypatch, *words, "--quiet")
        assert digests(work) == outputs
        assert code in {0, 2}  # what is there already is refused, or left alone
        assert code == 0 or "--overwrite" in err


@pytest.mark.parametrize("name", [name for name in COMMANDS if has_option(name, "--json")])
def test_json(
    name: str,
    inputs: Callable[[str], list[Path]],
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, out, err = run_here(work, monkeypatch, *arguments(name, inputs(name)), "--json")
    assert code == 0, err
    assert out.isascii()
    decoder, text = json.JSONDecoder(parse_constant=pytest.fail), out.strip()
    while text:  # one value, or one in each line
        _, end = decoder.raw_decode(text)
        text = text[end:].strip()


@pytest.mark.parametrize("name", [name for name in COMMANDS if n_inputs(name)])
def test_missing_inputs(name: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [Path(f"missing_{letter}.rtdc") for letter in "ab"[: n_inputs(name)]]
    code, _, err = run_here(work, monkeypatch, *arguments(name, missing), "--quiet")
    assert code == 2
    lines = err.splitlines()
    assert 1 <= len(lines) <= len(missing), err
    for line, path in zip(lines, missing, strict=False):
        assert re.match(rf"Error: .*{path}", line)
        assert re.search(r"; |: run |: say ", line), line  # what to do about it
    assert files_in(work) == []


@pytest.mark.parametrize("name", [name for name in COMMANDS if n_inputs(name)])
def test_no_recording(name: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text files as inputs: an error in one line for each, or where it comes from (--debug)."""
    paths = [work / f"text_{letter}.rtdc" for letter in "ab"[: n_inputs(name)]]
    for path in paths:
        path.write_text("no recording")
    words = [*arguments(name, paths), "--quiet"]
    code, _, err = run_here(work, monkeypatch, *words)
    assert code == 2
    assert 1 <= len(err.splitlines()) <= len(paths), err
    assert all(line.startswith("Error: ") for line in err.splitlines())
    code, _, err = run_here(work, monkeypatch, *words, "--debug")
    assert code == 2
    if name != "verify":  # its findings are results, not exceptions
        assert "Traceback" in err
    assert files_in(work) == paths


@posix
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_interrupted(
    name: str,
    moment: str,
    inputs: Callable[[str], list[Path]],
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = work.parent / "site"
    site.mkdir()
    module, target, condition = MOMENTS[moment]
    (site / "sitecustomize.py").write_text(
        INTERRUPT.format(module=module, name=target, condition=condition)
    )
    words = arguments(name, inputs(name))
    before = digests(work.parent / "in")
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    running = Running(*words, cwd=work)
    code, err = running.finish()
    assert digests(work.parent / "in") == before
    assert "Traceback" not in err
    for path in files_in(work):
        assert_whole(path)
    for path in work.rglob("*"):
        assert path.is_file() or any(path.iterdir()), f"{path}: an empty folder was left"
    if "the interrupt is sent" in err:
        assert code == 130, err
        assert err.endswith("Interrupted; no unfinished file was left behind.\n")
    else:  # it came to its end without such a moment
        assert code == 0, err
        assert name in SHOW_NOTHING or (moment != "something is done" and not writes(name))


# -- completion -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_completion_of_options_and_files(name: str) -> None:
    shell = BashComplete(main, {}, "dcwrite", "_DCWRITE_COMPLETE")
    options = {item.value for item in shell.get_completions([name], "--")}
    assert {"--quiet", "--debug", "--help"} <= options
    known = {opt for param in command_of(name).params for opt in param.opts if opt[:2] == "--"}
    assert known <= options
    if n_inputs(name):
        assert [item.type for item in shell.get_completions([name], "m")] == ["file"]


def _documented(shell: str) -> str:
    """The line that `dcwrite --help` and the page about completion tell for a shell."""
    (line,) = re.findall(
        rf"^ *(\S.*{shell}_source dcwrite.*)$", CliRunner().invoke(main, []).stderr, re.MULTILINE
    )
    page = Path(__file__).parents[2] / "docs" / "howto" / "completion.md"
    assert line in page.read_text(encoding="utf-8")
    return str(line)


@pytest.fixture
def shell(
    request: pytest.FixtureRequest, tmp_path: Path, recording: Path
) -> Callable[[str], list[str]]:
    """Return a function that types a line and the tabulator key: what the shell makes of it."""
    name = str(request.param)
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    shutil.copyfile(recording, tmp_path / "measured.rtdc")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "dcwrite"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dcwrite "$@"\n')
    script.chmod(0o755)
    prompt = "PS1='ready> '\n"
    setups = {
        "bash": f"{prompt}bind 'set enable-bracketed-paste off'\n",
        "zsh": f"{prompt}unsetopt prompt_cr prompt_sp\nbindkey -e\n"
        "autoload -Uz compinit\ncompinit -u -D\n",
        "fish": "",
    }
    setup = tmp_path / (".zshrc" if name == "zsh" else "setup")
    setup.write_text(f"{setups[name]}{_documented(name)}\n")
    env = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "INPUTRC": os.devnull,
        "TERM": "dumb",
        "ZDOTDIR": str(tmp_path),
    }
    if name == "fish":

        def ask(line: str) -> list[str]:
            done = subprocess.run(
                [program, "-c", f"source {setup}; complete -C '{line}'"],
                cwd=tmp_path, env=env, capture_output=True, text=True, check=True,
                timeout=TIMEOUT_S,
            )  # fmt: skip
            start = line.rpartition(" ")[0]
            return [f"{start} {found.split(chr(9))[0]}" for found in done.stdout.splitlines()]

        return ask

    flags = {"bash": ["--noprofile", "--rcfile", str(setup), "-i"], "zsh": ["-d", "-i"]}[name]
    return lambda line: [_typed([program, *flags], line, tmp_path, env)]


def _typed(command: list[str], line: str, folder: Path, env: dict[str, str]) -> str:
    """Type a line and the tabulator key into a shell on a terminal; the completed line."""
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder,
        start_new_session=True, env=env,
    ) as process:  # fmt: skip
        os.close(theirs)
        try:
            _read_until(ours, b"ready> ")
            # the completed line becomes the argument of `echo`, between marks
            os.write(ours, f"{line}\t]'\x01echo '[\n".encode())
            seen = _read_until(ours, b"\nready> ")
            os.write(ours, b"exit\n")
            process.wait(TIMEOUT_S)
        finally:
            process.kill()
            os.close(ours)
    found = re.findall(r"^\[(.*)\]\s*$", seen.decode(), re.MULTILINE)
    assert found, seen
    return str(found[-1]).rstrip()


def _read_until(handle: int, end: bytes) -> bytes:
    seen = b""
    while not re.sub(rb"\r|\x1b\[[?;\d]*[A-Za-z]", b"", seen).endswith(end):
        part = os.read(handle, 4096)
        assert part, seen
        seen += part
    return seen


@posix
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"], indirect=True)
def test_completion_in_a_shell(shell: Callable[[str], list[str]]) -> None:
    for typed, completed in (
        ("dcwrite ver", "dcwrite verify"),
        ("dcwrite verify --js", "dcwrite verify --json"),
        ("dcwrite verify meas", "dcwrite verify measured.rtdc"),
        ("dcwrite plot measured.rtdc --pan", "dcwrite plot measured.rtdc --panels"),
        ("dcwrite copy --basins dra", "dcwrite copy --basins drain"),
    ):
        assert shell(typed) == [completed]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, tmp_path: Path) -> None:
    result = dcwrite(cwd=tmp_path, env={"_DCWRITE_COMPLETE": f"{shell}_source"})
    assert result.returncode == 0
    assert "_DCWRITE_COMPLETE" in result.stdout
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed: the script was made, and not run")
    (tmp_path / "script").write_text(result.stdout)
    subprocess.run([program, "-n", str(tmp_path / "script")], check=True, timeout=TIMEOUT_S)


@posix
def test_a_closed_terminal_ends_a_command(work: Path) -> None:
    running = Running("demo", "--frames", 40_000, cwd=work)
    running.wait_for(r"^writing: ")
    running.process.send_signal(signal.SIGHUP)
    code, err = running.finish()
    assert code == 128 + signal.SIGHUP, err
    assert files_in(work) == []
