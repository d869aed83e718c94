"""Run as a module: does the series of trials that its argument names, one line of JSON each."""

from __future__ import annotations

import gc
import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path

from .bad_ends import fail_sweep, full_disk, kills, recover_kills, replay_sweep
from .looks import bit_flips, fuzz, hostile_files
from .process_kills import process_kills
from .small_stream import Spec, expected, frames

SERIES = {
    series.__name__: series
    for series in (
        bit_flips, fail_sweep, full_disk, fuzz, hostile_files, kills, process_kills,
        recover_kills, replay_sweep,
    )
}  # fmt: skip


def main() -> None:
    """Do the series of trials that is told in the first argument."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    task = json.loads(sys.argv[1])
    spec = Spec(**task["spec"])
    frames(spec)
    expected(spec)
    gc.collect()
    gc.freeze()
    for trial in SERIES[task["name"]](spec, Path(task["folder"]), **task["options"]):
        sys.stdout.write(json.dumps(asdict(trial)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
