"""The leak check finds what it is there for: a suite of leaking tests runs in its own pytest."""

from __future__ import annotations

import textwrap
from pathlib import Path

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]

#: Each leak stays until the end of the module, that is behind the leak check of its test.
HEAD = """
    import contextlib, gc, multiprocessing, os, subprocess, sys, threading
    from multiprocessing.shared_memory import SharedMemory

    import h5py
    import pytest

    @pytest.fixture(scope="module")
    def later():
        with contextlib.ExitStack() as stack:
            yield stack.callback
"""

LEAKS = {
    "thread": """
        go = threading.Event()
        thread = threading.Thread(target=go.wait, name="left-thread")
        thread.start()
        later(thread.join)
        later(go.set)
    """,
    "child process": """
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        later(child.communicate, b"end")
    """,
    "child process not waited for": """
        pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", ""])
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        later(os.waitpid, pid, 0)
    """,
    "spawned process": """
        context = multiprocessing.get_context("spawn")
        go = context.Event()
        child = context.Process(target=go.wait)
        child.start()
        later(child.join)
        later(go.set)
    """,
    "shared memory": """
        segment = SharedMemory(create=True, size=64)
        segment.close()
        later(segment.unlink)
    """,
    "shared memory of ours": """
        segment = SharedMemory(name=f"dcwrite-left-{os.getpid()}", create=True, size=64)
        later(segment.unlink)
        later(segment.close)
    """,
    "HDF5 file": """
        file = h5py.File(tmp_path / "left.h5", "w")
        later(file.close)
    """,
    "HDF5 dataset": """
        with h5py.File(tmp_path / "left.h5", "w") as file:
            file["values"] = [1, 2, 3]
        file = h5py.h5f.open(bytes(tmp_path / "left.h5"))
        dataset = h5py.h5d.open(file, b"values")
        del file
        later(lambda dataset: None, dataset)
    """,
}

NO_LEAKS = {
    "ended": """
        thread = threading.Thread(target=lambda: None)
        thread.start()
        subprocess.run([sys.executable, "-c", ""], check=True)
        segment = SharedMemory(create=True, size=64)
        segment.close()
        segment.unlink()
        h5py.File(tmp_path / "closed.h5", "w").close()
    """,
    "queue": """
        queue = multiprocessing.get_context("spawn").Queue()
        queue.put(1)
        assert queue.get() == 1
    """,
    "cycle": """
        cycle = [h5py.File(tmp_path / "cycle.h5", "w")]
        cycle.append(cycle)
    """,
}


def run_suite(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    bodies: dict[str, str],
    decorator: str = "",
) -> pytest.RunResult:
    source = HEAD
    for number, body in enumerate(bodies.values()):
        source += f"\n    {decorator}\n    def test_{number}(later, tmp_path):\n{body}"
    pytester.makepyfile(textwrap.dedent(source))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return pytester.runpytest_subprocess("-p", "tests.leaks", "-p", "no:cacheprovider", "-rA")


def test_every_leak_fails_its_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_suite(pytester, monkeypatch, LEAKS)
    result.assert_outcomes(passed=len(LEAKS), errors=len(LEAKS))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*thread: <Thread(left-thread, *"])
    result.stdout.fnmatch_lines(["*child process: * -c input()*"])
    result.stdout.fnmatch_lines(["*child process: * (not waited for)"])
    result.stdout.fnmatch_lines(["*child process: *spawn_main*"])
    result.stdout.fnmatch_lines(["*shared memory: psm_*"])
    result.stdout.fnmatch_lines(["*shared memory: dcwrite-left-*"])
    result.stdout.fnmatch_lines(["*HDF5 handle: FileID * of *left.h5"])
    result.stdout.fnmatch_lines(["*HDF5 handle: DatasetID /values of *left.h5"])


def test_what_ended_is_no_leak(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_suite(pytester, monkeypatch, NO_LEAKS)
    result.assert_outcomes(passed=len(NO_LEAKS))


def test_a_leak_with_a_reason_is_allowed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = '@pytest.mark.leaks_allowed(reason="the peer keeps its file open")'
    pytester.makeini("[pytest]\nmarkers = leaks_allowed(reason)")
    result = run_suite(pytester, monkeypatch, {"file": LEAKS["HDF5 file"]}, mark)
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("mark", ["leaks_allowed", 'leaks_allowed(reason="")'])
def test_a_leak_without_a_reason_is_not(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    pytester.makeini("[pytest]\nmarkers = leaks_allowed(reason)")
    result = run_suite(pytester, monkeypatch, {"none": "        pass\n"}, f"@pytest.mark.{mark}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*with the reason*"])


def test_a_failed_test_is_reported_once(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"{LEAKS['HDF5 file'].rstrip()}\n        assert not file\n"
    result = run_suite(pytester, monkeypatch, {"failed": body})
    result.assert_outcomes(failed=1)


@settings(max_examples=3)
@given(value=st.integers())
def test_hypothesis_is_deterministic_and_works_with_the_leak_check(value: int) -> None:
    assert settings().derandomize
    assert settings().print_blob
    assert settings().deadline is None


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "n_images"),
    [
        ("fmt-hdf5_fl_2018", 7),
        ("fmt-hdf5_cytoshot_full-features_2023.zip", 40),
        ("example_video.rtdc", 10),
    ],
)
def test_a_real_recording_is_a_writable_copy(recording_path, name: str, n_images: int) -> None:
    with h5py.File(recording_path(name), "r+") as file:
        assert len(file["events/image"]) == n_images


def test_real_recordings_need_the_marker(request: pytest.FixtureRequest) -> None:
    with pytest.raises(pytest.fail.Exception, match="carries the marker"):
        request.getfixturevalue("shared_data_dir")
