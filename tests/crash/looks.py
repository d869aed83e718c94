"""Files of any content, looked at with bounded memory and time.

Alone here: all that one does with a file one was sent. Invariant: our errors are right answers; a
crash, a hang or another error is a fault.
"""

from __future__ import annotations

import json
import logging
import random
import resource
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py

import dcwrite
from dcwrite.store.describe import describe
from dcwrite.store.recover import recover

from .aftermath import Trial, compare
from .bad_ends import one_trial
from .children import Shared, Shim, fork, in_child, reap
from .hostile import BUILDERS, mutate, small_recording
from .small_stream import Spec

__all__ = ["bit_flips", "fuzz", "hostile_files"]

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

    if path.name.endswith(".part"):
        attempt("recover", lambda: f"recovered {recover(path, path.parent / 'out.rtdc').n_events}")
        attempt("live", lambda: _read(path, live=True))
        return said
    attempt("verify", lambda: f"exit code {dcwrite.verify(path, threads=1).exit_code}")
    attempt("describe", lambda: bool(describe(path).to_dict()))
    attempt("Recording", lambda: _read(path))
    attempt("copy", lambda: _copy(path))
    attempt("create_with_basins", lambda: _refer(path))
    return said


def _read(path: Path, *, live: bool = False) -> str:
    """A few events of each feature."""
    total = 0
    with dcwrite.Recording(path, live=live) as recording:
        for name in recording.features:
            feature = recording[name]
            for item in feature.values() if isinstance(feature, dict) else [feature]:
                with suppress(dcwrite.DCWriteError):
                    total += len(item[:5])
                    if len(item):
                        item[-1]
        recording.lengths()
    return f"read {total}"


def _copy(path: Path) -> str:
    """All that can be copied."""
    with (
        dcwrite.Recording(path) as recording,
        h5py.File(path.parent / "copy.rtdc", "w") as target,
    ):
        source = recording.h5
        events = source.get("events")
        for work in (dcwrite.copy_metadata, dcwrite.copy_basins):
            with suppress(dcwrite.DCWriteError):
                work(source, target)
        for name in list(events)[:20] if isinstance(events, h5py.Group) else ():
            with suppress(dcwrite.DCWriteError):
                dcwrite.copy_features(source, target, [name])
    return "copied"


def _refer(path: Path) -> str:
    """A file that refers to it."""
    dcwrite.create_with_basins(path.parent / "with_basins.rtdc", [path.name], overwrite=True)
    return "created"


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
