"""dclab has nothing to say against the recording of the demonstration."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcwrite.simulate import SimulationSettings
from dcwrite.tools.demo import run_demo

from .judge import PEER_REASON

check = pytest.importorskip("dclab.rtdc_dataset.check", reason=PEER_REASON)

pytestmark = pytest.mark.peer


def test_demo(tmp_path: Path) -> None:
    path = tmp_path / "demo.rtdc"
    run_demo(path, SimulationSettings(frames=1500), workers=2)
    violations, alerts, _ = check.check_dataset(path)
    assert violations == []
    assert alerts == []
