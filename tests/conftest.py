"""What all tests share: the leak check, Hypothesis profiles, the real recordings."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["tests.leaks"]
# before anything imports it, whichever folder is collected first
pytest.register_assert_rewrite("tests.peer.judge")

#: Real recordings; they stay outside the repository.
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

# Deterministic everywhere: a failure is a failure of the change, not of the draw. No deadline,
# because a shared machine stalls. Another profile is chosen with --hypothesis-profile.
for profile in ("default", "ci"):
    settings.register_profile(profile, derandomize=True, print_blob=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def shared_data_dir(request: pytest.FixtureRequest) -> Path:
    """Return the folder of real recordings (read-only), or skip the test."""
    if request.node.get_closest_marker("shared_data") is None:
        pytest.fail("a test that uses real recordings carries the marker `shared_data`")
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real recordings: the folder {SHARED_DATA} is missing")
    return SHARED_DATA


@pytest.fixture
def recording_path(shared_data_dir: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that puts a writable copy of one real recording into `tmp_path`.

    It takes the file's name in the shared folder, the ending `.zip` may be left out, and returns
    the path of the .rtdc file.
    """

    def fetch(name: str) -> Path:
        source = shared_data_dir / name
        if source.suffix == ".rtdc":
            return Path(shutil.copyfile(source, tmp_path / name))
        with zipfile.ZipFile(source.with_name(f"{name.removesuffix('.zip')}.zip")) as archive:
            (member,) = (info for info in archive.infolist() if info.filename.endswith(".rtdc"))
            return Path(archive.extract(member, tmp_path))

    return fetch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests with Dask last: its threads stay, and some tests count threads."""
    items.sort(key=lambda item: item.path.parent.name == "cluster")
