"""dcnum's whole pipeline with dcwrite: the same recording, and the true cause when it fails."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dcwrite
from dcwrite.interop import dcnum as switch
from dcwrite.interop import pipeline
from tests.conftest import SHARED_DATA
from tests.peer.interop_programs import (
    TIMED_LOGS,
    assert_same_recording,
    raw_recording,
    run_pipeline,
)
from tests.peer.judge import PEER_REASON

pytest.importorskip("dcnum", reason=PEER_REASON)

pytestmark = [
    pytest.mark.peer,
    pytest.mark.leaks_allowed(
        reason="in debug mode dcnum leaves the feeder threads of its queues to the interpreter"
    ),
]

CYTOSHOT = "fmt-hdf5_cytoshot_full-features_2023"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def raw_path(folder: Path) -> Path:
    """Return what a camera saw; 150 frames."""
    return raw_recording(folder / "raw.rtdc")


@pytest.fixture(scope="module")
def cytoshot_path(folder: Path) -> Path:
    """Return a real recording with a background; 40 events."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real recordings: the folder {SHARED_DATA} is missing")
    with zipfile.ZipFile(SHARED_DATA / f"{CYTOSHOT}.zip") as archive:
        (member,) = (info for info in archive.infolist() if info.filename.endswith(".rtdc"))
        return Path(archive.extract(member, folder))


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Callable[..., Path]:
    """Return a function that gives what dcnum makes with its own writer."""
    made: dict[tuple[Path, str], Path] = {}

    def make(source: Path, strategy: str, **options: Any) -> Path:
        key = source, strategy
        if key not in made:
            path = folder / f"theirs_{len(made)}.rtdc"
            runner = run_pipeline(source, path, basin_strategy=strategy, **options)
            assert runner.state == "done", runner.error_tb
            made[key] = path
        return made[key]

    return make


@pytest.fixture
def switched() -> Iterator[None]:
    with switch.enabled():
        yield


@pytest.mark.parametrize(
    ("strategy", "debug"), [("drain", True), ("tap", True), ("drain", False), ("tap", False)]
)
def test_raw_recording(
    folder: Path, raw_path: Path, theirs: Callable[..., Path], strategy: str, debug: bool
) -> None:
    """Background, segmentation, features, basins; the writer is a thread or a process."""
    path = folder / f"raw_{strategy}_{debug}.rtdc"
    with switch.enabled():
        runner = run_pipeline(raw_path, path, basin_strategy=strategy, debug=debug)
    assert runner.state == "done", runner.error_tb
    assert runner.event_count > 50
    with dcwrite.Recording(path) as recording:
        assert len(recording) == runner.event_count == recording.metadata["pipeline:dcnum yield"]
        assert recording.metadata["pipeline:dcnum hash"] == runner.pphash
        assert "dcwrite-stream" not in recording.logs
        assert {status.reachable for status in recording.basins} == {True}
        recording.check_consistent()
    assert_same_recording(path, theirs(raw_path, strategy), folder)
    assert dcwrite.verify(path).exit_code == 0
    assert not list(folder.glob("*.part")) + list(folder.glob("*.journal"))
    assert not list(folder.glob("*~"))


@pytest.mark.shared_data
@pytest.mark.parametrize(("strategy", "debug"), [("drain", True), ("tap", False)])
def test_real_recording(
    folder: Path, cytoshot_path: Path, theirs: Callable[..., Path], strategy: str, debug: bool
) -> None:
    """With a background of its own, logs, and more than one event in a frame."""
    path = folder / f"cytoshot_{strategy}.rtdc"
    options: dict[str, Any] = {"background_code": "copy"}
    with switch.enabled():
        runner = run_pipeline(cytoshot_path, path, basin_strategy=strategy, debug=debug, **options)
    assert runner.state == "done", runner.error_tb
    assert_same_recording(path, theirs(cytoshot_path, strategy, **options), folder)


