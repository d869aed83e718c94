"""One recording from many workers: the same events as from one machine, and resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcwrite import Compression, DCWriteError, HDF5Writer, Recording
from dcwrite.cluster import write_recording
from dcwrite.cluster.run import Run, Settings
from dcwrite.errors import (
    ClusterError,
    EventError,
    MetadataError,
    StallError,
    StorageError,
    UsageError,
)

from .conftest import ROOT
from .executors import Shuffled
from .made_up import MadeUp, same_events, write_on_one_machine

N_FRAMES = 120


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames with all kinds of features."""
    folder = tmp_path_factory.mktemp("one")
    return write_on_one_machine(folder / "one.rtdc", MadeUp(most=3, kinds=True), N_FRAMES)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- the same events --------------------------------------------------------------------------


@settings(max_examples=5)
@given(
    size=st.integers(10, 130),
    seed=st.integers(0, 99),
    n_workers=st.integers(1, 3),
    backwards=st.booleans(),
)
def test_events_do_not_depend_on_ranges_and_order(
    tmp_path_factory: pytest.TempPathFactory,
    one_machine: Path,
    size: int,
    seed: int,
    n_workers: int,
    backwards: bool,
) -> None:
    folder = tmp_path_factory.mktemp("many")
    made_up = MadeUp(most=3, kinds=True, backwards=backwards)
    with Shuffled(seed, n_workers) as executor:
        summary = write_recording(
            folder / "out.rtdc", N_FRAMES, made_up, executor, frames_per_range=size
        )
    same_events(folder / "out.rtdc", one_machine)
    assert summary.n_ranges == -(-N_FRAMES // size)
    assert summary.n_resumed == 0
    assert names(folder) == ["out.rtdc"]


def test_a_virtual_one_refers_to_its_shards(tmp_path: Path, one_machine: Path) -> None:
    with Shuffled() as executor:
        summary = write_recording(
            tmp_path / "out.rtdc", N_FRAMES, MadeUp(most=3, kinds=True), executor,
            frames_per_range=30, virtual=True,
        )  # fmt: skip
    same_events(tmp_path / "out.rtdc", one_machine)
    assert summary.n_pieces == 0
    assert summary.shards_dir == tmp_path / "out.shards"
    assert len(list(summary.shards_dir.glob("*.rtdc"))) == 4


def test_shards_that_fit_are_joined_without_another_copy(tmp_path: Path) -> None:
    made_up = MadeUp()
    with Shuffled() as executor:
        summary = write_recording(
            tmp_path / "out.rtdc", 50, made_up, executor,
            frames_per_range=50, compression="fast",
        )  # fmt: skip
    assert (summary.n_ranges, summary.n_pieces) == (1, 1)
    assert not any(hasattr(task, "sources") for task in executor.tasks)
    same_events(tmp_path / "out.rtdc", write_on_one_machine(tmp_path / "one.rtdc", made_up, 50))


def test_what_is_beside_the_events(tmp_path: Path) -> None:
    seen = []

    def finish(writer: HDF5Writer) -> None:
        writer.store_table("counts", {"n": np.arange(3)})

    with Shuffled() as executor:
        summary = write_recording(
            tmp_path / "out.rtdc", 60, MadeUp(), executor, frames_per_range=20,
            metadata={"setup:channel width": 20.0}, logs={"notes": ["one", "two"]},
            finish=finish, scalar_attributes=True, keep_shards=True, progress=seen.append,
            compression=Compression(level=3),
        )  # fmt: skip
    with Recording(tmp_path / "out.rtdc") as recording:
        assert recording.metadata["setup:channel width"] == 20.0
        assert recording.metadata["experiment:event count"] == summary.n_events
        assert recording.logs["notes"] == ["one", "two"]
        assert len(recording.tables["counts"]) == 3
        assert "min" in recording["deform"].source[0].attrs
        log = json.loads("\n".join(recording.logs["dcwrite-cluster"]))
    assert log["run"] == summary.run
    assert log["settings"]["level"] == 3
    stages = {record.stage: record for record in seen}
    assert list(stages) == ["computing", "aligning", "joining"]
    assert all(record.is_done for record in stages.values())
    assert len(list((tmp_path / "out.shards").glob("frames-*.rtdc"))) == 3
    assert json.loads(json.dumps(summary.to_dict()))["n_ranges"] == 3


@pytest.mark.parametrize("n_frames", [0, 5])
@pytest.mark.parametrize("virtual", [False, True])
def test_no_events(tmp_path: Path, n_frames: int, virtual: bool) -> None:
    with Shuffled() as executor:
        summary = write_recording(
            tmp_path / "out.rtdc", n_frames, MadeUp(most=0), executor,
            frames_per_range=2, virtual=virtual,
        )  # fmt: skip
    assert summary.n_events == 0
    with Recording(tmp_path / "out.rtdc") as recording:
        assert len(recording) == 0
        assert recording.metadata["experiment:event count"] == 0


def test_ranges_without_events_are_between_others(tmp_path: Path) -> None:
    made_up = Gaps()
    with Shuffled() as executor:
        write_recording(tmp_path / "out.rtdc", 90, made_up, executor, frames_per_range=10)
        write_recording(
            tmp_path / "refers.rtdc", 90, made_up, executor, frames_per_range=10, virtual=True
        )
    expected = write_on_one_machine(tmp_path / "one.rtdc", made_up, 90)
    same_events(tmp_path / "out.rtdc", expected)
    same_events(tmp_path / "refers.rtdc", expected)


class Gaps(MadeUp):
    """Events in the second third only."""

    def n_events(self, frame: int) -> int:
        return super().n_events(frame) if 30 <= frame < 60 else 0


def test_without_frame_info(tmp_path: Path) -> None:
    with Shuffled() as executor:
        write_recording(
            tmp_path / "out.rtdc", 30, MadeUp(), executor, frames_per_range=10, frame_info=False
        )
    with Recording(tmp_path / "out.rtdc") as recording:
        assert recording.features == ["area_um", "deform", "frame", "image", "mask"]


def test_dtypes_are_those_of_the_first_events(tmp_path: Path) -> None:
    with Shuffled() as executor:
        write_recording(
            tmp_path / "out.rtdc", 40, partial(changing_dtypes, 0.0), executor, frames_per_range=10
        )
        with Recording(tmp_path / "out.rtdc") as recording:
            assert recording["area_um"].dtype == np.float32
            assert recording["area_um"][:].tolist() == list(map(float, range(40)))
        with pytest.raises(ClusterError, match="frames 20 to 29"):
            write_recording(
                tmp_path / "no.rtdc", 40, partial(changing_dtypes, 1e-9), executor,
                frames_per_range=10,
            )  # fmt: skip
        with pytest.raises(
            EventError, match=r"frames 20 to 29: .* frames 0 to 9, got 'area_um' float64 and not"
        ):
            write_recording(
                tmp_path / "refers.rtdc", 40, partial(changing_dtypes, 0.0), executor,
                frames_per_range=10, virtual=True,
            )  # fmt: skip


def changing_dtypes(added: float, frames: range) -> Iterator[tuple[int, dict[str, Any]]]:
    """float32 in the first half, float64 in the second."""
    for frame in frames:
        dtype = np.float32 if frame < 20 else np.float64
        yield frame, {"area_um": np.array([frame + (added if frame >= 20 else 0)], dtype)}


# -- what a range has to bring ----------------------------------------------------------------


def bad(kind: str, frames: range) -> Any:
    """Functions that do not do what they should."""
    made_up = MadeUp(most=1)
    items = list(made_up(frames))
    last = frames[-1]
    if kind == "missing":
        return [item for item in items if item[0] not in {frames[3], frames[5]}]
    if kind == "again":
        return [*items[:4], items[2], *items[4:]]
    if kind == "too many":
        return [*items, items[0]]
    if kind == "outside":
        return [*items[:-1], (last + 1, None)]
    if kind == "outside at the end":
        return [*items, (last + 1, None)]
    if kind == "no pair":
        return [frame for frame, _ in items]
    if kind == "no dict":
        return [(frame, 3) for frame in frames]
    if kind == "reserved":
        return [(frame, {"deform": np.ones(1), "nevents": np.ones(1)}) for frame in frames]
    if kind == "lengths":
        return [(frame, {"deform": np.ones(2), "area_um": np.ones(3)}) for frame in frames]
    if kind == "raises at the end":
        return raising(items)
    if kind == "ends the program":
        sys.exit(3)
    return 7


def raising(items: list[Any]) -> Iterator[Any]:
    yield from items
    raise KeyError("the very last moment")


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("missing", StallError, r"frames 20 to 29: expected each frame .* without frames 23, 25;"),
        ("again", EventError, r"frame 22: expected each frame once"),
        ("too many", EventError, r"frame 20: expected each frame once"),
        ("outside", EventError, r"frame 30: expected a frame from 20 to 29"),
        ("outside at the end", EventError, r"frame 30: expected a frame from 20 to 29"),
        ("no pair", EventError, r"frames 20 to 29: expected \(frame_index, events\), got '20'"),
        ("no dict", EventError, r"frame 20: expected a dict of arrays .*, got int"),
        ("reserved", EventError, r"frame 20: expected features without \['nevents'\]"),
        ("lengths", EventError, r"frame 20, feature 'area_um': expected 2 events"),
        ("raises at the end", KeyError, r"the very last moment"),
        ("ends the program", UsageError, r"to return or to raise an error, got SystemExit \(3\)"),
        ("no list", EventError, r"frames 20 to 29: expected process\(frames\) to give"),
    ],
)
def test_a_range_that_does_not_bring_its_frames(
    tmp_path: Path, kind: str, error: type[Exception], text: str
) -> None:
    def fine_or_bad(frames: range) -> Any:
        return bad(kind, frames) if frames.start == 20 else MadeUp(most=1)(frames)

    executor = Inline()
    with pytest.raises(ClusterError, match=text) as caught:
        write_recording(tmp_path / "out.rtdc", 40, fine_or_bad, executor, frames_per_range=10)
    assert caught.value.failed_ranges == [range(20, 30)]
    assert isinstance(caught.value.__cause__, error)
    assert "1 of 4 ranges" in str(caught.value)
    kept = [name for name in names(tmp_path / "out.shards") if name.endswith(".rtdc")]
    assert [int(name.split("-")[1]) for name in kept] == [0, 10, 30]
    assert not (tmp_path / "out.rtdc").exists()


