"""Series of streams that come to a bad end: killed, refused by the disk, cut off from power.

Alone here: the ends. Invariant: a trial is told by its numbers alone: seed, call, moment.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dcwrite
from dcwrite.store.recover import recover

from .aftermath import (
    Trial,
    compare,
    inspect,
    inspect_open,
    inspect_written,
    judge_failure,
)
from .children import KILLING, MODES, Shared, Shim, fork, in_child, reap
from .replay import Disk, read_log
from .small_stream import IN_PLACE, Spec, prepare, run_stream

__all__ = ["fail_sweep", "full_disk", "kills", "one_trial", "recover_kills", "replay_sweep"]


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
        shared.text = _run_and_tell(spec, target, tell, shim, code)

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
        elif spec.kind in IN_PLACE:
            inspect_open(spec, folder, found)
        else:
            inspect(spec, folder, found, original=original, target=recovered)
        return {
            key: getattr(found, key) for key in ("recovered", "finished", "wrong", "leftovers")
        }

    for key, value in in_child(shared, check).items():
        setattr(trial, key, getattr(trial, key) + value if key == "wrong" else value)
    return trial


def _run_and_tell(
    spec: Spec, target: Path, tell: Callable[[int], None], shim: Shim, code: int
) -> dict[str, Any]:
    """What the user of a stream sees of its end."""
    result: dict[str, Any] = {}
    try:
        run_stream(spec, target, tell)
    except BaseException as exc:  # noqa: BLE001 - all of it is the result
        result = describe_error(exc, code)
        if not isinstance(exc, dcwrite.DCWriteError):
            result["message"] = traceback.format_exc()[-900:]
    if shim.library is not None:
        result["what"] = (shim.library.shim_failed() or b"").decode()
        result["calls"] = shim.library.shim_calls()
    return result


def prepare_in_child(spec: Spec, folder: Path) -> None:
    """HDF5 is used in children only: a fork must not inherit its state."""
    if spec.kind in {"append", *IN_PLACE}:
        status = reap(fork(lambda: prepare(spec, folder)))
        if status:
            raise RuntimeError(f"preparing the recording failed with {status}")


def count_calls(spec: Spec, folder: Path, shared: Shared, shim: Shim) -> int:
    """Calls on the disk that a whole run makes."""
    trial = one_trial(spec, folder, shared, shim, Trial(0), mode=7)
    if trial.error or trial.wrong or trial.status:
        raise RuntimeError(f"a run without failure failed: {asdict(trial)}")
    return trial.calls


def fail_sweep(
    spec: Spec, folder: Path, *, modes: list[str], codes: list[str], step: int = 1, first: int = 1
) -> Iterator[Trial]:
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
            return {
                "trials": list(
                    _states(
                        spec, folder, operations, (start, inodes), part, seed + first, original
                    )
                )
            }

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
        if spec.kind in IN_PLACE:
            inspect_open(spec, state, trial)
        else:
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

        def check(durable: int = durable) -> dict[str, Any]:
            wrong = []
            if any(item.read_bytes() != data for item, data in before.items()):
                wrong.append("the input was changed")
            if target.exists():
                _, bad = compare(spec, target)
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


def reap_later(pid: int) -> None:
    """No bad end."""
