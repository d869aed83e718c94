"""The crash proofs at full length: some 80 minutes; prints the figures of docs/guarantees.md.

`make torture` runs all parts; `ARGS="--only kills"` one of them; `--factor 0.1` a tenth of each.
The same trials, in smaller numbers, are tests: tests/crash.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import dcwrite  # noqa: E402
from tests.crash.harness import Spec, Trial, build_shim, campaign, problems  # noqa: E402
from tests.crash.small_stream import IN_PLACE  # noqa: E402

FUZZER = ROOT / "tests" / "crash" / "coverage_fuzz.py"
CODES = ["ENOSPC", "EIO", "EDQUOT", "EFBIG"]
SMALL = Spec(n_frames=400, threshold=40)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table."""

    part: str
    what: str
    trials: int
    right: int
    seconds: float
    note: str = ""


class Torture:
    """Runs parts and notes their lines."""

    def __init__(self, folder: Path, factor: float, seed: int, minutes: float) -> None:
        self.folder = folder
        self.factor = factor
        self.seed = seed
        self.minutes = minutes
        self.lines: list[Line] = []
        self.shim = build_shim(folder)

    def count(self, number: int) -> int:
        return max(1, round(number * self.factor))

    @property
    def step(self) -> int:
        return max(1, round(1 / self.factor))

    def run(self, part: str, what: str, name: str, spec: Spec, **options: Any) -> list[Trial]:
        """A series of trials, as a line."""
        begin = time.monotonic()
        try:
            found = campaign(name, spec, self.folder / "work", timeout_s=3600, **options)
        except AssertionError as exc:
            self.note(part, what, 1, 0, begin, str(exc)[-300:])
            return []
        bad = problems(found)
        for text in bad[:20]:
            print(f"    {text}", file=sys.stderr)
        note = ""
        if name in {"kills", "process_kills"}:
            note = f"{sum(t.finished for t in found)} after the end, seed {self.seed}"
        self.note(part, what, len(found), len(found) - len(bad), begin, note)
        return found

    def note(self, part: str, what: str, n: int, right: int, begin: float, note: str = "") -> None:
        line = Line(part, what, n, right, time.monotonic() - begin, note)
        self.lines.append(line)
        print(
            f"{part:10} {what:52} {right:5} of {n:5} right {line.seconds:7.1f} s  {note}",
            flush=True,
        )

    def need_shim(self, part: str) -> bool:
        if self.shim is None:
            print(f"{part:10} skipped: no C compiler, or not Linux with glibc", flush=True)
        return self.shim is not None


def kills(torture: Torture) -> None:
    """SIGKILL at random moments, at each call, in the middle of each write; of recover, too."""
    for threshold in (1, 13, 100, 500):
        spec = Spec(n_frames=500 + threshold, threshold=threshold)
        torture.run("kills", f"random moments, {threshold} frames per batch", "kills", spec,
                    count=torture.count(50), seed=torture.seed)  # fmt: skip
    for threshold in (1, 13, 100, 500):
        spec = Spec(n_frames=500 + threshold, threshold=threshold)
        torture.run("kills", f"a writer process, {threshold} frames per batch", "process_kills",
                    spec, count=torture.count(50), seed=torture.seed)  # fmt: skip
    for kind in ("gzip", "groups", "append"):
        spec = Spec(kind=kind, n_frames=300, threshold=40)
        torture.run("kills", f"random moments, {kind}", "kills", spec,
                    count=torture.count(20), seed=torture.seed)  # fmt: skip
    if not torture.need_shim("kills"):
        return
    options = {"shim": torture.shim, "codes": ["EIO"], "step": torture.step}
    for mode in ("kill", "torn", "kill after"):
        torture.run("kills", f"each call, {mode}", "fail_sweep", SMALL, modes=[mode], **options)
    spec = Spec(n_frames=400, threshold=40, replace_bytes=200_000)
    torture.run(
        "kills", "each call, journal replaced often", "fail_sweep", spec, modes=["kill"], **options
    )
    spec = Spec(kind="append", n_frames=300)
    torture.run("kills", "each call, appending", "fail_sweep", spec, modes=["kill"], **options)
    spec = Spec(n_frames=300, live=True)
    torture.run("kills", "each call, live", "fail_sweep", spec, modes=["kill"], **options)
    for kind, side in itertools.product(IN_PLACE, (50, 330)):
        spec = Spec(kind=kind, n_frames=140, threshold=40, side=side)
        chunks = "full chunks" if side == 330 else "chunks not full"
        torture.run("kills", f"each call, {kind}, {chunks}", "fail_sweep", spec,
                    modes=["kill", "torn", "kill after"], **options)  # fmt: skip
    torture.run("kills", "recover, at each of its calls", "recover_kills", SMALL,
                shim=torture.shim, call=20, step=torture.step)  # fmt: skip


