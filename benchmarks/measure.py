"""How the benchmarks measure: rounds in turn, medians, one row for each question.

Alone here: what a row of the table is, and how it is printed. Invariant: all ways of a row run in
turn (A B C, A B C, ...), so that a machine that gets slower gets slower for all of them.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import numpy as np

from dcwrite.store.encoder import usable_cpus

__all__ = [
    "Context",
    "Row",
    "Stopwatch",
    "compare_rows",
    "in_turn",
    "machine",
    "read_events",
    "size_bytes",
    "sync",
]


@dataclass
class Context:
    """What all rows share.

    Parameters
    ----------
    quick
        Small sizes and few rounds: shows that everything runs; its figures mean nothing.
    folder
        Where the files are written.
    threads
        Threads that compress.
    """

    quick: bool
    folder: Path
    threads: int = field(default_factory=usable_cpus)

    def size(self, full: int, quick: int) -> int:
        """Give one of two sizes."""
        return quick if self.quick else full

    @property
    def rounds(self) -> int:
        """Rounds of a short row."""
        return 1 if self.quick else 5

    @contextmanager
    def scratch(self, *, in_memory: bool = False) -> Iterator[Path]:
        """Give an empty folder; `in_memory`: of a file system in memory where there is one."""
        memory = Path("/dev/shm")
        parent = memory if in_memory and memory.is_dir() else self.folder
        path = Path(tempfile.mkdtemp(prefix="dcwrite-bench-", dir=parent))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@dataclass
class Row:
    """One line of the table.

    Parameters
    ----------
    number
        Row that it belongs to, such as "6".
    title
        What is measured.
    unit
        Of `ours`, `peer` and `limit`.
    ours, peer, limit
        Medians; None: there is none.
    ratio
        What the target is about; default: ours / peer.
    at_least, at_most
        The target.
    limited_by
        What keeps it from being faster.
    note
        Sizes, spread, what else was seen.
    samples
        All measured values.
    """

    number: str
    title: str
    unit: str
    ours: float
    peer: float | None = None
    limit: float | None = None
    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    limited_by: str = ""
    note: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Complete the ratio."""
        if self.ratio is None and self.peer:
            self.ratio = self.ours / self.peer

    @property
    def target(self) -> str:
        """The target as text."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None: there is none."""
        if self.ratio is None or (self.at_least is None and self.at_most is None):
            return None
        if self.at_least is not None:
            return self.ratio >= self.at_least
        return self.ratio <= self.at_most if self.at_most is not None else None

    def cells(self) -> list[str]:
        """The line's cells as text."""
        met = {None: "", True: "yes", False: "NO"}[self.met]
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}"
        numbers = [_number(value) for value in (self.ours, self.peer, self.limit)]
        return [self.number, self.title, *numbers, self.unit, ratio, self.target, met]


HEADINGS = ("row", "what", "ours", "peer", "limit", "unit", "ratio", "target", "met")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


class Stopwatch:
    """Measures a part of a function: ``with watch: ...``."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._start


def in_turn(
    ways: Mapping[str, Callable[[], float]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Run all ways in turn, several times.

    Parameters
    ----------
    ways
        Name to a function that returns the measured value.
    rounds
        Number of values for each way.
    warm_up
        Whether each way runs once before, without being counted.
    """
    if warm_up:
        for run in ways.values():
            run()
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            samples[name].append(run())
    return samples


def compare_rows(
    number: str,
    title: str,
    unit: str,
    amounts: Mapping[str, float],
    samples: Mapping[str, Sequence[float]],
    **options: Any,
) -> Row:
    """Make a row of measured seconds.

    Parameters
    ----------
    number, title, unit
        As for `Row`.
    amounts
        What each of "ours", "peer", "limit" did in these seconds.
    samples
        Seconds of each.
    **options
        For `Row`.
    """
    rates = {
        name: [amounts[name] / seconds for seconds in values] for name, values in samples.items()
    }
    medians = {name: statistics.median(values) for name, values in rates.items()}
    if "peer" in rates:
        pairs = [a / b for a, b in zip(rates["ours"], rates["peer"], strict=True)]
        spread = f"ratios {min(pairs):.2f} to {max(pairs):.2f} in {len(pairs)} rounds"
        options["note"] = "; ".join(filter(None, (spread, options.get("note", ""))))
    return Row(
        number,
        title,
        unit,
        ours=medians["ours"],
        peer=medians.get("peer"),
        limit=medians.get("limit"),
        samples=rates,
        **options,
    )


def sync(path: Path) -> None:
    """Let the disk have a closed file."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def size_bytes(path: Path) -> int:
    """Size of a file."""
    return path.stat().st_size


def read_events(path: Path, n_events: int | None = None) -> dict[str, np.ndarray[Any, Any]]:
    """Read all features, or their first events, with h5py: filters and checksums included.

    Those of an internal basin (backgrounds that are stored once) are put where they belong.
    """
    with h5py.File(path) as h5:
        events = {name: dset[:n_events] for name, dset in h5["events"].items()}
        if "basinmap0" in events:
            rows = events.pop("basinmap0")
            events.update({name: dset[:][rows] for name, dset in h5["basin_events"].items()})
        return events


def machine() -> dict[str, str]:
    """What the figures depend on."""
    packages = (
        "dcwrite", "dcnum", "dclab", "h5py", "hdf5plugin", "zstandard", "numcodecs", "numpy",
    )  # fmt: skip
    found = {
        "CPU": _cpu_model(),
        "cores": f"{usable_cpus()} usable of {os.cpu_count()}",
        "memory": _memory(),
        "system": platform.platform(terse=True),
        "Python": platform.python_version(),
        "HDF5": h5py.version.hdf5_version,
    }
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    if hasattr(os, "getloadavg"):
        found["load before"] = f"{os.getloadavg()[0]:.2f}"
    return found


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return "unknown"
    return f"{total / 2**30:.0f} GiB"
