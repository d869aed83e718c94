"""Streams that come to a bad end, and what is found afterwards; shared by tests and torture.

Alone here: the runner, a process with one thread that forks a child per trial (milliseconds instead
of a second), ends it badly, and lets another child recover and compare. Invariant: a trial is
told by its numbers alone (seed, call, moment), and a child ends as every program does, through
the interpreter's end, where HDF5 may still crash.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import gc
import json
import logging
import mmap
import os
import queue
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - plain h5py needs the Zstandard filter
import numpy as np
import numpy.typing as npt

import dcwrite
from dcwrite.store import journal as journal_module
from dcwrite.store.describe import describe
from dcwrite.store.recover import recover
from dcwrite.stream.chunk_writer import BatchEnd, ChunkWriter, WriterQueue

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.crash.hostile import BUILDERS, mutate, small_recording  # noqa: E402
from tests.crash.replay import Disk, read_log  # noqa: E402 - the runner is started as a script

__all__ = ["MODES", "Spec", "Trial", "build_shim", "campaign", "compare", "problems"]

HERE = Path(__file__).parent
AnyArray = npt.NDArray[Any]

#: How the shim ends a call; the numbers are those of `enum mode` in shim.c.
MODES = {"once": 1, "from then on": 2, "short": 3, "kill": 4, "torn": 5, "kill after": 6}
KILLING = {"kill", "torn", "kill after"}
#: Longest wait for one child.
CHILD_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Spec:
    """A small stream, the same each time.

    Attributes
    ----------
    kind
        plain: scalars, image, mask; gzip: the same through HDF5's own filter; groups: with traces
        and contours; append: mode "a" behind 150 events that are there; writer: an HDF5Writer.
    n_frames
        Of 0 to 3 events each.
    threshold
        Frames per batch.
    durability, sync_interval_s
        As for the writer.
    replace_bytes
        The journal is replaced when it has grown by this much.
    side
        Pixels of an image in each direction.
    """

    kind: str = "plain"
    n_frames: int = 400
    threshold: int = 50
    durability: str = "process"
    sync_interval_s: float = 0.0
    replace_bytes: int = 64 * 1024**2
    side: int = 50


APPENDED_TO = 150


def frame(spec: Spec, index: int) -> dict[str, Any] | None:
    """Events of a frame; None: it has none. The last batch has none, either."""
    n_events = index % 4 if index < spec.n_frames - spec.threshold else 0
    if not n_events:
        return None
    rng = np.random.default_rng(index)
    image = np.repeat(rng.integers(90, 110, (1, spec.side, spec.side), dtype=np.uint8), n_events, 0)
    image[:, 0, 0] = np.arange(n_events)
    events: dict[str, Any] = {
        "deform": index + np.arange(n_events) / 8,
        "area_um": rng.random(n_events),
        "image": image,
        "mask": image > 100,
    }
    if spec.kind == "groups":
        events["trace"] = {
            name: rng.integers(0, 99, (n_events, 60), dtype=np.int16)
            for name in ("fl1_raw", "fl1_median")
        }
        events["contour"] = [
            rng.integers(0, 99, (3 + number % 3, 2), dtype=np.int32) for number in range(n_events)
        ]
    return events


@functools.lru_cache(maxsize=4)
def frames(spec: Spec) -> tuple[dict[str, Any] | None, ...]:
    """All frames."""
    return tuple(frame(spec, index) for index in range(spec.n_frames))


@functools.lru_cache(maxsize=4)
def expected(spec: Spec) -> dict[str, Any]:
    """What the recording holds in the end: feature to array, "contour" to a list."""
    found: dict[str, list[Any]] = {}
    for events in frames(spec):
        for feat, value in (events or {}).items():
            for name, data in value.items() if feat == "trace" else [(feat, value)]:
                full = f"trace/{name}" if feat == "trace" else name
                found.setdefault(full, []).append(data)
    result: dict[str, Any] = {}
    for feat, parts in found.items():
        if feat == "contour":
            result[feat] = [item for part in parts for item in part]
            continue
        result[feat] = np.concatenate(parts)
        if feat == "mask":
            result[feat] = result[feat] * np.uint8(255)
    if spec.kind not in {"append", "writer"}:
        counts = [len(events["deform"]) if events else 0 for events in frames(spec)]
        result["index_unmapped"] = np.repeat(np.arange(spec.n_frames, dtype=np.uint32), counts)
        result["nevents"] = np.repeat(np.asarray(counts), counts)
    if spec.kind == "append":
        result = {feat: np.concatenate([data[:APPENDED_TO], data]) for feat, data in result.items()}
    return result


def n_expected(spec: Spec) -> int:
    """Number of events in the end."""
    return len(expected(spec)["deform"])


def prepare(spec: Spec, folder: Path) -> None:
    """What has to be there before the stream begins."""
    if spec.kind == "append":
        with dcwrite.HDF5Writer(folder / "run.rtdc", mode="x", threads=1) as writer:
            for feat, data in expected(spec).items():
                writer.store_feature_chunk(feat, data[:APPENDED_TO])


def run_stream(spec: Spec, path: Path, told: Callable[[int], None]) -> None:
    """The stream; `told` hears `durable_events` as its user does."""
    journal_module.REPLACE_BYTES = spec.replace_bytes  # type: ignore[misc]
    if spec.kind == "writer":
        _run_writer(spec, path)
        return
    options: dict[str, Any] = {
        "durability": spec.durability,
        "sync_interval_s": spec.sync_interval_s,
        "threads": 1,
        "event_count": True,
    }
    kwds = {"compression": "gzip", "fletcher32": True} if spec.kind == "gzip" else None
    size = _Number()
    if spec.kind == "append":
        _run_append(spec, path, told, options)
        return
    items: queue.Queue[Any] = queue.Queue()
    for index, events in enumerate(frames(spec)):
        if events:
            items.put((index, events))

    class Told(dcwrite.QueueWriterThread):
        def _count_durable(self, n_events: int) -> None:
            super()._count_durable(n_events)
            told(n_events)

    counts = [len(events["deform"]) if events else 0 for events in frames(spec)]
    writer = Told(
        items, size, counts, path, kwds, write_threshold=spec.threshold, **options
    )
    writer.start()
    writer.join()


class _Number:
    value = 0


def _run_append(spec: Spec, path: Path, told: Callable[[int], None], options: Any) -> None:
    dq = WriterQueue()
    writer = ChunkWriter(
        path, dq, _Number(), mode="a", on_durable=told, daemon=True, **options
    )
    writer.start()
    for first in range(0, spec.n_frames, spec.threshold):
        batch = [events for events in frames(spec)[first : first + spec.threshold] if events]
        for feat in batch[0] if batch else ():
            dq.append((feat, np.concatenate([events[feat] for events in batch])))
        n_events = sum(len(events["deform"]) for events in batch)
        dq.append(BatchEnd(n_events, spec.threshold))
    writer.finished_when_queue_empty()
    writer.join()


def _run_writer(spec: Spec, path: Path) -> None:
    with dcwrite.HDF5Writer(path, mode="x", threads=1) as writer:
        for first in range(0, spec.n_frames, spec.threshold):
            batch = [events for events in frames(spec)[first : first + spec.threshold] if events]
            for feat in batch[0] if batch else ():
                writer.store_feature_chunk(feat, np.concatenate([e[feat] for e in batch]))
            writer.flush()


# -- afterwards -------------------------------------------------------------------------------


def compare(spec: Spec, path: Path) -> tuple[int, list[str]]:
    """Number of events in a recording, and what is wrong with them."""
    wanted = expected(spec)
    wrong = []
    lengths = {}
    with h5py.File(path, "r") as h5:
        events = h5["events"]
        found = {name for name in events if name not in {"trace", "contour"}}
        found |= {f"trace/{name}" for name in events.get("trace", ())}
        found |= {"contour"} & set(events)
        for feat in sorted(found):
            if feat == "contour":
                data = [events["contour"][str(ii)][:] for ii in range(len(events["contour"]))]
            else:
                data = events[feat][:]
            lengths[feat] = len(data)
            if feat not in wanted:
                wrong.append(f"{feat}: not expected")
            elif len(data) > len(wanted[feat]):
                wrong.append(f"{feat}: {len(data)} events, more than there are")
            elif feat == "contour":
                if any(not np.array_equal(a, b) for a, b in zip(data, wanted[feat], strict=False)):
                    wrong.append("contour: wrong values")
            elif not np.array_equal(data, wanted[feat][: len(data)]):
                first = int(np.flatnonzero((data != wanted[feat][: len(data)]).reshape(len(data), -1).any(1))[0])
                wrong.append(f"{feat}: wrong values from event {first} of {len(data)}")
    n_events = min(lengths.values(), default=0)
    if len(set(lengths.values())) > 1:
        wrong.append(f"lengths differ: {lengths}")
    if n_events and found != set(wanted):
        wrong.append(f"features missing: {sorted(set(wanted) - found)}")
    return n_events, wrong


@dataclass(slots=True)
class Trial:
    """One bad end, and what was found afterwards.

    Attributes
    ----------
    number
        Call or number of the trial.
    what
        The call that failed, or the moment of the kill.
    status
        Exit code of the child; negative: the signal.
    error
        Class of the error that the child got; None: none.
    errno_kept, path_named, durable_named
        What the error says.
    durable
        The largest `durable_events` that was seen.
    recovered
        Events in the recovered (or the finished) recording; -1: there is none.
    finished
        Whether the recording had its name.
    wrong
        Everything that is not as promised.
    leftovers
        Names in the folder.
    """

    number: int
    what: str = ""
    status: int = 0
    error: str | None = None
    message: str = ""
    errno_kept: bool = False
    path_named: bool = False
    durable_named: bool = False
    durable: int = 0
    recovered: int = -1
    finished: bool = False
    calls: int = 0
    wrong: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)


def inspect(
    spec: Spec,
    folder: Path,
    trial: Trial,
    *,
    original: bytes | None = None,
    target: Path | None = None,
) -> None:
    """Recover (or open) what a stream left, and compare it with what it had promised."""
    path = folder / "run.rtdc"
    trial.leftovers = sorted(item.name for item in folder.iterdir())
    part, journal = folder / "run.rtdc.part", folder / "run.rtdc.journal"
    allowed = {"run.rtdc", part.name, journal.name, journal.name + ".new"}
    if strangers := [name for name in trial.leftovers if name not in allowed]:
        trial.wrong.append(f"temporary files are left: {strangers}")
    if original is not None and path.exists() and path.read_bytes() == original:
        if not part.exists() and trial.durable:
            trial.wrong.append("there is no unfinished file beside the old recording")
    elif path.exists():
        trial.finished = True
        try:
            trial.recovered, wrong = compare(spec, path)
        except (OSError, RuntimeError, KeyError) as exc:
            trial.wrong.append(f"a name without .part, and it cannot be opened: {exc}")
            return
        trial.wrong += wrong
        if part.exists():
            trial.wrong.append("NAME.rtdc and NAME.rtdc.part are both there")
        _promise_kept(trial, spec)
        if not trial.error and trial.recovered != n_expected(spec):
            trial.wrong.append(f"finished with {trial.recovered} events")
        return
    if not part.exists():
        if trial.durable:
            trial.wrong.append(f"{trial.durable} durable events, and no file")
        return
    before = {item: item.read_bytes() for item in (part, journal) if item.exists()}
    target = target or folder / "recovered.rtdc"
    target.unlink(missing_ok=True)
    try:
        report = recover(part, target)
    except dcwrite.DCWriteError as exc:
        if trial.durable or not isinstance(exc, dcwrite.DamagedFileError):
            trial.wrong.append(f"{trial.durable} durable events, and recover fails: {exc!r}")
        if target.exists():
            trial.wrong.append("recover failed and left an output")
        return
    trial.recovered, wrong = compare(spec, target)
    trial.wrong += wrong
    if report.n_events != trial.recovered and (trial.recovered or not wrong):
        trial.wrong.append(f"the report says {report.n_events}, the file {trial.recovered}")
    if any(item.read_bytes() != data for item, data in before.items()):
        trial.wrong.append("recover changed its input")
    if trial.recovered and (findings := dcwrite.verify(target, threads=1).findings):
        trial.wrong.append(f"verify finds {findings[:2]}")
    _promise_kept(trial, spec)


def inspect_written(spec: Spec, folder: Path, trial: Trial) -> None:
    """What an HDF5Writer left: unreadable, or right as far as it goes; nothing reads as zeros."""
    trial.leftovers = sorted(item.name for item in folder.iterdir())
    path = folder / "run.rtdc"
    if not path.exists():
        return
    try:
        trial.recovered, wrong = compare(spec, path)
    except (OSError, RuntimeError, KeyError):
        if not trial.error:
            trial.wrong.append("no error, and the file cannot be opened")
        return
    trial.wrong += [text for text in wrong if "wrong values" in text or not trial.error]
    if not trial.error and trial.recovered != n_expected(spec):
        trial.wrong.append(f"no error, and {trial.recovered} events")


def _promise_kept(trial: Trial, spec: Spec) -> None:
    floor = APPENDED_TO if spec.kind == "append" and trial.durable else 0
    if trial.recovered < trial.durable + floor:
        trial.wrong.append(f"{trial.durable} events were durable, {trial.recovered} are there")


# -- the runner -------------------------------------------------------------------------------


class Shared:
    """Numbers that outlive a child: durable events, calls, and a line of JSON."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1 << 16)

    def clear(self) -> None:
        self._memory[:] = bytes(len(self._memory))

    @property
    def durable(self) -> int:
        return int.from_bytes(self._memory[:8], "little")

    @durable.setter
    def durable(self, value: int) -> None:
        self._memory[:8] = value.to_bytes(8, "little")

    @property
    def text(self) -> dict[str, Any]:
        size = int.from_bytes(self._memory[8:16], "little")
        return json.loads(self._memory[16 : 16 + size]) if size else {}

    @text.setter
    def text(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()[: len(self._memory) - 16]
        self._memory[16 : 16 + len(data)] = data
        self._memory[8:16] = len(data).to_bytes(8, "little")


def fork(work: Callable[[], None], *, at_once: bool = False) -> int:
    """Start a child that ends through the interpreter's end, or at once: those that only look."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            if at_once:
                sys.stderr.flush()
                os._exit(1)
            raise
        if at_once:
            os._exit(0)
        sys.exit(0)
    return pid


def reap(pid: int, timeout_s: float = CHILD_TIMEOUT_S) -> int:
    """Exit code of a child; negative: a signal. One that hangs is killed (and tells -9)."""
    killer = threading.Timer(timeout_s, os.kill, (pid, signal.SIGKILL))
    killer.daemon = True
    killer.start()
    _, status = os.waitpid(pid, 0)
    killer.cancel()
    killer.join()
    return os.waitstatus_to_exitcode(status)


def in_child(shared: Shared, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Result of some work in a child, or what became of it."""
    shared.clear()

    def do() -> None:
        shared.text = work()

    status = reap(fork(do, at_once=True))
    result = shared.text
    if status:
        result.setdefault("wrong", []).append(f"the checking child ended with {status}")
    return result


class Shim:
    """The functions of shim.c in a process that was started with it; without: nothing is armed."""

    def __init__(self) -> None:
        path = os.environ.get("LD_PRELOAD")
        self.library = ctypes.CDLL(path) if path and "shim" in path else None
        if self.library is not None:
            self.library.shim_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
            self.library.shim_failed.restype = ctypes.c_char_p
            self.library.shim_calls.restype = ctypes.c_long
            self.library.shim_mark.argtypes = [ctypes.c_uint64]
            self.library.shim_record.argtypes = [ctypes.c_char_p, ctypes.c_char_p]

    def arm(self, folder: Path, call: int, code: int, mode: int) -> None:
        if self.library is not None:
            self.library.shim_arm(os.fsencode(folder), call, code, mode)


def describe_error(exc: BaseException, code: int) -> dict[str, Any]:
    """What an error says to its user."""
    return {
        "error": type(exc).__name__,
        "message": str(exc)[:300],
        "errno_kept": getattr(exc, "errno", None) == code,
        "path_named": bool(getattr(exc, "filename", None)),
        "durable_named": getattr(exc, "durable_events", None) is not None,
    }


def one_trial(
    spec: Spec,
    folder: Path,
    shared: Shared,
    shim: Shim,
    trial: Trial,
    *,
    call: int = 0,
    code: int = 0,
    mode: int = 0,
    end: Callable[[int], None] | None = None,
    begin: Callable[[], None] | None = None,
    recovered: Path | None = None,
) -> Trial:
    """Run a stream in a child to its bad end, then check in another child."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    prepare_in_child(spec, folder)
    target = folder / "run.rtdc"
    original = target.read_bytes() if target.exists() else None
    if begin is not None:
        begin()
    shared.clear()

    def tell(n_events: int) -> None:
        shared.durable = n_events

    def work() -> None:
        shim.arm(folder, call, code, mode)
        try:
            run_stream(spec, target, tell)
        except BaseException as exc:  # noqa: BLE001 - all of it is the result
            result = describe_error(exc, code)
            if not isinstance(exc, dcwrite.DCWriteError):
                result["message"] = traceback.format_exc()[-900:]
        else:
            result = {}
        if shim.library is not None:
            result["what"] = (shim.library.shim_failed() or b"").decode()
            result["calls"] = shim.library.shim_calls()
        shared.text = result

    pid = fork(work)
    if end is not None:
        end(pid)
    trial.status = reap(pid)
    trial.durable = shared.durable
    for key, value in shared.text.items():
        setattr(trial, key, value)

    def check() -> dict[str, Any]:
        found = Trial(trial.number, error=trial.error, durable=trial.durable)
        if spec.kind == "writer":
            inspect_written(spec, folder, found)
        else:
            inspect(spec, folder, found, original=original, target=recovered)
        return {
            key: getattr(found, key) for key in ("recovered", "finished", "wrong", "leftovers")
        }

    for key, value in in_child(shared, check).items():
        setattr(trial, key, getattr(trial, key) + value if key == "wrong" else value)
    return trial


def prepare_in_child(spec: Spec, folder: Path) -> None:
    """HDF5 is used in children only: a fork must not inherit its state."""
    if spec.kind == "append":
        status = reap(fork(lambda: prepare(spec, folder)))
        if status:
            raise RuntimeError(f"preparing the recording failed with {status}")


def count_calls(spec: Spec, folder: Path, shared: Shared, shim: Shim) -> int:
    """Calls on the disk that a whole run makes."""
    trial = one_trial(spec, folder, shared, shim, Trial(0), mode=7)
    if trial.error or trial.wrong or trial.status:
        raise RuntimeError(f"a run without failure failed: {asdict(trial)}")
    return trial.calls


def judge_failure(trial: Trial, spec: Spec) -> None:
    """After a call that failed: our error, a clean end."""
    if trial.status:
        trial.wrong.append(f"exit status {trial.status}")
    if not trial.what and trial.error:
        trial.wrong.append("the call never came")
    if trial.error is None:
        return  # whether all events are there was compared
    if trial.error != "StorageError":
        trial.wrong.append(f"{trial.error}: {trial.message}")
    elif not trial.errno_kept or not trial.path_named:
        trial.wrong.append(f"errno or path not kept: {trial.message}")
    elif trial.durable and not trial.durable_named and not trial.finished and spec.kind != "writer":
        trial.wrong.append(f"durable_events not told: {trial.message}")


def fail_sweep(spec: Spec, folder: Path, *, modes: list[str], codes: list[str], step: int = 1, first: int = 1) -> Iterator[Trial]:
    """Fail, kill or tear at each call in turn."""
    shared, shim = Shared(), Shim()
    if shim.library is None:
        raise RuntimeError("the shim is not loaded")
    n_calls = count_calls(spec, folder, shared, shim)
    number = 0
    for mode in modes:
        for call in range(first, n_calls + (2 if mode in KILLING else 1), step):
            number += 1
            code = codes[number % len(codes)]
            trial = one_trial(
                spec, folder, shared, shim, Trial(call), call=call,
                code=getattr(errno, code), mode=MODES[mode],
            )  # fmt: skip
            if mode in KILLING:
                trial.what = trial.what or "kill"
                if trial.status not in {-signal.SIGKILL, 0}:
                    trial.wrong.append(f"exit status {trial.status}")
            else:
                judge_failure(trial, spec)
            trial.what = f"{mode} {code} {trial.what}"
            yield trial


def kills(spec: Spec, folder: Path, *, count: int, seed: int) -> Iterator[Trial]:
    """SIGKILL at moments drawn over the whole life of a stream."""
    shared, shim = Shared(), Shim()
    begin = time.monotonic()
    one_trial(spec, folder, shared, shim, Trial(-1), end=reap_later)
    whole_s = 0.7 * (time.monotonic() - begin)
    rng = random.Random(seed)
    for number in range(count):
        moment_s = rng.uniform(0, whole_s)

        def end(pid: int, moment_s: float = moment_s) -> None:
            threading.Event().wait(moment_s)
            os.kill(pid, signal.SIGKILL)

        trial = one_trial(spec, folder, shared, shim, Trial(number), end=end)
        trial.what = f"after {moment_s:.4f} s"
        yield trial


def replay_sweep(
    spec: Spec, folder: Path, *, power_cuts: int, seed: int, kills_too: bool = True, step: int = 1
) -> Iterator[Trial]:
    """Record a run; recover from the disk as a kill at each call, or a power cut, leaves it."""
    shared, shim = Shared(), Shim()
    if shim.library is None:
        raise RuntimeError("the shim is not loaded")
    shutil.rmtree(folder, ignore_errors=True)
    work, log = folder / "work", folder / "log"
    work.mkdir(parents=True)
    prepare_in_child(spec, work)
    start = {str(path): path.read_bytes() for path in work.iterdir()}
    inodes = {str(path): path.stat().st_ino for path in work.iterdir()}
    original = next(iter(start.values()), None)
    shared.clear()

    def record() -> None:
        shim.library.shim_record(os.fsencode(work), os.fsencode(log))  # type: ignore[union-attr]

        def told(n_events: int) -> None:
            shim.library.shim_mark(n_events)  # type: ignore[union-attr]

        run_stream(spec, work / "run.rtdc", told)

    if status := reap(fork(record)):
        raise RuntimeError(f"the recorded run ended with {status}")
    operations = list(read_log(log))
    rng = random.Random(seed)
    cuts = sorted(rng.randrange(len(operations) + 1) for _ in range(power_cuts))
    moments = [(at, "kill") for at in range(0, len(operations) + 1, step)] if kills_too else []
    moments = sorted(moments + [(at, "power cut") for at in cuts])
    for first in range(0, len(moments), 25):
        part = moments[first : first + 25]

        def check(part: list[tuple[int, str]] = part, first: int = first) -> dict[str, Any]:
            return {"trials": list(_states(spec, folder, operations, (start, inodes), part, seed + first, original))}

        result = in_child(shared, check)
        for found in result.get("trials", ()):
            yield Trial(**found)
        if "wrong" in result:
            yield Trial(part[0][0], f"one of {part}", wrong=result["wrong"])


def _states(
    spec: Spec, folder: Path, operations: list[Any], start: Any, moments: list[tuple[int, str]],
    seed: int, original: bytes | None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    disk, done = Disk(*start), 0
    for number, (at, what) in enumerate(moments):
        while done < at:
            disk.step(operations[done])
            done += 1
        rng = random.Random(seed * 1000 + number)
        files = disk.after_kill() if what == "kill" else disk.after_power_cut(rng)
        state = folder / "state"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        for name, data in files.items():
            (state / Path(name).name).write_bytes(data)
        trial = Trial(at, what, error="ended", durable=disk.mark)
        inspect(spec, state, trial, original=original)
        yield asdict(trial)


def full_disk(
    spec: Spec, folder: Path, *, mount: str, count: int, seed: int, size_bytes: int
) -> Iterator[Trial]:
    """Streams to a disk that becomes full at random moments; recovered to another one."""
    shared, shim = Shared(), Shim()
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ballast = Path(mount) / "ballast"
    for number in range(count):
        ballast.unlink(missing_ok=True)
        room = rng.randrange(4096, size_bytes)

        def fill(room: int = room) -> None:
            status = os.statvfs(mount)
            ballast.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - room)))

        trial = one_trial(
            spec, Path(mount) / "work", shared, shim, Trial(number),
            code=errno.ENOSPC, begin=fill, recovered=folder / "recovered.rtdc",
        )  # fmt: skip
        trial.what = f"{room} bytes free"
        judge_failure(trial, spec)
        yield trial


def recover_kills(spec: Spec, folder: Path, *, call: int, step: int = 1) -> Iterator[Trial]:
    """SIGKILL of the recovering process at each of its calls; then recover again."""
    shared, shim = Shared(), Shim()
    one_trial(spec, folder, shared, shim, Trial(0), call=call, mode=MODES["kill"])
    (folder / "recovered.rtdc").unlink(missing_ok=True)
    durable = 0
    before = {item: item.read_bytes() for item in folder.iterdir()}
    target = folder / "again.rtdc"
    number = 0
    while True:
        number += step
        trial = Trial(number, "kill of recover", error="ended")

        def work(number: int = number) -> None:
            shim.arm(folder, number, 0, MODES["kill"])
            recover(folder / "run.rtdc.part", target)

        trial.status = reap(fork(work))

        def check() -> dict[str, Any]:
            wrong = []
            if any(item.read_bytes() != data for item, data in before.items()):
                wrong.append("the input was changed")
            if target.exists():
                n_events, bad = compare(spec, target)
                wrong += bad
                target.unlink()
            for item in folder.glob(".again.rtdc.*"):
                item.unlink()
            found = Trial(0, error="ended", durable=durable)
            inspect(spec, folder, found, original=before.get(folder / "run.rtdc"))
            (folder / "recovered.rtdc").unlink()
            return {"wrong": wrong + found.wrong, "recovered": found.recovered}

        result = in_child(shared, check)
        trial.wrong, trial.recovered = result["wrong"], result.get("recovered", -1)
        durable = max(durable, trial.recovered)
        if trial.status not in {0, -signal.SIGKILL}:
            trial.wrong.append(f"exit status {trial.status}")
        yield trial
        if trial.status == 0:
            return


# -- files of any content ---------------------------------------------------------------------

#: A child that looks at a hostile file has so much memory and time.
MEMORY_BYTES = 3 * 1024**3
LOOK_TIMEOUT_S = 60.0


def look_at(path: Path) -> dict[str, str]:
    """Do all that one does with a file one was sent; our errors are right answers.

    Returns
    -------
    dict
        What each way of looking said; "!" in front: what it must not say.
    """
    said: dict[str, str] = {}

    def attempt(name: str, work: Callable[[], Any]) -> None:
        begin = time.monotonic()
        try:
            result = work()
        except dcwrite.DCWriteError as exc:
            said[name] = type(exc).__name__
        except BaseException as exc:  # noqa: BLE001 - that is the question
            lines = traceback.format_exc().splitlines()
            said[name] = f"! {type(exc).__name__}: {str(exc)[:200]} {lines[-4:-1]}"
        else:
            said[name] = str(result)
        if time.monotonic() - begin > LOOK_TIMEOUT_S / 2:
            said[name] = f"! took {time.monotonic() - begin:.0f} s, {said[name]}"

    def read() -> str:
        with dcwrite.Recording(path) as recording:
            total = 0
            for name in recording.features:
                feature = recording[name]
                items = feature.values() if isinstance(feature, dict) else [feature]
                for item in items:
                    try:
                        total += len(item[:5])
                        if len(item):
                            item[-1]
                    except dcwrite.DCWriteError:
                        continue
            recording.lengths()
            return f"read {total}"

    def copied() -> str:
        with dcwrite.Recording(path) as recording:
            source = recording.h5
            with h5py.File(path.parent / "copy.rtdc", "w") as target:
                names = list(source["events"]) if isinstance(source.get("events"), h5py.Group) else []
                for work in (
                    lambda: dcwrite.copy_metadata(source, target),
                    lambda: dcwrite.copy_basins(source, target),
                    *(lambda name=name: dcwrite.copy_features(source, target, [name]) for name in names[:20]),
                ):
                    try:
                        work()
                    except dcwrite.DCWriteError:
                        continue
        return "copied"

    def with_basins() -> str:
        dcwrite.create_with_basins(path.parent / "with_basins.rtdc", [path.name], overwrite=True)
        return "created"

    if path.name.endswith(".part"):
        attempt("recover", lambda: f"recovered {recover(path, path.parent / 'out.rtdc').n_events}")
        return said
    attempt("verify", lambda: f"exit code {dcwrite.verify(path, threads=1).exit_code}")
    attempt("describe", lambda: bool(describe(path).to_dict()))
    attempt("Recording", read)
    attempt("copy", copied)
    attempt("create_with_basins", with_basins)
    return said


def look_in_child(shared: Shared, path: Path, number: int = 0, what: str = "") -> Trial:
    """`look_at` with bounded memory and time; a crash or a hang is a fault."""
    trial = Trial(number, what)
    shared.clear()

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        warnings.simplefilter("ignore")
        logging.disable()
        shared.text = {"said": look_at(path)}

    pid = fork(work)
    trial.status = reap(pid, LOOK_TIMEOUT_S)
    said = shared.text.get("said", {})
    trial.message = json.dumps(said)
    trial.wrong = [f"{name}: {text}" for name, text in said.items() if text.startswith("!")]
    if trial.status:
        trial.wrong.append(f"the interpreter ended with {trial.status}")
    return trial


def hostile_files(spec: Spec, folder: Path, *, only: str = "") -> Iterator[Trial]:
    """Look at every file of `BUILDERS`."""
    del spec
    shared = Shared()
    for number, (name, build) in enumerate(BUILDERS.items()):
        if only not in name:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        made: dict[str, Any] = in_child(shared, lambda build=build: {"path": str(build(folder))})
        if "path" not in made:
            yield Trial(number, name, wrong=[f"could not be made: {made}"])
            continue
        yield look_in_child(shared, Path(made["path"]), number, name)


def fuzz(spec: Spec, folder: Path, *, seconds: float, seed: int) -> Iterator[Trial]:
    """Look at a small recording with some bytes changed, for a while."""
    del spec
    shared = Shared()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = in_child(shared, lambda: {"path": str(small_recording(folder))})
    path = Path(made["path"])
    data = path.read_bytes()
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        rng = random.Random(seed * 1_000_000 + number)
        path.write_bytes(mutate(data, rng))
        trial = look_in_child(shared, path, number, f"seed {seed * 1_000_000 + number}")
        if trial.wrong:
            shutil.copyfile(path, folder.with_name(f"fuzz_{seed}_{number}.rtdc"))
        yield trial


def bit_flips(spec: Spec, folder: Path, *, count: int, seed: int) -> Iterator[Trial]:
    """One bit changed in a finished recording, half of them in its chunks."""
    shared, shim = Shared(), Shim()
    one_trial(spec, folder, shared, shim, Trial(0))
    path = folder / "run.rtdc"
    data = path.read_bytes()
    regions = in_child(shared, lambda: {"regions": chunk_regions(path)})["regions"]
    rng = random.Random(seed)
    for number in range(count):
        trial = Trial(number)
        if number % 2:
            offset, size = rng.choices(regions, weights=[size for _, size in regions])[0]
            at = offset + rng.randrange(size)
        else:
            at = rng.randrange(len(data))
            while any(offset <= at < offset + size for offset, size in regions):
                at = rng.randrange(len(data))
        changed = bytearray(data)
        changed[at] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        trial.what = f"{'chunk' if number % 2 else 'metadata'}, byte {at}"

        def check(trial: Trial = trial) -> dict[str, Any]:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            report = dcwrite.verify(path, threads=1)
            found: dict[str, Any] = {"exit_code": report.exit_code, "wrong": []}
            if not report.exit_code:
                _, wrong = compare(spec, path)
                found["wrong"] = [f"unnoticed: {text}" for text in wrong]
                if trial.what.startswith("chunk"):
                    found["wrong"].append("unnoticed in a chunk")
            return found

        shared.clear()
        found = in_child(shared, check)
        trial.wrong = found.get("wrong", [])
        trial.message = f"exit code {found.get('exit_code')}"
        yield trial


def chunk_regions(path: Path) -> list[tuple[int, int]]:
    """Offset and size of every chunk of the file."""
    regions = []

    def add(_name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.chunks:
            for number in range(item.id.get_num_chunks()):
                info = item.id.get_chunk_info(number)
                regions.append((info.byte_offset, info.size))

    with h5py.File(path, "r") as h5:
        h5.visititems(add)
    return regions


def reap_later(pid: int) -> None:
    """No bad end."""


def campaign(name: str, spec: Spec, folder: Path, *, shim: Path | None = None, timeout_s: float = 600, **options: Any) -> list[Trial]:
    """Let a runner do a series of trials.

    Parameters
    ----------
    name
        "fail_sweep" or "kills".
    spec
        The stream.
    folder
        Where to work; on the file system that is tried.
    shim
        Built shim.c.
    timeout_s
        For all.
    **options
        For the function of that name.
    """
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONFAULTHANDLER": ""}
    if shim is not None:
        environment["LD_PRELOAD"] = str(shim)
    task = json.dumps({"name": name, "spec": asdict(spec), "folder": str(folder), "options": options})
    result = subprocess.run(
        [sys.executable, str(HERE / "harness.py"), task],
        env=environment, capture_output=True, text=True, timeout=timeout_s, check=False,
        cwd=HERE.parents[1],
    )  # fmt: skip
    trials = [Trial(**json.loads(line)) for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode:
        raise AssertionError(f"the runner ended with {result.returncode}: {result.stderr[-3000:]}")
    return trials


def problems(trials: list[Trial]) -> list[str]:
    """One line per trial that is not as promised."""
    return [
        f"{t.number} {t.what}: {t.wrong} (status {t.status}, durable {t.durable}, recovered "
        f"{t.recovered}, {t.error} {t.message[:150]})"
        for t in trials
        if t.wrong
    ]


def build_shim(folder: Path) -> Path | None:
    """Compile shim.c; None: there is no compiler, or no glibc."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    library = folder / "libshim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "shim.c"), "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return library if done.returncode == 0 else None


def main() -> None:
    """Do the series of trials that is told in the first argument."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    task = json.loads(sys.argv[1])
    spec = Spec(**task["spec"])
    frames(spec)
    expected(spec)
    gc.collect()
    gc.freeze()
    series = {"fail_sweep": fail_sweep, "kills": kills, "replay_sweep": replay_sweep, "full_disk": full_disk, "recover_kills": recover_kills, "hostile_files": hostile_files, "fuzz": fuzz, "bit_flips": bit_flips}[task["name"]]
    for trial in series(spec, Path(task["folder"]), **task["options"]):
        print(json.dumps(asdict(trial)), flush=True)


if __name__ == "__main__":
    main()
