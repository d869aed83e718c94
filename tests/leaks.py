"""A pytest plugin that fails a test which leaves something behind.

Alone here: what counts as left behind (a thread, a child process, a shared memory segment, an open
HDF5 handle) and how it is found. Invariant: only what appeared during the test is held against it,
and only when the test itself passed: a failed test's traceback keeps its locals alive.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Iterable
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import pytest

from dcwrite.store import sentry

__all__ = ["no_leaks"]

#: Longest wait for something that is already on its way out, in seconds.
GRACE_S = 2.0
#: Names of shared memory segments: Python's own and ours.
SEGMENT_PREFIXES = ("psm_", "dcwrite")
SHM = Path("/dev/shm")
PROC = Path("/proc")

_failed = pytest.StashKey[bool]()


class Held(NamedTuple):
    """What this process holds at one moment."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    segments: frozenset[str]
    handles: frozenset[int]

    def __sub__(self, other: Held) -> Held:
        """Return what is here and not in `other`."""
        return Held(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


def _processes() -> dict[int, int]:
    """Return the parent of every process that is alive or not yet waited for."""
    parents = {}
    for folder in PROC.glob("[0-9]*"):
        # A process may end while its folder is read.
        with contextlib.suppress(OSError):
            # The name in the second field may hold spaces and brackets: read behind its end.
            stat = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            parents[int(folder.name)] = int(stat[1])
    return parents


def _children() -> Iterable[int]:
    """Return the process ids of our children, without the helpers that Python keeps for itself."""
    started = {child.pid for child in multiprocessing.active_children()}  # also reaps the dead
    if PROC.is_dir():
        started = {pid for pid, parent in _processes().items() if parent == os.getpid()}
    helpers = {
        resource_tracker._resource_tracker._pid,
        forkserver._forkserver._forkserver_pid,
        sentry.sentry_pid(),
    }
    return started - helpers


def _segments() -> Iterable[str]:
    if not SHM.is_dir():
        return ()
    return (path.name for path in SHM.iterdir() if path.name.startswith(SEGMENT_PREFIXES))


def _handles() -> Iterable[int]:
    kinds = h5py.h5f.OBJ_FILE | h5py.h5f.OBJ_GROUP | h5py.h5f.OBJ_DATASET | h5py.h5f.OBJ_ATTR
    return (handle.id for handle in h5py.h5f.get_obj_ids(types=kinds))


def _held() -> Held:
    return Held(
        frozenset(threading.enumerate()),
        frozenset(_children()),
        frozenset(_segments()),
        frozenset(_handles()),
    )


def _foreign(segment: str) -> bool:
    """Tell whether a process outside our family has mapped this segment."""
    parents = _processes()
    family = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    for pid in parents.keys() - family:
        with contextlib.suppress(OSError):
            if f"{SHM / segment}\n" in (PROC / str(pid) / "maps").read_text(errors="replace"):
                return True
    return False


def _left_behind(before: Held) -> Held:
    """Return what appeared since `before` and does not go away."""
    left = _held() - before
    if not any(left):
        return left
    # What only a reference cycle keeps alive is no leak; what is ending gets the time to end.
    gc.collect()
    for thread in left.threads - {threading.current_thread()}:
        thread.join(GRACE_S)
    for child in multiprocessing.active_children():
        if child.pid in left.children:
            child.join(GRACE_S)
    left = _held() - before
    # Other programs on this machine use shared memory too. The existence is read after the maps,
    # so that a segment which its owner removed in between is not held against the test.
    ours = {name for name in left.segments if not _foreign(name)}
    return left._replace(segments=frozenset(name for name in ours if (SHM / name).exists()))


def _describe_child(pid: int) -> str:
    with contextlib.suppress(OSError):
        command = (PROC / str(pid) / "cmdline").read_text(errors="replace")
        return f"{pid} ({' '.join(command.split(chr(0)))[:120].strip() or 'not waited for'})"
    return str(pid)


def _describe_handle(handle: int) -> str:
    for found in h5py.h5f.get_obj_ids():
        if found.id == handle:
            name = (h5py.h5i.get_name(found) or b"").decode(errors="replace")
            file = h5py.h5f.get_name(found).decode(errors="replace")
            return f"{type(found).__name__} {name} of {file}"
    return str(handle)


def _describe(left: Held) -> str:
    tables: list[tuple[str, Iterable[Any], Callable[[Any], str]]] = [
        ("thread", left.threads, repr),
        ("child process", left.children, _describe_child),
        ("shared memory", left.segments, str),
        ("HDF5 handle", left.handles, _describe_handle),
    ]
    return "\n".join(
        f"  {kind}: {describe(item)}" for kind, items, describe in tables for item in items
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether the test failed."""
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Generator[None]:
    """Fail a test that leaves a thread, process, shared memory or HDF5 handle behind.

    An autouse fixture is set up before and torn down after the fixtures that the test asks for, so
    what those clean up is gone by then.
    """
    marker = request.node.get_closest_marker("leaks_allowed")
    if marker is not None:
        if marker.args or set(marker.kwargs) != {"reason"} or not marker.kwargs["reason"]:
            pytest.fail('write @pytest.mark.leaks_allowed(reason="..."), with the reason')
        yield
        return
    before = _held()
    yield
    if request.node.stash.get(_failed, False):
        return
    left = _left_behind(before)
    if any(left):
        pytest.fail(
            f"the test left this behind:\n{_describe(left)}\n"
            "Close, join or unlink it; if another program keeps it, mark the test with "
            '@pytest.mark.leaks_allowed(reason="...").',
            pytrace=False,
        )
