"""run_batch: one outcome for each input, whatever becomes of the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dcwrite import UsageError
from dcwrite.tools.batch import Executor, Finished, outputs_in, run_batch
from dcwrite.tools.progress import Clock, Progress, Report

PATHS = [Path(name) for name in "abcdefg"]


def name_of(path: Path, *, threads: int | None, progress: Report | None) -> Any:
    """Fail for b, skip c, give up quietly with d."""
    del threads
    if progress is not None:
        Clock("inside", 10, "events", progress).show(5)
    if path.name == "b":
        raise ValueError("b is bad")
    if path.name == "c":
        return Finished(None, (Path("c.out"),), "nothing to do")
    return Finished(path.name.upper())


class Elsewhere:
    """An executor as a cluster would bring it."""

    n_workers = 2
    threads_per_task = 3

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(2)
        self.submitted = 0

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        self.submitted += 1
        return self.pool.submit(function, *args)


@pytest.mark.parametrize("jobs", [1, 2, 20, "elsewhere"])
def test_outcomes_in_the_order_of_the_inputs(jobs: Any) -> None:
    executor = Elsewhere() if jobs == "elsewhere" else None
    batch = run_batch(name_of, PATHS, jobs=1 if executor else jobs, executor=executor)
    if executor:
        executor.pool.shutdown()
        assert executor.submitted == len(PATHS)
    assert [outcome.path for outcome in batch.outcomes] == PATHS
    states = [outcome.state for outcome in batch.outcomes]
    assert states == ["done", "failed", "skipped", "done", "done", "done", "done"]
    assert [outcome.result for outcome in batch.outcomes[3:]] == list("DEFG")
    assert batch.outcomes[2].reason == "nothing to do"
    assert batch.outcomes[2].output == Path("c.out")
    assert (batch.count("done"), batch.count("failed"), batch.exit_code) == (5, 1, 2)
    with pytest.raises(ValueError, match="b is bad"):
        batch.raise_first()


def test_a_batch_without_errors() -> None:
    batch = run_batch(name_of, [Path("a"), Path("c")])
    assert batch.exit_code == 0
    batch.raise_first()
    assert not run_batch(name_of, []).outcomes


@pytest.mark.parametrize(
    ("jobs", "threads", "n_inputs", "share"),
    [(1, 4, 3, 4), (2, 4, 3, 2), (3, 4, 3, 1), (8, 4, 2, 2), (2, None, 1, None), (9, 9, 1, 9)],
)
def test_threads_are_shared(
    jobs: int, threads: int | None, n_inputs: int, share: int | None
) -> None:
    def tell(path: Path, *, threads: int | None, progress: Report | None) -> Any:
        del path, progress
        return threads

    batch = run_batch(tell, PATHS[:n_inputs], jobs=jobs, threads=threads)
    assert {outcome.result for outcome in batch.outcomes} == {share}


def test_jobs_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=30)

    def meet(path: Path, *, threads: int | None, progress: Report | None) -> Any:
        del path, threads, progress
        return both.wait()

    batch = run_batch(meet, PATHS[:4], jobs=2)
    assert batch.count("done") == 4


@pytest.mark.parametrize("jobs", [1, 2])
def test_progress_counts_bytes_of_inputs(jobs: int, tmp_path: Path) -> None:
    paths = [tmp_path / path for path in PATHS]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(100 * number))
    seen: list[Progress] = []
    run_batch(name_of, paths, jobs=jobs, stage="naming", progress=seen.append)
    assert {(item.stage, item.unit, item.total) for item in seen} == {("naming", "bytes", 2100)}
    counts = [item.current for item in seen]
    assert counts == sorted(counts)
    assert counts[-1] == 2100
    assert 50 in {after - before for before, after in pairwise(counts)}


def test_one_input_shows_its_own_progress() -> None:
    seen: list[Progress] = []
    run_batch(name_of, PATHS[:1], progress=seen.append)
    assert [item.stage for item in seen] == ["inside", "inside"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_ends_all_jobs(jobs: int, tmp_path: Path) -> None:
    """What `progress` raises where it is shown; running tasks end at their next step."""
    paths = [tmp_path / path for path in PATHS]
    for path in paths:
        path.write_bytes(bytes(100))
    running: set[str] = set()
    begun: list[str] = []

    def work(path: Path, *, threads: int | None, progress: Report | None) -> Any:
        del threads
        assert progress is not None
        begun.append(path.name)
        running.add(path.name)
        try:
            clock = Clock("inside", 10**9, "events", progress)
            for count in range(1, 10**9):
                clock.show(count)
        finally:
            running.discard(path.name)

    class Interrupt(BaseException):
        pass

    shown = 0

    def interrupt(_progress: Progress) -> None:
        nonlocal shown
        shown += 1
        if shown > 50:
            raise Interrupt

    with pytest.raises(Interrupt):
        run_batch(work, paths, jobs=jobs, progress=interrupt)
    assert not running
    assert len(begun) < len(paths)


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
@pytest.mark.parametrize("option", ["jobs", "threads"])
def test_jobs_that_make_no_sense(option: str, value: Any) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(UsageError, match=f"{option}: expected a whole number from 1, got"):
        run_batch(name_of, PATHS, **options)


def test_outputs_in_a_folder(tmp_path: Path) -> None:
    names = ["x/a.rtdc", "y/b.rtdc"]
    assert outputs_in(tmp_path / "o", names) == [tmp_path / "o" / f"{n}.rtdc" for n in "ab"]
    renamed = outputs_in(tmp_path, names, lambda path: f"{path.stem}.png")
    assert [path.name for path in renamed] == ["a.png", "b.png"]
    with pytest.raises(UsageError, match="both become"):
        outputs_in(tmp_path / "p", ["x/a.rtdc", "y/a.rtdc"])
    (tmp_path / "a.rtdc").touch()
    with pytest.raises(UsageError, match="another output folder"):
        outputs_in(tmp_path, [tmp_path / "a.rtdc"])
    assert not (tmp_path / "p").exists()


def test_executors_are_what_the_protocol_says() -> None:
    executor: Executor = Elsewhere()
    assert executor.n_workers == 2
