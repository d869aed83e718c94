"""A plain `dask scheduler` and `dask worker`, as docs/howto/cluster.md starts them."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest

from dcwrite import HDF5Writer, Recording
from dcwrite.cli import main
from dcwrite.cluster import connected, write_recording
from dcwrite.errors import ClusterError

from ..cli.command import Running
from .conftest import ROOT
from .made_up import MadeUp, same_events, write_on_one_machine

pytestmark = [
    pytest.mark.leaks_allowed(reason="the programs run as long as the module"),
    pytest.mark.timeout(300),
]

DASK = (sys.executable, "-m", "dask")
LOOPBACK = ("--host", "127.0.0.1", "--no-dashboard")


def start(*args: object, folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "dask.log").open("ab") as log:
        return subprocess.Popen(
            [*DASK, *map(str, args)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def scheduler_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file that says where the scheduler is, as on clusters whose machines share a folder."""
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("distributed is not installed (extra `cluster`)")
    folder = tmp_path_factory.mktemp("dask")
    path = folder / "scheduler.json"
    programs = [
        start(
            "scheduler", *LOOPBACK, "--port", 0, "--dashboard-address", "127.0.0.1:0",
            "--scheduler-file", path, folder=folder,
        ),
        start(
            "worker", *LOOPBACK, "--nworkers", 2, "--nthreads", 1, "--scheduler-file", path,
            "--local-directory", folder, folder=folder,
        ),
    ]  # fmt: skip
    try:
        yield path
    finally:
        for program in reversed(programs):
            os.killpg(program.pid, signal.SIGTERM)
        for program in programs:
            try:
                program.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(program.pid, signal.SIGKILL)
                program.wait()


def test_a_recording(tmp_path: Path, scheduler_file: Path) -> None:
    while not scheduler_file.exists():
        time.sleep(0.1)  # it is another program that writes it
    made_up = MadeUp()
    with connected(scheduler=str(scheduler_file)) as executor:
        # workers come later, as they do on a cluster with a queue
        write_recording(tmp_path / "out.rtdc", 80, made_up, executor, frames_per_range=20)
    same_events(tmp_path / "out.rtdc", write_on_one_machine(tmp_path / "one.rtdc", made_up, 80))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two recordings, one that is damaged, and one that is not there."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a.rtdc", "b.rtdc")):
        write_on_one_machine(tmp_path / name, MadeUp(kinds=number > 0), 20)
    (tmp_path / "bad.rtdc").write_bytes(b"no recording")
    return ["a.rtdc", "b.rtdc", "bad.rtdc", "missing.rtdc"]


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, list[str]]:
    """Exit code, output, and errors of a command, without the progress."""
    code = main.main([*map(str, args)], standalone_mode=False)
    out, err = capsys.readouterr()
    return code, out, [line for line in err.splitlines() if line.startswith("Error:")]


@pytest.mark.parametrize("command", ["verify", "info"])
def test_commands_that_look(
    files: list[str], scheduler_file: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    write_with_basin(Path("refers.rtdc"), "a.rtdc")
    files = [*files, "refers.rtdc"]
    here = run(capsys, command, *files)
    there = run(capsys, command, *files, "--scheduler", scheduler_file)
    assert (there[0], there[1]) == (here[0], here[1])
    assert here[0] == 2
    assert len(there[2]) == len(here[2]) == 2
    # one file, and an address
    address = json.loads(scheduler_file.read_text())["address"]
    assert address.startswith("tcp://127.0.0.1:")
    assert run(capsys, command, "--json", "a.rtdc", "--scheduler", address) == run(
        capsys, command, "--json", "a.rtdc"
    )


def write_with_basin(path: Path, origin: str) -> None:
    with HDF5Writer(path, "x") as writer, Recording(origin) as recording:
        writer.store_feature_chunk("deform", np.ones(len(recording)))
        writer.store_basin("origin", [origin])


def table(text: str) -> list[tuple[str, str]]:
    """File and state of each line of a table of outcomes."""
    lines = [line.split() for line in text.splitlines() if ".rtdc" in line]
    return [(cells[0], cells[1]) for cells in lines]


@pytest.mark.parametrize(
    "args",
    [
        ("compress", "--preset", "fast", "--force"),
        ("recover",),
        ("copy", "--features", "deform,area_um"),
        ("split", "--events", 15),
    ],
    ids=lambda args: args[0],
)
def test_commands_that_write(
    files: list[str],
    scheduler_file: Path,
    capsys: pytest.CaptureFixture[str],
    args: tuple[object, ...],
) -> None:
    here = run(capsys, *args, "--out-dir", "here", *files)
    there = run(capsys, *args, "--out-dir", "there", *files, "--scheduler", scheduler_file)
    assert there[0] == here[0] == 2
    assert table(there[1].replace("there", "here")) == table(here[1])
    assert len(there[2]) == len(here[2]) >= 2
    outputs = sorted(path.name for path in Path("here").iterdir())
    assert outputs == sorted(path.name for path in Path("there").iterdir())
    assert len(outputs) >= 2
    for name in outputs:
        same_events(Path("there") / name, Path("here") / name, roots=(Path.cwd(),))


def test_both_options(
    files: list[str], capsys: pytest.CaptureFixture[str], scheduler_file: Path
) -> None:
    with pytest.raises(click.UsageError, match="exclude each other"):
        run(capsys, "verify", "a.rtdc", "--cluster", "local:2", "--scheduler", scheduler_file)
    assert run(capsys, "verify", "a.rtdc", "--cluster", "2")[0] == 2


def test_an_interrupted_command(tmp_path: Path) -> None:
    for name in "abc":
        write_on_one_machine(tmp_path / f"{name}.rtdc", MadeUp(most=30), 60)
    args = ("compress", "--force", "--level", 22, "--out-dir", "out", "--cluster", "local:2")
    running = Running(*args, "a.rtdc", "b.rtdc", "c.rtdc", cwd=tmp_path)
    running.wait_for("^compressing: 0 B of")
    running.interrupt(signal.SIGINT)
    assert running.finish() == (130, "\nInterrupted; no unfinished file was left behind.\n")
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_scheduler_that_dies(tmp_path: Path) -> None:
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("distributed is not installed (extra `cluster`)")
    path = tmp_path / "scheduler.json"
    program = start(
        "scheduler", *LOOPBACK, "--port", 0, "--dashboard-address", "127.0.0.1:0",
        "--scheduler-file", path, folder=tmp_path,
    )  # fmt: skip
    try:
        while not path.exists():
            time.sleep(0.1)  # it is another program that writes it
        with connected(scheduler=str(path)) as executor:
            future = executor.submit(len, "abc")  # there are no workers
            assert executor.n_workers == 0
            os.killpg(program.pid, signal.SIGKILL)
            with pytest.raises(ClusterError, match="connection to the Dask scheduler was lost"):
                future.result(60)
            assert executor.n_workers == 0  # nobody is asked any more
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcwrite.cluster.connect.CONNECT_TIMEOUT_S", 1)
    with (
        pytest.raises(ClusterError, match="no Dask scheduler answers there"),
        connected(scheduler="tcp://127.0.0.1:9"),
    ):
        pass
