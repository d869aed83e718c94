"""Who is to blame for a worker that died: tasks that are tried once more, alone."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from dcwrite.cluster.suspects import Suspects


class KilledError(Exception):
    """A worker died."""


class Cluster:
    """Takes tasks; the test says how they end."""

    def __init__(self) -> None:
        self.running: dict[str, Future[Any]] = {}
        self.begun: list[str] = []
        self.is_lost = False

    def submit(self, name: str) -> Future[Any]:
        if self.is_lost:
            raise OSError(5, "the cluster is lost")
        self.begun.append(name)
        self.running[name] = Future()
        return self.running[name]

    def end(self, name: str, error: Exception | None = None) -> None:
        future = self.running.pop(name)
        if error is None:
            future.set_result(name)
        else:
            future.set_exception(error)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def tasks(cluster: Cluster) -> Suspects:
    return Suspects(cluster.submit, lambda error: isinstance(error, KilledError))


def test_suspects_are_tried_one_at_a_time(cluster: Cluster, tasks: Suspects) -> None:
    futures = {name: tasks.submit(name) for name in "abc"}
    cluster.end("a", KilledError())
    cluster.end("b", KilledError())
    assert not cluster.running.keys() - {"c"}  # not beside another one
    cluster.end("c", ValueError("its own"))
    assert list(cluster.running) == ["a"]
    futures["d"] = tasks.submit("d")
    assert list(cluster.running) == ["a"]  # nor is another one begun beside it
    cluster.end("a", KilledError("alone"))
    assert list(cluster.running) == ["d"]
    cluster.end("d")
    assert list(cluster.running) == ["b"]
    cluster.end("b")
    assert str(futures["a"].exception(0)) == "alone"
    assert isinstance(futures["c"].exception(0), ValueError)
    assert [futures[name].result(0) for name in "bd"] == ["b", "d"]
    assert cluster.begun == ["a", "b", "c", "a", "d", "b"]


def test_tasks_that_are_cancelled(cluster: Cluster, tasks: Suspects) -> None:
    futures = {name: tasks.submit(name) for name in "abc"}
    assert futures["c"].cancel()
    assert cluster.running.pop("c").cancelled()
    cluster.end("a", KilledError())
    cluster.end("b", KilledError())
    assert list(cluster.running) == ["a"]
    held = tasks.submit("d")
    assert held.cancel()
    assert futures["b"].cancel()
    cluster.end("a")
    assert futures["a"].result(0) == "a"
    assert cluster.running == {}
    last = tasks.submit("e")
    cluster.end("e")
    assert last.result(0) == "e"
    assert cluster.begun == ["a", "b", "c", "a", "e"]


def test_a_cluster_that_is_lost(cluster: Cluster, tasks: Suspects) -> None:
    first, second = tasks.submit("a"), tasks.submit("b")
    cluster.end("a", KilledError())
    cluster.is_lost = True
    with pytest.raises(OSError, match="lost"):
        tasks.submit("c")
    cluster.running.pop("b").cancel()
    assert second.cancelled()
    assert "lost" in str(first.exception(0))  # it could not be tried again
