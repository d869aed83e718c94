"""Each call on the disk fails once, or from then on: our error, a clean end, nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import Spec, Trial

CODES = ["ENOSPC", "EIO", "EDQUOT", "EFBIG"]
Trials = Callable[..., list[Trial]]


@pytest.mark.parametrize(("mode", "first"), [("once", 1), ("from then on", 2), ("short", 3)])
def test_stream(mode: str, first: int, trials: Trials, shim: Path) -> None:
    spec = Spec(n_frames=120, threshold=40)
    options = {"modes": [mode], "codes": CODES, "first": first, "step": 4}
    found = trials("fail_sweep", spec, shim=shim, **options)
    assert {trial.error for trial in found} <= {"StorageError", None}


@pytest.mark.parametrize(
    "spec",
    [
        Spec(kind="append", n_frames=200, threshold=100),
        Spec(kind="gzip", n_frames=120, threshold=40),
        Spec(n_frames=120, threshold=20, replace_bytes=30_000, durability="power"),
        Spec(n_frames=120, threshold=40, live=True),
    ],
    ids=["append", "gzip", "replaced journal", "live"],
)
def test_other_streams(spec: Spec, trials: Trials, shim: Path) -> None:
    trials("fail_sweep", spec, shim=shim, modes=["from then on"], codes=CODES, step=8)


def test_writer(trials: Trials, shim: Path) -> None:
    spec = Spec(kind="writer", n_frames=160, threshold=50)
    found = trials(
        "fail_sweep", spec, shim=shim, modes=["once", "from then on"], codes=CODES, step=3
    )
    assert "StorageError" in {trial.error for trial in found}