class Inline(Shuffled):
    """Runs tasks at once, without pickle."""

    def __init__(self) -> None:
        super().__init__()
        self._pool.shutdown()

    def submit(self, function: Any, /, *args: Any) -> Any:
        from concurrent.futures import Future

        self.tasks.append(args[0])
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args))
        except Exception as exc:  # noqa: BLE001 - the future's
            future.set_exception(exc)
        return future


def other_features(kind: str, frames: range) -> Iterator[Any]:
    for frame in frames:
        events: dict[str, Any] = {"deform": np.ones(1), "image": np.ones((1, 8, 9), np.uint8)}
        if frame >= 20 and kind == "missing":
            del events["image"]
        if frame >= 20 and kind == "shape":
            events["image"] = np.ones((1, 9, 8), np.uint8)
        yield frame, events


@pytest.mark.parametrize(
    ("kind", "text"),
    [("missing", r"missing features \['image'\]"), ("shape", r"'image' \(9, 8\)")],
)
def test_ranges_with_other_features(tmp_path: Path, kind: str, text: str) -> None:
    with pytest.raises(EventError, match=rf"frames 20 to 29: .*frames 0 to 9.*{text}"):
        write_recording(
            tmp_path / "out.rtdc", 40, partial(other_features, kind), Inline(),
            frames_per_range=10,
        )  # fmt: skip


