"""`dcwrite copy`: the command; which events and features it copies is tested in tests/store."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dcwrite import HDF5Writer, Recording
from dcwrite.cli import main

from .command import Running, dcwrite


def invoke(*args: object) -> Any:
    return CliRunner().invoke(main, ["copy", *map(str, args)])


def refused(*args: object) -> tuple[int, str]:
    """Exit code and error, which is one line."""
    result = invoke("--quiet", *args)
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert result.stdout == ""
    return result.exit_code, line


def test_a_condition(recording: Path, tmp_path: Path) -> None:
    """Written as field users write it, without parentheses."""
    result = dcwrite(
        "copy", "--where", "deform < 0.06 & area_um > 20", recording, "out.rtdc", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    with Recording(recording) as before, Recording(tmp_path / "out.rtdc") as after:
        met = (before["deform"][:] < 0.06) & (before["area_um"][:] > 20)
        assert 0 < met.sum() < len(met)
        np.testing.assert_array_equal(after["image"][:], before["image"][met])
        np.testing.assert_array_equal(after["userdef1"][:], before["userdef1"][met])
        n_events, n_met = len(met), int(met.sum())
    assert result.stdout.startswith("out.rtdc is written.\n")
    assert re.search(rf"^  events +{n_met} of {n_events}$", result.stdout, re.MULTILINE)
    assert re.search(r"^  wall time +[\d.]+ s, [\d,]+ events/s$", result.stdout, re.MULTILINE)
    assert result.stderr.startswith(f"selecting: 0 of {n_events} events\n")
    assert "\ncopying: 0 B of " in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.rtdc"]


def test_all_options_at_once(recording: Path, tmp_path: Path) -> None:
    index = tmp_path / "rows.csv"
    index.write_text("event,why\n9,a\n3,b\n9,c\n4,d\n")
    result = invoke(
        "--index", index, "--events", "3:,0", "--where", "deform >= 0", "--features",
        "scalar,image", "--exclude", "pos_*", "--basins", "drop", "--threads", "1", "--json",
        "--quiet", recording, tmp_path / "out.rtdc",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    summary = json.loads(result.stdout)
    assert summary["n_events"] == 4
    assert summary["basins"] == []
    with Recording(recording) as before, Recording(tmp_path / "out.rtdc") as after:
        assert after.features == summary["features"]
        assert "image" in after.features
        assert "mask" not in after.features
        assert not any(name.startswith("pos_") for name in after.features)
        np.testing.assert_array_equal(after["image"][:], before["image"][[9, 3, 9, 4]])


def test_quiet_says_nothing(recording: Path, tmp_path: Path) -> None:
    result = dcwrite("copy", "-q", "--events", "::2", recording, "out.rtdc", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_something_to_look_at(recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.rtdc"
    path.write_bytes(recording.read_bytes())
    with HDF5Writer(path) as writer:
        writer.store_basin("\x1b[2Jweb", urls=["https://example.org/a"])
    result = invoke("--quiet", "--basins", "drain", path, tmp_path / "out.rtdc")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Note: basin '\\x1b[2Jweb' is kept, not copied: remote")
    assert (tmp_path / "out.rtdc").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "deform <"], r"condition, position 9: expected a feature"),
        (["--where", "deform < 0.1\n& foo > 1"], r"position 16: .*'foo'"),
        (["--where", "defrom < 0.1"], r"did you mean deform"),
        (["--where", "image < 0.1"], r"expected scalar features, got 'image'"),
        (["--where", "deform < -1"], r"at least one event"),
        (["--events", "0-10"], r"expected numbers and slices such as 0:1000"),
        (["--events", "100000"], r"expected events below"),
        (["--index", "nowhere.txt"], r"'nowhere\.txt': No such file or directory; check the name"),
        (["--features", "imag"], r"did you mean image"),
    ],
)
def test_errors_are_one_line(
    recording: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    code, line = refused(*options, recording, tmp_path / "out.rtdc")
    assert code == 2
    assert re.search(message, line), line
    assert list(tmp_path.iterdir()) == []


def test_wrong_calls(recording: Path, tmp_path: Path) -> None:
    assert "OUT.rtdc" in invoke(recording).stderr
    assert "'kept' is not one of 'keep', 'drain', 'drop'" in (
        invoke("--basins", "kept", recording, tmp_path / "out.rtdc").stderr
    )


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "cut", "unfinished"])
def test_inputs_that_are_no_recordings(recording: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "in.rtdc"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("no recording")
    elif kind == "cut":
        path.write_bytes(recording.read_bytes()[:5000])
    elif kind == "unfinished":
        (tmp_path / "in.rtdc.part").write_bytes(recording.read_bytes())
        (tmp_path / "in.rtdc.journal").write_bytes(b"")
    code, line = refused(path, tmp_path / "out.rtdc")
    assert code == 2
    assert "in.rtdc" in line
    assert ("dcwrite recover" in line) == (kind in {"cut", "unfinished"})
    assert not (tmp_path / "out.rtdc").exists()


def test_existing_outputs(recording: Path, tmp_path: Path) -> None:
    (tmp_path / "out.rtdc").write_text("mine")
    code, line = refused(recording, tmp_path / "out.rtdc")
    assert code == 2
    assert "--overwrite" in line
    assert (tmp_path / "out.rtdc").read_text() == "mine"
    assert invoke("--overwrite", recording, tmp_path / "out.rtdc").exit_code == 0
    code, line = refused("--overwrite", tmp_path / "out.rtdc", tmp_path / "." / "out.rtdc")
    assert "none of the inputs" in line
    code, line = refused(recording, tmp_path / "nowhere" / "out.rtdc")
    assert "folder does not exist" in line


# -- ended from outside ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording that takes a second or two to compress."""
    path = tmp_path_factory.mktemp("large") / "large.rtdc"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 16, (2000, 80, 320), dtype=np.uint8)
    with HDF5Writer(path, mode="x", event_count=True, compression="none") as writer:
        for _ in range(3):
            writer.store_feature_chunk("deform", rng.random(2000))
            writer.store_feature_chunk("image", images)
    return path


