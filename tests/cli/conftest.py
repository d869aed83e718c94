"""A recording that the tests of the command line read and never change."""

from __future__ import annotations

from pathlib import Path

import pytest

from .command import make_recording


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a small recording; do not change it."""
    return make_recording(tmp_path_factory.mktemp("recording") / "small.rtdc")
