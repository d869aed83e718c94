"""What the crash tests share: the shim, and series of trials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .harness import Spec, Trial, build_shim, campaign, problems


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shim.c, compiled; skips where it cannot be."""
    library = build_shim(tmp_path_factory.mktemp("shim"))
    if library is None:
        pytest.skip("no C compiler, or not Linux with glibc: calls cannot be made to fail")
    return library


@pytest.fixture
def trials(tmp_path: Path) -> Callable[..., list[Trial]]:
    """Run a series of trials; fails with one line for each that was not as promised."""

    def run(name: str, spec: Spec, **options: Any) -> list[Trial]:
        found = campaign(name, spec, tmp_path / "work", timeout_s=110, **options)
        bad = problems(found)
        assert not bad, f"{len(bad)} of {len(found)} trials, options {options}:\n" + "\n".join(bad)
        assert found
        return found

    return run