def test_the_same_pipeline_again(
    folder: Path, raw_path: Path, theirs: Callable[..., Path]
) -> None:
    """There is nothing to segment then, and the output is a copy that refers to the input."""
    first = Path(shutil.copyfile(theirs(raw_path, "drain"), folder / "first.rtdc"))
    with h5py.File(first, "a") as h5:
        for log in [log for log in h5["logs"] if log.startswith(TIMED_LOGS)]:
            # dcnum refuses to store another one of the same second
            h5["logs"].move(log, f"{log[:10]}1999-12-31-23.59.59")
    paths = [folder / "again_theirs.rtdc", folder / "again_ours.rtdc"]
    for path, way in zip(paths, [contextlib.nullcontext, switch.enabled], strict=True):
        with way():
            runner = run_pipeline(first, path, basin_strategy="drain")
        assert runner.state == "done", runner.error_tb
    with dcwrite.Recording(paths[0]) as expected, dcwrite.Recording(paths[1]) as got:
        assert got.own_features == expected.own_features
        for feat in got.own_features:
            assert np.array_equal(got[feat][:], expected[feat][:]), feat
        names = [[status.basin.features for status in rec.basins] for rec in (got, expected)]
        assert names[0] == names[1]
        assert [line for line in got.logs if not line.startswith(TIMED_LOGS)] == [
            line for line in expected.logs if not line.startswith(TIMED_LOGS)
        ]


#: In a process of its own: HDF5's own copy, which dcnum uses here, may crash.
IDENTITY = """
import sys
from pathlib import Path
import h5py, numpy as np
import dcwrite
from dcwrite.interop import dcnum
from tests.peer.interop_programs import run_pipeline

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with h5py.File(sys.argv[2]) as h5:
        images, meta = h5["events/image"][:], dict(h5.attrs)
    meta.pop("experiment:event count")
    background = np.median(images, axis=0).astype(np.uint8)[np.newaxis]
    dcnum.enable()
    for number in range(5):
        n_frames = len(images)
        path = folder / f"in{number}.rtdc"
        with dcwrite.HDF5Writer(path, "x", event_count=True) as writer:
            writer.store_feature_chunk("image", images)
            writer.store_basin(
                "bg", mapping=np.zeros(n_frames, int), internal_data={"image_bg": background}
            )
            writer.store_metadata(meta)
        out = folder / f"out{number}.rtdc"
        runner = run_pipeline(path, out, background_code="copy")
        assert runner.state == "done", runner.error_tb
        with h5py.File(out) as h5:
            frames = h5["events/basinmap0"][:]
        counts = np.bincount(frames, minlength=n_frames)
        if (counts == 1).all():
            break
        images = images[counts == 1]
    else:
        sys.exit("expected frames with one event each in the end")
    assert n_frames > 30
    with dcwrite.Recording(out) as recording:
        assert np.array_equal(recording["image"][:], images)
        assert (recording["image_bg"][:] == background).all()
    print("same")
"""