def test_all_failed_ranges_are_named(tmp_path: Path) -> None:
    made_up = MadeUp(fail_at=(5, 33, 38))
    with Shuffled() as executor, pytest.raises(ClusterError) as caught:
        write_recording(tmp_path / "out.rtdc", 40, made_up, executor, frames_per_range=10)
    assert caught.value.failed_ranges == [range(10), range(30, 40)]
    text = str(caught.value)
    assert "frames 0 to 9: RuntimeError: no luck with frame 5" in text
    assert "frames 30 to 39: RuntimeError: no luck with frame 33" in text
    assert "the other 2 stay" in text


def test_one_thread_works(tmp_path: Path) -> None:
    seen: set[int] = set()

    def watch(frames: range) -> Iterator[Any]:
        for item in MadeUp(most=9)(frames):
            seen.add(threading.active_count())
            yield item

    before = threading.active_count()
    write_recording(tmp_path / "out.rtdc", 60, watch, Inline(), frames_per_range=30, threads=1)
    assert seen == {before}


# -- resume -----------------------------------------------------------------------------------


def fail(tmp_path: Path, n_frames: int = 40, **changes: Any) -> None:
    """A run of which one range fails."""
    options = {"frames_per_range": 10, "identity": "made up", **changes}
    with Shuffled() as executor, pytest.raises(ClusterError):
        write_recording(
            tmp_path / "out.rtdc", n_frames, MadeUp(fail_at=(25,)), executor, **options
        )