#: Sends a signal to the command when some events are copied: waiting for it would be a race.
SIGNAL = """
import os
import dcwrite.tools.progress as progress
show = progress.Clock.show
def show_and_signal(self, current, queued=None):
    show(self, current, queued)
    if self.stage == "copying" and 0 < current < self.total:
        os.kill(os.getpid(), {number})
progress.Clock.show = show_and_signal
"""


@pytest.fixture
def sends(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[signal.Signals], None]:
    """Return a function that lets commands get a signal in the middle of their work."""

    def prepare(number: signal.Signals) -> None:
        site = tmp_path_factory.mktemp("site")
        (site / "sitecustomize.py").write_text(SIGNAL.format(number=int(number)))
        monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)

    return prepare


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
@pytest.mark.parametrize("selection", [(), ("--where", "deform < 0.9")], ids=["all", "some"])
def test_ended_from_outside(
    large: Path,
    tmp_path: Path,
    sends: Callable[[signal.Signals], None],
    selection: tuple[str, ...],
    number: signal.Signals,
    code: int,
) -> None:
    before = large.stat()
    (tmp_path / "out.rtdc").write_text("mine")
    options = ("--overwrite", *selection)
    sends(number)
    running = Running("copy", *options, large, "out.rtdc", cwd=tmp_path)
    exit_code, err = running.finish()
    assert exit_code == code, err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["out.rtdc"]
    assert (tmp_path / "out.rtdc").read_text() == "mine"
    after = large.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_killed(
    large: Path,
    tmp_path: Path,
    sends: Callable[[signal.Signals], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is left has a hidden name, and is in nobody's way."""
    before = large.read_bytes()
    sends(signal.SIGKILL)
    running = Running("copy", large, "out.rtdc", cwd=tmp_path)
    assert running.finish()[0] == -signal.SIGKILL
    monkeypatch.undo()  # the next command is left alone
    assert all(re.fullmatch(r"\.out\.rtdc\.\w+\.tmp", path.name) for path in tmp_path.iterdir()), (
        list(tmp_path.iterdir())
    )
    assert large.read_bytes() == before
    assert (
        dcwrite("copy", "-q", "--events", "0:9", large, "out.rtdc", cwd=tmp_path).returncode == 0
    )


def test_many_recordings(recording: Path, tmp_path: Path) -> None:
    for name in ("a.rtdc", "b.rtdc"):
        shutil.copyfile(recording, tmp_path / name)
    (tmp_path / "bad.rtdc").write_bytes(b"no recording")
    out = tmp_path / "out"
    result = invoke("--events", "0:3", "--jobs", 2, "--out-dir", out, *tmp_path.glob("*.rtdc"))
    assert result.exit_code == 2
    assert "2 copied, 1 failed" in result.stdout
    assert "bad.rtdc': expected an HDF5 file" in result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["a.rtdc", "b.rtdc"]
    with Recording(out / "a.rtdc") as copied:
        assert len(copied) == 3


@pytest.mark.parametrize("names", [["a.rtdc"], ["a.rtdc", "b.rtdc", "c.rtdc"]])
def test_names_without_a_folder(names: list[str]) -> None:
    result = invoke(*names)
    assert result.exit_code == 2
    assert f"pass IN.rtdc OUT.rtdc, or --out-dir DIR for several inputs, got {len(names)}" in (
        result.stderr
    )
