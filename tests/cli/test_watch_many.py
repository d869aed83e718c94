"""`dcwrite watch` with several files: tables, JSON, ends, Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .command import Running, dcwrite

fcntl = pytest.importorskip("fcntl", reason="streams are locked by their writers on POSIX only")


@pytest.fixture
def streams(folder: Path, recording: Path) -> Iterator[Path]:
    """Return a folder with m.rtdc and n.rtdc, which seem to be written now, and a.rtdc."""
    shutil.copyfile(recording, folder / "a.rtdc")
    for ending in ("part", "journal"):
        shutil.copyfile(folder / f"m.rtdc.{ending}", folder / f"n.rtdc.{ending}")
    with ExitStack() as stack:
        for name in ("m", "n"):
            journal = stack.enter_context((folder / f"{name}.rtdc.journal").open("rb"))
            fcntl.flock(journal, fcntl.LOCK_EX)  # as a writer does
        yield folder


def objects(text: str) -> list[dict[str, object]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["m.rtdc", "n.rtdc", "a.rtdc"], "mna"),
        (["."], "mn"),  # what is being written
        (["*.rtdc"], "mna"),
        (["m.rtdc.part", "m.rtdc.journal", "m.rtdc"], "m"),
    ],
    ids=" ".join,
)
def test_one_look(streams: Path, typed: list[str], found: str) -> None:
    result = dcwrite("watch", "--once", "--json", *typed, cwd=streams)
    assert result.returncode == 0, result.stderr
    seen = objects(result.stdout)
    assert [item["path"] for item in seen] == [f"{letter}.rtdc" for letter in found]
    for item in seen:
        if item["path"] == "a.rtdc":
            assert item["state"] == "finished"
        else:
            assert (item["state"], item["n_events"]) == ("writing", 400)


def test_lines_have_names_where_there_are_several(streams: Path) -> None:
    result = dcwrite("watch", "--once", "m.rtdc", "n.rtdc", cwd=streams)
    assert result.returncode == 0
    assert [line.partition(" durable")[0] for line in result.stdout.splitlines()] == [
        "m.rtdc: 400", "n.rtdc: 400",
    ]  # fmt: skip


def test_those_that_fail_do_not_stop_the_others(streams: Path) -> None:
    (streams / "empty").mkdir()
    typed = ("missing.rtdc", "z*", "empty", "a.rtdc")
    result = dcwrite("watch", *typed, cwd=streams)
    assert result.returncode == 2
    assert "a.rtdc: finished with " in result.stdout
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert all(name in line and ";" in line for name, line in zip(typed, lines, strict=False))


def test_a_stall_ends_it(streams: Path) -> None:
    result = dcwrite(
        "watch", "--json", "--stall-timeout", "0.1", "--interval", "0.05", "m.rtdc", cwd=streams
    )
    assert result.returncode == 1
    assert objects(result.stdout)[-1]["state"] == "stalled"
    assert "nothing new for " in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs process groups")
def test_ctrl_c(streams: Path) -> None:
    before = {path: path.read_bytes() for path in streams.iterdir()}
    running = Running("watch", "--json", "--interval", "60", "m.rtdc", "n.rtdc", cwd=streams)
    assert running.process.stdout is not None
    assert running.process.stdout.readline()
    running.interrupt(signal.SIGINT)
    code, err = running.finish()
    assert code == 130, err
    assert "Traceback" not in err
    assert {path: path.read_bytes() for path in streams.iterdir()} == before


def test_on_a_terminal_there_is_a_table(streams: Path) -> None:
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    ours, theirs = pty.openpty()
    running = Running("watch", "--once", "m.rtdc", "n.rtdc", cwd=streams, stdout=theirs)
    os.close(theirs)
    assert running.process.wait(60) == 0
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    running.finish()
    assert "durable events" in shown
    assert shown.count("writing") >= 2
