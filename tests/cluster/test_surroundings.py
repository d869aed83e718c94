"""What may be missing around a run: the library, file locks; and what tells runs apart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcwrite.cluster.connect import connected, local_workers
from dcwrite.cluster.fingerprint import fingerprint
from dcwrite.cluster.pieces import cuts, require_visible, unit_of
from dcwrite.errors import StorageError, UsageError

from .conftest import ROOT
from .made_up import MadeUp


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


# -- the library ------------------------------------------------------------------------------


def test_nothing_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, dcwrite, dcwrite.cluster, dcwrite.cli.verify\n"
        "print([name for name in sys.modules if name.split('.')[0] in {'dask', 'distributed'}])"
    )
    result = run(code)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_without_the_library(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['dask'] = sys.modules['distributed'] = None\n"
        "import dcwrite.cluster\n"
        "from dcwrite.cli import main\n"
        "main(['verify', '--cluster', 'local:2', 'a.rtdc'])"
    )
    result = run(code)
    assert result.returncode == 2
    assert result.stderr == (
        "Error: working on a cluster needs the library 'distributed', which is not installed; "
        "install it with: pip install 'dcwrite[cluster]'\n"
    )


@pytest.mark.parametrize("cluster", ["local:0", "local:", "local:2000", "slurm:4", "4"])
def test_clusters_that_are_none(cluster: str) -> None:
    with pytest.raises(UsageError, match="expected local:N with 1 to 1024 processes"):
        local_workers(cluster)


def test_one_cluster() -> None:
    assert local_workers("local:3") == 3
    with pytest.raises(UsageError, match="neither or both"), connected():
        pass


# -- file locks -------------------------------------------------------------------------------


def test_a_file_system_without_locks(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler, or not Linux")
    library = tmp_path / "no_locks.so"
    source = Path(__file__).with_name("no_locks.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    code = (
        "import json, logging, sys\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from dcwrite import verify\n"
        "from dcwrite.cluster import write_recording\n"
        "from tests.cluster.made_up import MadeUp\n"
        "logging.basicConfig()\n"
        "with ThreadPoolExecutor(1) as executor:\n"
        "    summary = write_recording(\n"
        "        'out.rtdc', 20, MadeUp(), executor, frames_per_range=10\n"
        "    )\n"
        "print(json.dumps([summary.has_locks, summary.n_events, verify('out.rtdc').exit_code]))"
    )
    (tmp_path / "work").mkdir()
    result = run(f"import os; os.chdir({str(tmp_path / 'work')!r})\n{code}",
                 LD_PRELOAD=str(library), PYTHONFAULTHANDLER="")  # fmt: skip
    assert result.returncode == 0, result.stderr
    n_events = sum(map(MadeUp().n_events, range(20)))
    assert json.loads(result.stdout) == [False, n_events, 0]
    said = [line for line in result.stderr.splitlines() if "file locks" in line]
    assert len(said) == 2  # one for each folder
    assert "out.shards': the file system has no file locks (No locks available)" in said[0]
    assert "HDF5_USE_FILE_LOCKING=FALSE" in said[0]


# -- shared file systems ----------------------------------------------------------------------


def test_a_file_that_never_shows_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcwrite.cluster.pieces.VISIBLE_AFTER_S", 0.01)
    monkeypatch.setattr("dcwrite.cluster.pieces.LOOK_PERIOD_S", 0.01)
    path = tmp_path / "shard.rtdc"
    with pytest.raises(StorageError, match="expected a file of 3 bytes"):
        require_visible(path, 3)
    path.write_bytes(b"ab")
    with pytest.raises(StorageError, match="the same one on all machines"):
        require_visible(path, 3)
    path.write_bytes(b"abc")
    require_visible(path, 3)


# -- where a recording is cut -----------------------------------------------------------------

IMAGES: dict[str, Any] = {
    "image": ((80, 320), "uint8"),  # 40 events per chunk
    "mask": ((80, 320), "uint8"),
    "deform": ((), "float64"),  # 1000
}


@pytest.mark.parametrize(
    ("features", "n_events", "n_parts", "expected"),
    [
        ({}, 0, 3, []),
        ({"contour": ((), "contour")}, 10, 3, [0, 4, 8]),
        (IMAGES, 100, 4, [0, 40, 80]),  # the images' chunks come first
        (IMAGES, 10_000, 10, [*range(0, 10_000, 1000)]),  # chunks of all features
        (IMAGES, 10, 4, [0]),
        ({"deform": ((), "float64")}, 2500, 100, [0, 1000, 2000]),
    ],
)
def test_cuts(features: dict[str, Any], n_events: int, n_parts: int, expected: list[int]) -> None:
    found = cuts(features, n_events, n_parts)
    assert [piece.start for piece in found] == expected
    assert [frame for piece in found for frame in piece] == list(range(n_events))


def test_a_unit_that_fits_all_is_not_too_large() -> None:
    features = {"image": ((96, 300), "uint8"), "deform": ((), "float64")}  # 36 events and 1000
    assert unit_of(features, 100) == 36
    assert unit_of(features, 9000) == 9000


# -- what tells runs apart --------------------------------------------------------------------

NUMBER = 3


def plain(frames: range) -> Any:
    return [(frame, None) for frame in frames]


def other(frames: range) -> Any:
    return [(frame, {}) for frame in frames]


class Holder:
    """An object with state that is a set, an array, and itself."""

    def __init__(self, number: int) -> None:
        self.names = {f"name {ii}" for ii in range(9)}
        self.data = np.arange(number)
        self.me = self

    def method(self, frames: range) -> Any:
        return plain(frames)


def closure(number: int) -> Any:
    return lambda frames: [(frame, None) for frame in frames if number]


def all_functions() -> dict[str, Any]:
    return {
        "plain": plain,
        "other": other,
        "partial": partial(plain, 1),
        "partial 2": partial(plain, 2),
        "keyword": partial(plain, a=2),
        "closure": closure(1),
        "closure 2": closure(2),
        "made up": MadeUp(),
        "made up 2": MadeUp(most=5),
        "method": Holder(3).method,
        "method 2": Holder(4).method,
        "builtin": len,
        "class": dict,
        "refers": refers,
        **{f"lambda {n}": f for n, f in enumerate([lambda frames: 1, lambda frames: frames])},
    }


def refers(frames: range) -> Any:
    return [helper(frame) for frame in frames]


def helper(frame: int) -> Any:
    return (frame, LIMITS) if frame else refers(range(frame))


LIMITS = {"area": (10.0, 20.0), "names": {"a", "b"}, "where": Path("here")}


def test_fingerprints_differ() -> None:
    found = {name: fingerprint(function) for name, function in all_functions().items()}
    assert len(set(found.values())) == len(found)


def test_fingerprints_see_what_a_module_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    was = fingerprint(refers)
    monkeypatch.setattr(sys.modules[__name__], "LIMITS", {**LIMITS, "area": (10.0, 21.0)})
    limits = fingerprint(refers)
    monkeypatch.setattr(sys.modules[__name__], "helper", other)
    assert len({was, limits, fingerprint(refers)}) == 3


def test_fingerprints_of_functions_without_a_source() -> None:
    def made(constant: int, place: int) -> Any:
        names = {"__name__": "typed", "CONSTANT": constant}
        exec(f"def process(frames):\n    return [(f + {place}, CONSTANT) for f in frames]", names)
        return names["process"]

    assert fingerprint(made(1, 2)) == fingerprint(made(1, 2))
    assert len({fingerprint(made(*numbers)) for numbers in [(1, 2), (1, 3), (2, 2)]}) == 3


def test_fingerprints_do_not_read_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.memmap(tmp_path / "large", np.uint8, "w+", shape=(7,))
    monkeypatch.setattr(sys.modules[__name__], "LIMITS", data)
    was = fingerprint(refers)
    data[:] = 1
    assert fingerprint(refers) == was
    monkeypatch.setattr(sys.modules[__name__], "LIMITS", data.copy().view(np.ndarray))
    assert fingerprint(refers) != was


def test_fingerprints_are_the_same_in_other_processes() -> None:
    code = (
        "import json\n"
        "from tests.cluster.test_surroundings import all_functions, fingerprint\n"
        "print(json.dumps({k: fingerprint(v) for k, v in all_functions().items()}))"
    )
    here = {name: fingerprint(function) for name, function in all_functions().items()}
    for seed in ("1", "2"):
        result = run(code, PYTHONHASHSEED=seed)
        assert json.loads(result.stdout) == here, result.stderr
