"""The real thing: worker processes of a Dask cluster on this machine, some of which are killed."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcwrite.cluster import ClusterExecutor, write_recording
from dcwrite.cluster.executor import run_tasks
from dcwrite.errors import ClusterError, StorageError, UsageError, WriterDiedError

from .made_up import MadeUp, same_events, write_on_one_machine

N_FRAMES = 150
pytestmark = [
    pytest.mark.leaks_allowed(reason="the cluster and its threads live as long as the module"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    return write_on_one_machine(folder / "one.rtdc", MadeUp(), N_FRAMES)


@pytest.fixture(scope="module")
def client(local_cluster: Any) -> Iterator[Any]:
    from distributed import Client

    with Client(local_cluster, set_as_default=False) as client:
        yield client


def scale(cluster: Any, client: Any, n_workers: int) -> None:
    # up only: to scale down while nannies restart workers may end all of them
    if len(cluster.workers) < n_workers:
        cluster.scale(n_workers)
    client.wait_for_workers(n_workers)


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_the_same_events_from_any_number_of_workers(
    tmp_path_factory: pytest.TempPathFactory,
    local_cluster: Any,
    client: Any,
    one_machine: Path,
    n_workers: int,
) -> None:
    scale(local_cluster, client, n_workers)

    @settings(max_examples=2)
    @given(size=st.integers(20, 80), backwards=st.booleans())
    def with_ranges_of(size: int, backwards: bool) -> None:
        folder = tmp_path_factory.mktemp("many")
        made_up = MadeUp(backwards=backwards)
        write_recording(folder / "out.rtdc", N_FRAMES, made_up, client, frames_per_range=size)
        same_events(folder / "out.rtdc", one_machine)

    with_ranges_of()


def test_workers_that_are_killed(
    tmp_path: Path, local_cluster: Any, client: Any, one_machine: Path
) -> None:
    scale(local_cluster, client, 2)
    made_up = MadeUp(kill_at=(10, 100), folder=str(tmp_path))
    summary = write_recording(
        tmp_path / "out.rtdc", N_FRAMES, made_up, client, frames_per_range=30
    )
    same_events(tmp_path / "out.rtdc", one_machine)
    assert (tmp_path / "killed-10").exists()
    assert (tmp_path / "killed-100").exists()
    assert summary.n_ranges == 5
    # what the dead left behind is gone, too
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "killed-10", "killed-100", "out.rtdc"
    ]  # fmt: skip


def always_kill(frames: range) -> Iterator[Any]:
    for frame, events in MadeUp()(frames):
        if frame == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        yield frame, events


def test_a_range_that_kills_every_worker(tmp_path: Path, local_cluster: Any, client: Any) -> None:
    scale(local_cluster, client, 2)
    client.run_on_scheduler(allow_failures, 1)
    try:
        with pytest.raises(ClusterError, match="frames 30 to 59: WriterDiedError") as caught:
            write_recording(tmp_path / "out.rtdc", 90, always_kill, client, frames_per_range=30)
    finally:
        client.run_on_scheduler(allow_failures, 3)
    assert caught.value.failed_ranges == [range(30, 60)]
    assert isinstance(caught.value.__cause__, WriterDiedError)
    assert "2 workers died while they worked on it alone" in str(caught.value)
    shards = sorted((tmp_path / "out.shards").glob("*.rtdc"))
    assert [path.name.split("-")[1] for path in shards] == ["0000000000", "0000000060"]


def kill_once(folder: Path, number: int) -> int:
    """Task number 4 kills its worker, once."""
    if number == 4:
        with suppress(FileExistsError):
            (folder / "killed").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_who_was_only_near_is_not_blamed(tmp_path: Path, local_cluster: Any, client: Any) -> None:
    """Tasks of a worker that died are tried again, alone; Dask blames all that it was given."""
    scale(local_cluster, client, 2)
    client.run_on_scheduler(allow_failures, 0)
    try:
        executor = ClusterExecutor(client)
        futures = [executor.submit(kill_once, tmp_path, number) for number in range(9)]
        assert [future.result(100) for future in futures] == list(range(9))
    finally:
        client.run_on_scheduler(allow_failures, 3)


def test_the_scheduler_keeps_nothing_that_has_ended(local_cluster: Any, client: Any) -> None:
    """A result that it keeps is computed again, in vain, if the worker that has it dies."""
    scale(local_cluster, client, 1)
    executor = ClusterExecutor(client)
    gc.collect()
    gc.disable()  # what is in a circle would stay
    try:
        found = list(run_tasks(executor, double, range(20)))
        assert sorted(found) == [(number, 2 * number) for number in range(20)]
        del found
        # what was let go of is on its way
        deadline = time.monotonic() + 60
        while (left := client.run_on_scheduler(doubles)) and time.monotonic() < deadline:
            time.sleep(0.1)  # the scheduler does not tell
    finally:
        gc.enable()
    assert left == []


def doubles(dask_scheduler: Any) -> list[str]:
    return [key for key in dask_scheduler.tasks if "double" in key]


def test_what_cannot_be_sent(tmp_path: Path, local_cluster: Any, client: Any) -> None:
    made_up = partial(with_lock, threading.Lock())
    with pytest.raises(UsageError, match="process: expected something that can be pickled"):
        write_recording(tmp_path / "out.rtdc", 9, made_up, client)
    assert list(tmp_path.iterdir()) == []


def with_lock(_lock: Any, frames: range) -> Iterator[Any]:
    yield from MadeUp()(frames)


def allow_failures(number: int, dask_scheduler: Any) -> None:
    dask_scheduler.allowed_failures = number


def double(number: int) -> int:
    return 2 * number


def refuse(path: Path) -> None:
    raise StorageError(28, "No space left on device", str(path))


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)  # in another process, that nothing else could wake


def test_an_executor(
    tmp_path: Path, local_cluster: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale(local_cluster, client, 2)
    monkeypatch.chdir(tmp_path)
    executor = ClusterExecutor(client)
    assert executor.n_workers >= 2
    assert executor.threads_per_task == 1
    assert executor.submit(double, 21).result(60) == 42
    with pytest.raises(StorageError) as caught:
        executor.submit(refuse, Path("full.rtdc")).result(60)
    assert (caught.value.errno, caught.value.filename) == (28, str(tmp_path / "full.rtdc"))
    waiting = [executor.submit(wait_for, Path("go")) for _ in range(9)]
    assert waiting[-1].cancel()
    Path("go").touch()
    for future in waiting[:-1]:
        future.result(60)
    assert waiting[-1].cancelled()


def open_folder(path: Path) -> Any:
    return os.scandir(path)


def test_a_result_that_cannot_be_sent(tmp_path: Path, local_cluster: Any, client: Any) -> None:
    scale(local_cluster, client, 1)
    future = ClusterExecutor(client).submit(partial(open_folder), tmp_path)
    with pytest.raises(UsageError, match="open_folder: expected a result that can be pickled"):
        future.result(60)


def test_a_client_that_does_not_wait(local_cluster: Any) -> None:
    class Asynchronous:
        asynchronous = True

    with pytest.raises(UsageError, match="asynchronous"):
        ClusterExecutor(Asynchronous())  # type: ignore[arg-type]


def test_everything_is_on_the_loopback_address(local_cluster: Any, client: Any) -> None:
    scale(local_cluster, client, 2)
    listening = [client.run_on_scheduler(addresses), *client.run(addresses).values()]
    assert {address for found in listening for address in found} <= {"127.0.0.1", "::1"}
    assert all(listening)


def addresses() -> list[str]:
    """Addresses on which this process listens."""
    import psutil

    return [
        found.laddr.ip
        for found in psutil.Process().net_connections("inet")
        if found.status == psutil.CONN_LISTEN
    ]


class NoValidWorkerError(Exception):
    """Dask's, with the text of one."""


def test_a_cluster_without_workers(local_cluster: Any, client: Any) -> None:
    scale(local_cluster, client, 1)
    executor = ClusterExecutor(client)
    with pytest.raises(ClusterError, match="no workers any more") as caught:
        executor.submit(no_worker).result(60)
    with pytest.raises(ClusterError) as again:  # nothing is waited for a second time
        executor.submit(double, 1)
    assert again.value is caught.value


def no_worker() -> None:
    raise NoValidWorkerError("timed out after 120.00 s waiting without any running workers")