def disk(torture: Torture) -> None:
    """Each call on the disk fails."""
    if not torture.need_shim("disk"):
        return
    options = {"shim": torture.shim, "codes": CODES, "step": torture.step}
    specs = {
        "stream": SMALL,
        "stream, power": Spec(
            n_frames=400, threshold=40, durability="power", replace_bytes=200_000
        ),
        "stream, appending": Spec(kind="append", n_frames=300),
        "stream, gzip": Spec(kind="gzip", n_frames=200),
        "stream, traces and contours": Spec(kind="groups", n_frames=60, threshold=20),
        "stream, live": Spec(n_frames=300, live=True),
        "HDF5Writer": Spec(kind="writer", n_frames=300),
        **{kind: Spec(kind=kind, n_frames=140, threshold=40) for kind in IN_PLACE},
    }
    for name, spec in specs.items():
        for mode in ("once", "from then on", "short"):
            torture.run("disk", f"{name}, {mode}", "fail_sweep", spec, modes=[mode], **options)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    mount = folder / "disk"
    mount.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(mount)]
    if os.name != "posix" or os.geteuid() or subprocess.run(command, check=False).returncode:
        yield None
        return
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def full(torture: Torture) -> None:
    """A file system that becomes full at random moments."""
    with small_disk(torture.folder) as mount:
        if mount is None:
            print("full       skipped: a small file system cannot be mounted here", flush=True)
            return
        for kind in ("plain", "append", "gzip", "groups", "writer"):
            n_frames = 100 if kind == "groups" else 400
            spec = Spec(kind=kind, n_frames=n_frames)
            torture.run("full", kind, "full_disk", spec, mount=str(mount), size_bytes=1_200_000,
                        count=torture.count(20), seed=torture.seed)  # fmt: skip


def power(torture: Torture) -> None:
    """Power cuts and kills, replayed from recorded writes."""
    if not torture.need_shim("power"):
        return
    options = {"shim": torture.shim, "seed": torture.seed, "step": torture.step}
    plain = Spec(n_frames=600, threshold=20, durability="power")
    specs = {
        "stream": plain,
        "journal replaced": Spec(
            n_frames=400, threshold=20, durability="power", replace_bytes=100_000
        ),
        "synced every 50 ms": Spec(
            n_frames=600, threshold=13, durability="power", sync_interval_s=0.05
        ),
        "live": Spec(n_frames=300, threshold=20, durability="power", live=True),
        "appending": Spec(kind="append", n_frames=300, durability="power"),
        "traces and contours": Spec(kind="groups", n_frames=80, threshold=20, durability="power"),
        "into an open file": Spec(kind="open", n_frames=140, threshold=40),
    }
    for name, spec in specs.items():
        for what, cuts in (("kill after each call", 0), ("power cut", torture.count(200))):
            torture.run("power", f"{name}: {what}", "replay_sweep", spec,
                        power_cuts=cuts, kills_too=not cuts, **options)  # fmt: skip


def damage(torture: Torture) -> None:
    """Bit flips, hostile files, mutated files."""
    found = torture.run("damage", "one bit flipped", "bit_flips", Spec(n_frames=200),
                        count=torture.count(1000), seed=torture.seed)  # fmt: skip
    chunks = [trial for trial in found if trial.what.startswith("chunk")]
    noticed = sum(trial.message != "exit code 0" for trial in chunks)
    print(f"           of {len(chunks)} in chunks, verify noticed {noticed}", flush=True)
    torture.run("damage", "hostile files", "hostile_files", SMALL)
    torture.run("damage", "mutated files", "fuzz", SMALL,
                seconds=60 * torture.minutes, seed=torture.seed)  # fmt: skip


