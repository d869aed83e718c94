"""Power cuts, replayed from the recorded writes of a run with durability="power"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import Spec, Trial

Trials = Callable[..., list[Trial]]


@pytest.mark.parametrize(
    "spec",
    [
        Spec(n_frames=200, threshold=20, durability="power"),
        Spec(n_frames=200, threshold=20, durability="power", replace_bytes=100_000),
        Spec(n_frames=500, threshold=13, durability="power", sync_interval_s=0.05),
        Spec(kind="append", n_frames=200, threshold=50, durability="power"),
    ],
    ids=["plain", "replaced journal", "sync now and then", "append"],
)
def test_replayed(spec: Spec, trials: Trials, shim: Path) -> None:
    found = trials("replay_sweep", spec, shim=shim, power_cuts=12, seed=1, step=8)
    assert {trial.what for trial in found} == {"kill", "power cut"}
