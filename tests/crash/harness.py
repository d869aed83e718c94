"""Series of trials in a process of their own; what tests and `benchmarks/torture.py` use.

Alone here: how the runner is started. Invariant: a runner that ends badly is an error.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .aftermath import Trial, compare
from .small_stream import Spec, frames, n_expected, run_stream

__all__ = [
    "Spec", "Trial", "build_shim", "campaign", "compare", "frames", "n_expected", "problems",
    "run_stream",
]  # fmt: skip

HERE = Path(__file__).parent


def campaign(
    name: str,
    spec: Spec,
    folder: Path,
    *,
    shim: Path | None = None,
    timeout_s: float = 600,
    **options: Any,
) -> list[Trial]:
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
    task = json.dumps(
        {"name": name, "spec": asdict(spec), "folder": str(folder), "options": options}
    )
    result = subprocess.run(
        [sys.executable, "-m", "tests.crash.runner", task],
        env=environment, capture_output=True, text=True, timeout=timeout_s, check=False,
        cwd=HERE.parents[1],
    )  # fmt: skip
    trials = [
        Trial(**json.loads(line)) for line in result.stdout.splitlines() if line.startswith("{")
    ]
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
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-o",
        str(library),
        str(HERE / "shim.c"),
        "-lpthread",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return library if done.returncode == 0 else None