def guided(torture: Torture) -> None:
    """Coverage-guided fuzzing, where atheris is installed (extra `fuzz`)."""
    for what in ("basins", "journals", "files"):
        begin = time.monotonic()
        n_runs, n_contained, seed, is_right = 0, 0, torture.seed, True
        while is_right and (left_s := begin + 60 * torture.minutes - time.monotonic()) > 1:
            memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
            with tempfile.TemporaryDirectory(prefix="fuzz-dcwrite-", dir=memory) as folder:
                done = subprocess.run(
                    [sys.executable, FUZZER, what, str(round(left_s)), str(seed), folder],
                    capture_output=True, text=True, check=False, cwd=torture.folder,
                )  # fmt: skip
            if "No module named 'atheris'" in done.stderr:
                print(
                    "guided     skipped: atheris is not there (pip install '.[fuzz]')", flush=True
                )
                return
            runs = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
            n_runs += int(runs.group(1)) if runs else 1
            if not done.returncode:
                break
            is_right = what == "files" and is_contained(torture.folder, done.stderr)
            n_contained += is_right
            seed += 1
            if not is_right:
                print(done.stderr[-3000:], file=sys.stderr)
        note = f"{n_contained} on which HDF5 crashes or hangs, contained" if n_contained else ""
        torture.note("guided", what, n_runs, n_runs - (not is_right), begin, note)


def is_contained(folder: Path, told: str) -> bool:
    """Whether what ended a fuzzer is HDF5's, and `verify` in a process of its own survives it."""
    written = re.search(r"Test unit written to (\S+)", told)
    if "Uncaught Python exception" in told or written is None:
        return False
    report = dcwrite.verify(folder / written.group(1), contained=True)
    print(f"           {report.findings[-1] if report.findings else 'no finding'}", flush=True)
    return True


def soak(torture: Torture) -> None:
    """Producers faster than the writer."""
    begin = time.monotonic()
    folder = torture.folder / "soak"
    folder.mkdir(exist_ok=True)
    script = ROOT / "tests" / "crash" / "soak.py"
    done = subprocess.run(
        [sys.executable, script, str(60 * torture.minutes), str(folder)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    if done.returncode:
        torture.note("soak", "every event, memory flat", 1, 0, begin, done.stderr[-400:])
        return
    found = json.loads(done.stdout.splitlines()[-1])
    memory = "".join(
        f"; memory of the {who}: {early / 1e6:.0f} MB, then {late / 1e6:.0f} MB (medians), at "
        f"most {largest / 1e6:.0f} MB"
        for who, ((early, late), largest) in found["memory"].items()
    )
    note = (
        f"{found['events']} events, {found['size_bytes'] / 1e6:.0f} MB; live reader: "
        f"{found['looks']} looks, {found['read_live']} events{memory} {found['wrong'] or ''}"
    )
    torture.note("soak", "every event, memory flat", 1, int(not found["wrong"]), begin, note)


PARTS: dict[str, Callable[[Torture], None]] = {
    "kills": kills,
    "disk": disk,
    "full": full,
    "power": power,
    "damage": damage,
    "guided": guided,
    "soak": soak,
}


def main() -> int:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; repeatable")
    parser.add_argument("--factor", type=float, default=1.0, help="part of the trials (1: all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0, help="for each fuzzer and the soak")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dcwrite-torture-") as folder:
        torture = Torture(Path(folder), options.factor, options.seed, options.minutes)
        for name in options.only or PARTS:
            PARTS[name](torture)
    trials, right = (
        sum(getattr(line, key) for line in torture.lines) for key in ("trials", "right")
    )
    seconds = sum(line.seconds for line in torture.lines)
    print(f"{right} of {trials} right, {seconds:.0f} s, seed {options.seed}")
    return int(right != trials)


if __name__ == "__main__":
    sys.exit(main())
