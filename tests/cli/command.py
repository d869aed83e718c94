"""How the tests of the command line run it, and the recording that they run it on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from dcwrite import HDF5Writer
from dcwrite.simulate import SimulatedRecording, SimulationSettings

__all__ = ["Running", "dcwrite", "make_recording"]

COMMAND = (sys.executable, "-m", "dcwrite")
TIMEOUT_S = 60


def dcwrite(
    *args: object, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, args)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def _heed_interrupts() -> None:
    """A shell that runs the tests in the background has Ctrl-C ignored, and passes that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Running:
    """A command that runs in a process group of its own, like one that was typed in a shell."""

    def __init__(self, *args: object, cwd: Path, stdout: int = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, args)],
            cwd=cwd,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_heed_interrupts if os.name == "posix" else None,  # noqa: PLW1509
        )

    def wait_for(self, pattern: str) -> str:
        """Read stderr up to a line that matches."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if re.search(pattern, line):
                return line
        raise AssertionError(f"it ended without a line that matches {pattern!r}")

    def interrupt(self, number: signal.Signals) -> None:
        """Send a signal to the whole group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def spawned(self) -> list[int]:
        """Process ids of the writer and the workers, in the order in which they were started."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                command = (folder / "cmdline").read_text()
            except OSError:
                continue  # it ended meanwhile
            if int(parent) == self.process.pid and "spawn_main" in command:
                found.append(int(folder.name))
        return sorted(found)

    def finish(self) -> tuple[int, str]:
        """Exit code, and what it still said on stderr.

        The pipes are read to their ends, which come when the last process of the group has ended.
        """
        try:
            _, err = self.process.communicate(timeout=TIMEOUT_S)
        except BaseException:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            raise
        return self.process.returncode, err


def make_recording(path: Path, frames: int = 60) -> Path:
    """A small simulated recording with metadata, a log, a table and an internal basin."""
    simulated = SimulatedRecording(SimulationSettings(frames=frames, image_shape=(48, 96)))
    with HDF5Writer(path, mode="x", event_count=True, scalar_attributes=True) as writer:
        for frame in range(frames):
            for feat, data in (simulated.frame_events(frame) or {}).items():
                writer.store_feature_chunk(feat, data)
        writer.store_metadata({**simulated.metadata(), "user:ratio": float("nan")})
        writer.store_log("notes", ["first line", "zweite Zeile: \u00b5m\u00b2 \u2192 \u2713"])
        writer.store_table("pressures", {"time": np.arange(3.0), "mbar": np.arange(3)})
        n_events = len(writer.h5["events/deform"])
        writer.store_basin(
            "light",
            internal_data={"userdef1": np.array([0.5, 0.25])},
            mapping=np.arange(n_events) % 2,
        )
    return path