def test_one_event_in_each_frame(tmp_path: Path, raw_path: Path) -> None:
    """dcnum then stores a background mapping of two dimensions, and HDF5's copy may crash."""
    script = tmp_path / "program.py"
    script.write_text(IDENTITY)
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(raw_path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (result.returncode, result.stdout.strip()) == (0, "same"), result.stderr


@pytest.mark.usefixtures("switched")
def test_the_environment_stays_while_a_process_is_started(
    tmp_path: Path, raw_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dcnum changes it in another thread; then the writer's interpreter could not be executed."""
    original = multiprocessing.util.spawnv_passfds
    others_may_start: list[bool] = []

    def spawnv_passfds(*args: Any) -> int:
        with ThreadPoolExecutor(1) as other_thread:
            attempt = other_thread.submit(pipeline._environment_lock.acquire, blocking=False)
            others_may_start.append(attempt.result())
        return original(*args)

    multiprocessing.resource_tracker.ensure_running()
    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", spawnv_passfds)
    runner = run_pipeline(raw_path, tmp_path / "x.rtdc", debug=False, num_procs=3)
    assert runner.state == "done", runner.error_tb
    # of the background, two workers, the writer
    assert len(others_may_start) >= 4
    assert not any(others_may_start)
    assert pipeline._environment_lock.acquire(blocking=False)
    pipeline._environment_lock.release()


# -------------------------------------------------------------------------------------------------
# runs that fail


def cause(runner: Any) -> str:
    """The last line of the error with which a run has ended."""
    assert runner.state == "error"
    return str(runner.error_tb.strip().splitlines()[-1])


def assert_workers_are_gone() -> None:
    names = {"UniversalWorkerProcess", "QueueWriterProcess"}
    assert not [child for child in multiprocessing.active_children() if child.name in names]
    assert not [t for t in threading.enumerate() if t.name == "UniversalWorkerThread"]


def kill_when_it_runs(monkeypatch: pytest.MonkeyPatch, name: str, most: int | None = None) -> None:
    """Kill child processes right before the runner looks at the counters for the first time."""
    import dcnum.logic.ctrl

    original = dcnum.logic.ctrl.np.zeros

    def zeros(*args: Any, **kwargs: Any) -> Any:
        children = [c for c in multiprocessing.active_children() if c.name == name]
        for child in children[:most]:
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        return original(*args, **kwargs)

    class Numpy:
        """The runner makes one array, between the start of its workers and its loop."""

        def __getattr__(self, attribute: str) -> Any:
            return zeros if attribute == "zeros" else getattr(np, attribute)

    monkeypatch.setattr(dcnum.logic.ctrl, "np", Numpy())


@pytest.mark.usefixtures("switched")
@pytest.mark.parametrize(
    ("num_procs", "most"), [(2, None), (5, 1)], ids=["the only one", "one of several"]
)
def test_a_worker_process_is_killed(
    tmp_path: Path,
    raw_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_procs: int,
    most: int | None,
) -> None:
    """dcnum would wait for its writer for 100 minutes, or for ever."""
    kill_when_it_runs(monkeypatch, "UniversalWorkerProcess", most)
    runner = run_pipeline(raw_path, tmp_path / "x.rtdc", debug=False, num_procs=num_procs)
    assert_workers_are_gone()
    if most is not None and runner.state == "done":
        # it had taken no frames yet, and the others did all of them
        assert runner.event_count > 0
        assert not dcwrite.verify(tmp_path / "x.rtdc").unreadable
        return
    assert "StallError" in cause(runner)
    assert "expected 150 frames from dcnum's workers" in cause(runner)
    assert "exit code -9" in cause(runner)
    assert not (tmp_path / "x.rtdc").exists()


@pytest.mark.usefixtures("switched")
def test_the_writer_process_is_killed(
    tmp_path: Path, raw_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dcnum would wait for ever."""
    kill_when_it_runs(monkeypatch, "QueueWriterProcess")
    runner = run_pipeline(raw_path, tmp_path / "x.rtdc", debug=False)
    assert "WriterDiedError" in cause(runner)
    assert "died with exit code -9" in cause(runner)
    assert_workers_are_gone()
    assert not (tmp_path / "x.rtdc").exists()


@pytest.mark.usefixtures("switched")
def test_a_worker_raises(tmp_path: Path, raw_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It logs its error and ends as if all were well; dcnum would wait for ever."""
    from dcnum.logic import SlotRegister

    def fail(*_: Any, **__: Any) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(SlotRegister, "task_extract_features", fail)
    runner = run_pipeline(raw_path, tmp_path / "x.rtdc")
    assert "StallError" in cause(runner)
    assert "look for the cause in the job's log" in cause(runner)
    assert "ZeroDivisionError" in runner.path_log.read_text()
    assert_workers_are_gone()


@pytest.mark.usefixtures("switched")
def test_the_rest_of_an_earlier_run(tmp_path: Path, raw_path: Path) -> None:
    """Only with a suffix of the caller's; dcnum's own ones are random."""
    part = tmp_path / "x_output_mine.rtdc~.part"
    part.write_bytes(b"somebody's data")
    runner = run_pipeline(raw_path, tmp_path / "x.rtdc", tmp_suffix="mine")
    assert "StorageError: [Errno 17]" in cause(runner)
    assert f"dcwrite recover {part.name}" in cause(runner)
    assert part.read_bytes() == b"somebody's data"
    assert_workers_are_gone()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with room for the background, but not for the events."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or os.name != "posix":
        pytest.skip("no tmpfs on this system")
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.usefixtures("switched")
@pytest.mark.parametrize("debug", [True, False])
def test_a_full_disk(full_disk: Path, raw_path: Path, debug: bool) -> None:
    """The unfinished file stays, for `dcwrite recover`, until somebody deletes it."""
    runner = run_pipeline(raw_path, full_disk / "x.rtdc", debug=debug)
    assert f"StorageError: [Errno {errno.ENOSPC}]" in cause(runner)
    assert_workers_are_gone()
    assert not (full_disk / "x.rtdc").exists()
    (part,) = full_disk.glob("x_output_*.rtdc~.part")
    assert f"dcwrite recover {part.name}" in cause(runner)


def test_an_output_that_cannot_be_made(tmp_path: Path, raw_path: Path) -> None:
    """A folder of the temporary output's name is in the way."""
    in_the_way = tmp_path / "x_output_mine.rtdc~"
    in_the_way.mkdir()
    (in_the_way / "file").touch()
    with switch.enabled():
        runner = run_pipeline(raw_path, tmp_path / "x.rtdc", tmp_suffix="mine")
    assert "StorageError: [Errno" in cause(runner)
    assert "x_output_mine.rtdc~" in cause(runner)
    assert_workers_are_gone()
    shutil.rmtree(in_the_way)  # dcnum tries to remove a file of this name at exit