def test_a_repeated_run_computes_what_is_missing(tmp_path: Path) -> None:
    fail(tmp_path)
    with Shuffled() as executor:
        # neither the number of workers nor the default of the ranges matters
        summary = write_recording(
            tmp_path / "out.rtdc", 40, MadeUp(), executor, identity="made up"
        )
    assert (summary.n_ranges, summary.n_resumed) == (4, 3)
    same_events(tmp_path / "out.rtdc", write_on_one_machine(tmp_path / "one.rtdc", MadeUp(), 40))
    assert names(tmp_path) == ["one.rtdc", "out.rtdc"]


def test_the_same_function_is_the_same_run(tmp_path: Path) -> None:
    made_up = MadeUp(kill_at=(), folder=str(tmp_path))
    flaky = partial(until_repaired, made_up, tmp_path / "repaired")
    for _ in range(2):
        with Shuffled() as executor, pytest.raises(ClusterError, match="frames 20 to 29"):
            write_recording(tmp_path / "out.rtdc", 40, flaky, executor, frames_per_range=10)
    (tmp_path / "repaired").touch()
    with Shuffled() as executor:
        summary = write_recording(tmp_path / "out.rtdc", 40, flaky, executor)
    assert summary.n_resumed == 3


def until_repaired(made_up: MadeUp, repaired: Path, frames: range) -> Iterator[Any]:
    for frame, events in made_up(frames):
        if frame == 25 and not repaired.exists():
            raise OSError(5, "the camera's file cannot be read")
        yield frame, events


