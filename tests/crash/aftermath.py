"""What a stream left, compared with what it had promised.

Alone here: the promises. Invariant: `Trial.wrong` is empty only if all of them were kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - plain h5py needs the Zstandard filter
import numpy as np

import dcwrite
from dcwrite.store.recover import recover

from .small_stream import APPENDED_TO, Spec, expected, n_expected

__all__ = ["Trial", "compare", "inspect", "inspect_open", "inspect_written", "judge_failure"]


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
                first = int(
                    np.flatnonzero(
                        (data != wanted[feat][: len(data)]).reshape(len(data), -1).any(1)
                    )[0]
                )
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
    part = folder / "run.rtdc.part"
    allowed = {"run.rtdc", part.name, "run.rtdc.journal", "run.rtdc.journal.new"}
    if strangers := [name for name in trial.leftovers if name not in allowed]:
        trial.wrong.append(f"temporary files are left: {strangers}")
    if original is not None and path.exists() and path.read_bytes() == original:
        if not part.exists() and trial.durable:
            trial.wrong.append("there is no unfinished file beside the old recording")
    elif path.exists():
        _inspect_finished(spec, path, trial)
        if part.exists():
            trial.wrong.append("NAME.rtdc and NAME.rtdc.part are both there")
        return
    if part.exists():
        _inspect_recovered(spec, part, target or folder / "recovered.rtdc", trial)
    elif trial.durable:
        trial.wrong.append(f"{trial.durable} durable events, and no file")


def _inspect_finished(spec: Spec, path: Path, trial: Trial) -> None:
    trial.finished = True
    try:
        trial.recovered, wrong = compare(spec, path)
    except (OSError, RuntimeError, KeyError) as exc:
        trial.wrong.append(f"a name without .part, and it cannot be opened: {exc}")
        return
    trial.wrong += wrong
    _promise_kept(trial, spec)
    if not trial.error and trial.recovered != n_expected(spec):
        trial.wrong.append(f"finished with {trial.recovered} events")


def _inspect_recovered(spec: Spec, part: Path, target: Path, trial: Trial) -> None:
    inputs = [part, part.with_suffix(".journal")]
    before = {item: item.read_bytes() for item in inputs if item.exists()}
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


def inspect_open(spec: Spec, folder: Path, trial: Trial) -> None:
    """A file that was added to in place has no journal: what was in it before is not lost."""
    path, target = folder / "run.rtdc", folder / "recovered.rtdc"
    target.unlink(missing_ok=True)
    trial.finished = not path.with_name("run.rtdc.undo").exists()
    try:
        recover(path, target)
    except dcwrite.DCWriteError as exc:
        trial.wrong.append(f"nothing of the file can be rescued: {exc}")
        return
    trial.recovered, trial.wrong = compare(spec, target)
    if trial.recovered < APPENDED_TO:
        trial.wrong.append(f"of {APPENDED_TO} events that were there before {trial.recovered} are")


def _promise_kept(trial: Trial, spec: Spec) -> None:
    floor = APPENDED_TO if spec.kind == "append" and trial.durable else 0
    if trial.recovered < trial.durable + floor:
        trial.wrong.append(f"{trial.durable} events were durable, {trial.recovered} are there")


def judge_failure(trial: Trial, spec: Spec) -> None:
    """After a call that failed: our error, a clean end."""
    if trial.status:
        trial.wrong.append(f"exit status {trial.status}")
    if not trial.what and trial.error:
        trial.wrong.append("the call never came")
    if trial.error is None:
        return  # whether all events are there was compared
    if spec.kind.startswith("open") and trial.error in {"OSError", "RuntimeError"}:
        return  # h5py's, from opening or closing the file, which is not ours
    if trial.error != "StorageError":
        trial.wrong.append(f"{trial.error}: {trial.message}")
    elif not trial.errno_kept or not trial.path_named:
        trial.wrong.append(f"errno or path not kept: {trial.message}")
    elif (
        trial.durable and not trial.durable_named and not trial.finished and spec.kind != "writer"
    ):
        trial.wrong.append(f"durable_events not told: {trial.message}")
