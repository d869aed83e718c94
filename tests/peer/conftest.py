"""Recordings that the judges share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

#: Names in the folder of real recordings.
REAL = [
    "fmt-hdf5_cytoshot_full-features_2023",
    "fmt-hdf5_shapein_raw-with-variable-length-logs",
    "fmt-hdf5_shapein_empty",
    "fmt-hdf5_fl_wide-channel_2023",
    "fmt-hdf5_fl_2018",
    "example_video.rtdc",
]


@pytest.fixture(scope="session")
def simulated_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a simulated recording; it must not be changed."""
    from tests.peer.judge import simulated_file

    return simulated_file(tmp_path_factory.mktemp("simulated") / "simulated.rtdc")


@pytest.fixture(
    params=["simulated", *(pytest.param(name, marks=pytest.mark.shared_data) for name in REAL)]
)
def source(request: pytest.FixtureRequest) -> Path:
    """Return a recording, simulated or real."""
    if request.param == "simulated":
        path: Path = request.getfixturevalue("simulated_path")
        return path
    fetch: Callable[[str], Path] = request.getfixturevalue("recording_path")
    return fetch(request.param)