def test_damaged_shards_are_computed_again(tmp_path: Path) -> None:
    fail(tmp_path)
    shards = sorted((tmp_path / "out.shards").glob("*.rtdc"))
    with shards[0].open("r+b") as file:
        file.truncate(shards[0].stat().st_size // 2)
    content = bytearray(shards[1].read_bytes())
    for place in range(len(content) // 4, len(content) // 2):
        content[place] ^= 255
    shards[1].write_bytes(content)
    with Shuffled() as executor:
        summary = write_recording(
            tmp_path / "out.rtdc", 40, MadeUp(), executor, identity="made up"
        )
    assert summary.n_resumed == 1
    same_events(tmp_path / "out.rtdc", write_on_one_machine(tmp_path / "one.rtdc", MadeUp(), 40))


def test_a_shard_of_another_range_or_run_does_not_count(tmp_path: Path) -> None:
    fail(tmp_path)
    first, second, _ = sorted((tmp_path / "out.shards").glob("*.rtdc"))
    first.write_bytes(second.read_bytes())
    run_file = tmp_path / "out.shards" / "run.json"
    run = json.loads(run_file.read_text())
    renamed = run["run"][:8] + "0" * 24  # the same digits in the name
    run_file.write_text(json.dumps({**run, "run": renamed}))
    with Shuffled() as executor:
        summary = write_recording(
            tmp_path / "out.rtdc", 40, MadeUp(), executor, identity="made up"
        )
    assert summary.n_resumed == 0
    same_events(tmp_path / "out.rtdc", write_on_one_machine(tmp_path / "one.rtdc", MadeUp(), 40))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"identity": "something else"}, "identity 'made up' there, 'something else' now"),
        ({"frames_per_range": 20}, "frames_per_range 10 there, 20 now"),
        ({"compression": "fast"}, "level 5 there, 1 now"),
        ({"frame_info": False}, "frame_info True there, False now"),
        ({"virtual": True}, "virtual False there, True now"),
    ],
)
def test_runs_are_never_mixed(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    fail(tmp_path)
    before = names(tmp_path / "out.shards")
    options = {"identity": "made up", **changes}
    with Shuffled() as executor:
        with pytest.raises(UsageError, match=text):
            write_recording(tmp_path / "out.rtdc", 40, MadeUp(), executor, **options)
        assert names(tmp_path / "out.shards") == before
        with pytest.raises(UsageError, match="n_frames 40 there, 30 now"):
            write_recording(tmp_path / "out.rtdc", 30, MadeUp(), executor, identity="made up")
        summary = write_recording(
            tmp_path / "out.rtdc", 40, MadeUp(), executor, resume=False, **options
        )
    assert summary.n_resumed == 0
    expected = write_on_one_machine(tmp_path / "one.rtdc", MadeUp(), 40)
    if "frame_info" not in changes:
        same_events(tmp_path / "out.rtdc", expected)


def test_the_folder_keeps_what_is_not_ours(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in ("notes.txt", "frames.rtdc", "frames-1-2-old.rtdc"):
        (folder / name).touch()
    left = (
        ".frames-0000000000-0000000009-12345678.rtdc.0badcafe.tmp"  # of a worker that was killed
    )
    (folder / left).touch()
    with Shuffled() as executor:
        write_recording(
            tmp_path / "out.rtdc", 20, MadeUp(), executor, frames_per_range=10, shards_dir=folder
        )
    assert names(folder) == ["frames-1-2-old.rtdc", "frames.rtdc", "notes.txt"]


def test_a_worker_that_was_thought_lost_is_faster(tmp_path: Path) -> None:
    """Two workers make the same shard: the second finds a whole one under the name."""
    other = Inline()

    def twice(frames: range) -> Iterator[Any]:
        yield from MadeUp()(frames)
        if frames.start == 10 and len(other.tasks) == 0:
            task = next(task for task in executor.tasks if task.start == 10)
            other.submit(write_shard, replace(task, process=MadeUp())).result()

    from dcwrite.cluster.shard import write_shard

    executor = Inline()
    summary = write_recording(tmp_path / "out.rtdc", 30, twice, executor, frames_per_range=10)
    assert len(other.tasks) == 1
    assert summary.n_events == sum(map(MadeUp().n_events, range(30)))
    assert names(tmp_path) == ["out.rtdc"]


def test_a_worker_that_goes_on_after_the_run_is_over(tmp_path: Path) -> None:
    """It was thought lost; it adds nothing to a folder that others use, too."""
    from dcwrite.cluster.shard import write_shard

    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "notes.txt").touch()
    late = Inline()

    def goes_on(frames: range) -> Iterator[Any]:
        yield from MadeUp()(frames)
        (folder / "run.json").unlink()  # as the program does first when it has the recording

    executor = Inline()
    with pytest.raises(ClusterError, match="expected the folder of the shards on every worker"):
        write_recording(
            tmp_path / "out.rtdc", 10, goes_on, executor, frames_per_range=10, shards_dir=folder
        )
    with pytest.raises(StorageError, match="expected the folder of the shards"):
        late.submit(write_shard, executor.tasks[0]).result()
    assert names(folder) == ["notes.txt"]


def test_a_file_that_comes_while_others_are_removed(tmp_path: Path) -> None:
    fail(tmp_path)
    folder = tmp_path / "out.shards"
    run = read_run(folder)
    first = next(folder.glob("frames-*.rtdc"))

    class Late(type(folder)):  # type: ignore[misc]
        """A folder into which a worker puts a file after it was listed."""

        def iterdir(self) -> Iterator[Path]:
            found = list(super().iterdir())
            if any(path.suffix == ".rtdc" for path in found):
                first.with_name(f".{first.name}.0badcafe.tmp").touch()
            return iter(found)

    replace(run, folder=Late(folder)).forget_files()
    assert names(tmp_path) == []


def read_run(folder: Path) -> Run:
    content = json.loads((folder / "run.json").read_text())
    return Run(folder, content["run"], Settings(**content["settings"]))


# -- refused before any work ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"n_frames": -1}, UsageError, "n_frames: expected an integer from 0, got -1"),
        ({"n_frames": 2.5}, UsageError, "n_frames: expected an integer from 0, got 2.5"),
        ({"frames_per_range": 0}, UsageError, "frames_per_range: expected an integer from 1"),
        ({"memory_budget": 0}, UsageError, "memory_budget: expected an integer from 1"),
        ({"virtual": True, "finish": print}, UsageError, "finish: expected None with virtual"),
        ({"metadata": {"no": 1}}, MetadataError, "no"),
        ({"path_out": "there.rtdc"}, StorageError, "exists already"),
        ({"path_out": "nowhere/out.rtdc"}, StorageError, "folder does not exist"),
        ({"shards_dir": "there.rtdc"}, StorageError, "File exists"),
        ({"shards_dir": "nowhere/shards"}, StorageError, "No such file"),
        ({"compression": "best"}, DCWriteError, "expected one of archive"),
    ],
)
def test_arguments(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    (tmp_path / "there.rtdc").touch()
    arguments = {"path_out": "out.rtdc", "n_frames": 5, "process": MadeUp(), **changes}
    for name in ("path_out", "shards_dir"):
        if name in arguments:
            arguments[name] = tmp_path / arguments[name]
    executor = Inline()
    with pytest.raises(error, match=text):
        write_recording(client=executor, **arguments)
    assert executor.tasks == []
    assert names(tmp_path) == ["there.rtdc"]


def test_a_folder_that_is_another_one_on_the_worker(tmp_path: Path) -> None:
    class Elsewhere(Inline):
        def submit(self, function: Any, /, task: Any) -> Any:
            run = replace(task.run, folder=tmp_path / "elsewhere")
            return super().submit(function, replace(task, run=run))

    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ClusterError, match="expected the folder of the shards on every worker"):
        write_recording(tmp_path / "out.rtdc", 5, MadeUp(), Elsewhere())


