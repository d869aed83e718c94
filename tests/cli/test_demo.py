"""`dcwrite demo`: what it makes, and what is left when it is ended before its time."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dcwrite import Recording, verify
from dcwrite.cli import main
from dcwrite.simulate import SimulatedRecording, SimulationSettings
from dcwrite.tools.density import density_at
from dcwrite.tools.gallery import pick_cells

from .command import Running, dcwrite

#: More than is done before the test ends it.
MANY_FRAMES = 40_000
AT_THE_START, WHEN_WRITING = r"^writing: 0 of", r"^writing: [1-9].* written"
PNG = b"\x89PNG\r\n\x1a\n"
#: Stands where matplotlib would be.
NO_MATPLOTLIB = 'raise ModuleNotFoundError("not installed")'

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_recording_picture_and_summary(tmp_path: Path) -> None:
    settings = SimulationSettings(frames=300, seed=7)
    result = dcwrite("demo", "--frames", 300, "--seed", 7, "--workers", 3, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert names(tmp_path) == ["demo.png", "demo.rtdc"]
    assert (tmp_path / "demo.png").read_bytes().startswith(PNG)
    assert verify(tmp_path / "demo.rtdc").exit_code == 0

    simulated = SimulatedRecording(settings)
    frames = [events for frame in range(300) if (events := simulated.frame_events(frame))]
    with Recording(tmp_path / "demo.rtdc") as recording:
        for feat in frames[0]:
            expected = np.concatenate([events[feat] for events in frames])
            assert np.array_equal(recording[feat][:], expected), feat
        n_events = len(recording)
        assert recording.metadata == {
            **simulated.metadata(),
            "experiment:event count": n_events,
        }
        assert recording.logs.items() >= simulated.logs().items()
        assert {"min", "max", "mean"} <= set(recording["deform"].attributes)

    out = result.stdout
    assert out.startswith("demo.rtdc is written and verified (")
    for row in (
        rf"events +{n_events} in 300 frames",
        r"worker processes +3",
        r"raw +[\d,]+ bytes",
    ):
        assert re.search(rf"^  {row}", out, re.MULTILINE), row
    for stage in ("writing", "verifying", "everything"):
        assert re.search(rf"^  {stage} +[\d.]+ s +[\d,]+ +[\d.]+$", out, re.MULTILINE), stage
    lines = result.stderr.splitlines()
    assert lines[0] == f"writing: 0 of {n_events} events"
    assert any(line.startswith(f"writing: {n_events} of {n_events} events") for line in lines)


def test_without_matplotlib(tmp_path: Path) -> None:
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "matplotlib.py").write_text(NO_MATPLOTLIB)
    args = ("demo", "--frames", 20, "--quiet", "--out", "a.rtdc")
    result = dcwrite(*args, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "stub")})
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == (
        'Hint: no picture without matplotlib; install it with: pip install "dcwrite[plot]"\n'
    )
    assert names(tmp_path) == ["a.rtdc", "stub"]


@pytest.mark.parametrize(
    ("args", "remedy"),
    [
        (["--out", "old.rtdc"], "'old.rtdc': .*; pass .*--overwrite"),
        (["--picture", "old.png"], "'old.png': .*; pass .*--overwrite"),
        (["--out", "none/a.rtdc"], "'none/a.rtdc': .* folder does not exist; create it"),
        (["--picture", "none/a.png"], "'none/a.png': .* folder does not exist; create it"),
        (["--out", "a", "--picture", "a"], "one name for both; change one"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_outputs_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], remedy: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("old.rtdc", "old.png"):
        (tmp_path / name).write_text("mine")
    result = CliRunner().invoke(main, ["demo", "--frames", "5", *args])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert re.search(remedy, line)
    assert names(tmp_path) == ["old.png", "old.rtdc"]
    assert (tmp_path / "old.png").read_text() == (tmp_path / "old.rtdc").read_text() == "mine"


def test_overwrite(tmp_path: Path) -> None:
    (tmp_path / "demo.rtdc").write_text("old")
    result = dcwrite("demo", "--frames", 5, "--no-picture", "--overwrite", "-q", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert names(tmp_path) == ["demo.rtdc"]
    assert verify(tmp_path / "demo.rtdc").exit_code == 0


@pytest.mark.parametrize(
    ("when", "number", "code"),
    [
        (AT_THE_START, signal.SIGINT, 130),
        (WHEN_WRITING, signal.SIGINT, 130),
        (WHEN_WRITING, signal.SIGTERM, 143),
    ],
    ids=["SIGINT at the start", "SIGINT when writing", "SIGTERM when writing"],
)
def test_ended_from_outside(tmp_path: Path, when: str, number: signal.Signals, code: int) -> None:
    running = Running("demo", "--frames", MANY_FRAMES, cwd=tmp_path)
    running.wait_for(when)
    if number is signal.SIGINT:
        running.interrupt(number)
    else:
        running.process.send_signal(number)
    exit_code, err = running.finish()
    assert exit_code == code, err
    assert "Traceback" not in err
    assert names(tmp_path) == []


@needs_proc
@pytest.mark.parametrize(
    ("victim", "message"),
    [(0, "the writer process .*died"), (2, "worker 1 .*died")],
    ids=["writer", "worker 1"],
)
def test_a_process_that_dies_ends_the_run(tmp_path: Path, victim: int, message: str) -> None:
    running = Running("demo", "--frames", MANY_FRAMES, "--workers", 2, cwd=tmp_path)
    running.wait_for(WHEN_WRITING)
    processes = running.spawned()
    assert len(processes) == 3
    os.kill(processes[victim], signal.SIGKILL)
    exit_code, err = running.finish()
    assert exit_code == 2, err
    last = err.splitlines()[-1]
    assert re.search(rf"^Error: .*{message} with exit code -9", last), err
    assert "Traceback" not in err
    assert names(tmp_path) == []


@needs_proc
def test_nothing_outlives_a_killed_command(tmp_path: Path) -> None:
    running = Running("demo", "--frames", MANY_FRAMES, cwd=tmp_path)
    running.wait_for(WHEN_WRITING)
    running.process.kill()
    # returns when the last process has closed its end of the pipe
    assert running.finish()[0] == -signal.SIGKILL


@pytest.mark.parametrize("n_events", [0, 1, 4, 200])
def test_picked_cells_are_distinct_and_sorted(n_events: int) -> None:
    rng = np.random.default_rng(1)
    area, deform = rng.uniform(20, 150, n_events), rng.uniform(0, 0.2, n_events)
    if n_events > 4:
        area[3] = np.nan
    picked = pick_cells(area, deform)
    shown = picked[picked >= 0]
    assert len(set(shown.tolist())) == len(shown) == min(picked.size, n_events)
    for before, after in zip(picked.T, picked.T[1:], strict=False):
        if (after >= 0).any():
            assert area[before[before >= 0]].max() <= area[after[after >= 0]].min()
    for column in picked.T:
        assert np.all(np.diff(deform[column[column >= 0]]) >= 0)


def test_density_is_highest_where_most_points_are() -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(0, 1, 900), rng.normal(20, 1, 100)])
    density = density_at(x, rng.normal(0, 1, 1000))
    assert density.min() > 0
    assert density.max() == 1
    assert density[:900].mean() > 3 * density[900:].mean()