def test_workers_with_another_version(tmp_path: Path) -> None:
    class Old(Inline):
        def submit(self, function: Any, /, task: Any) -> Any:
            settings = replace(task.run.settings, software="dcwrite 0.0.1")
            run = replace(task.run, settings=settings)
            return super().submit(function, replace(task, run=run))

    with pytest.raises(ClusterError, match=r"expected dcwrite 0\.0\.1 as in the program"):
        write_recording(tmp_path / "out.rtdc", 5, MadeUp(), Old())


def test_a_full_disk_leaves_the_shards(tmp_path: Path) -> None:
    made_up = MadeUp()
    with Shuffled() as executor:
        with pytest.raises(StorageError, match="space"):
            write_recording(
                tmp_path / "out.rtdc", 30, made_up, executor, frames_per_range=10,
                finish=no_space, identity="made up",
            )  # fmt: skip
        assert names(tmp_path) == ["out.shards"]
        summary = write_recording(tmp_path / "out.rtdc", 30, made_up, executor, identity="made up")
    assert summary.n_resumed == 3


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """On a worker; by the limit of the size of a file, in a process of its own."""
    code = (
        "import resource, signal, sys\n"
        "from dcwrite.cluster import write_recording\n"
        "from dcwrite.errors import ClusterError\n"
        "from tests.cluster.made_up import MadeUp\n"
        "from tests.cluster.test_recording import Inline\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    write_recording(sys.argv[1], 400, MadeUp(), Inline())\n"
        "except ClusterError as exc:\n"
        "    print(exc)"
    )
    pytest.importorskip("resource", reason="limits of Unix")
    found = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "out.rtdc"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert "4 of 4 ranges" in found.stdout, found.stderr
    assert found.stdout.count("StorageError: [Errno 27]") == 4
    assert names(tmp_path / "out.shards") == ["run.json"]


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # not even by root, who may write everywhere
    monkeypatch.setattr("os.access", lambda path, _mode: Path(path) != tmp_path)
    with pytest.raises(StorageError, match="expected a folder that can be written"):
        write_recording(tmp_path / "out.rtdc", 9, MadeUp(), Inline())
    assert names(tmp_path) == []


def no_space(_writer: HDF5Writer) -> None:
    raise StorageError(28, "No space left on device", "out.rtdc")
