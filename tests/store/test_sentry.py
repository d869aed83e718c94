"""Files on which HDF5 hangs or crashes, opened by who reads them in his own process."""

from __future__ import annotations

import base64
import faulthandler
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

import dcwrite
from dcwrite.errors import DamagedFileError
from dcwrite.store import sentry, sentry_process

from .test_contained import HANGS


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A sentry that has seen nothing."""
    monkeypatch.setattr(sentry, "_seen", {})
    monkeypatch.setattr(sentry, "_is_off", False)
    yield
    sentry.relieve()


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    path = tmp_path / "hangs.rtdc"
    path.write_bytes(zlib.decompress(base64.b85decode("".join(HANGS.split()))))
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "run.rtdc"
    with dcwrite.HDF5Writer(path, mode="x", event_count=True) as writer:
        writer.store_feature_chunk("deform", np.arange(3000.0))
        writer.store_log("a log", ["some", "lines"])
    return path


@pytest.mark.parametrize(
    "look",
    [
        dcwrite.Recording,
        lambda path: dcwrite.copy_recording(path, path.with_name("out.rtdc")),
        lambda path: dcwrite.join([path, path], path.with_name("out.rtdc")),
    ],
    ids=["Recording", "copy", "join"],
)
def test_a_file_on_which_hdf5_hangs(
    hanging: Path, look: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends in bounded time with our error, and nothing is written."""
    monkeypatch.setattr(sentry, "HANG_S", 2.0)
    content = hanging.read_bytes()
    with pytest.raises(dcwrite.DCWriteError, match="HDF5 does not come back"):
        look(hanging)
    assert list(hanging.parent.iterdir()) == [hanging]
    assert hanging.read_bytes() == content


def test_verify_says_so(hanging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentry, "HANG_S", 2.0)
    report = dcwrite.verify(hanging)
    assert report.unreadable
    assert "HDF5 does not come back" in report.findings[0].message


def test_it_works_again_after_a_hang(
    hanging: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentry, "HANG_S", 2.0)
    with pytest.raises(DamagedFileError):
        dcwrite.Recording(hanging)
    with dcwrite.Recording(recording) as opened:
        assert len(opened["deform"]) == 3000


def test_a_crash(recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process crashes while it looks at a file."""
    script = tmp_path / "crashes.py"
    script.write_text("import os, sys\nos.write(1, b'+')\nsys.stdin.readline()\nos.abort()\n")
    with monkeypatch.context() as patch:
        patch.setattr(sentry, "_SCRIPT", script)
        for _ in range(2):  # what is known is not tried again
            with pytest.raises(DamagedFileError, match=r"crashed on this file \(exit code -6"):
                dcwrite.Recording(recording)
    other = shutil.copy(recording, recording.with_name("other.rtdc"))
    with dcwrite.Recording(other):  # a new one
        assert sentry.sentry_pid() is not None


def test_a_file_is_looked_at_once_until_it_changes(recording: Path) -> None:
    with dcwrite.Recording(recording):
        pass
    pid = sentry.sentry_pid()
    sentry.relieve()
    with dcwrite.Recording(recording):
        assert sentry.sentry_pid() is None  # nobody asked
    with dcwrite.HDF5Writer(recording, mode="a") as writer:
        writer.store_feature_chunk("deform", np.ones(1))
    with dcwrite.Recording(recording):
        assert sentry.sentry_pid() not in {None, pid}


def test_a_file_that_is_open_here_is_not_looked_at(recording: Path) -> None:
    with h5py.File(recording, "a") as h5:
        h5.attrs["setup:channel width"] = 20.0
        with dcwrite.Recording(recording) as opened:
            assert opened.metadata["setup:channel width"] == 20.0
        assert sentry.sentry_pid() is None


def test_it_ends_with_its_program(recording: Path) -> None:
    """Also if that is killed."""
    code = (
        f"import dcwrite, os\nfrom dcwrite.store import sentry\n"
        f"dcwrite.Recording({str(recording)!r}).close()\n"
        f"print(sentry.sentry_pid(), flush=True)\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    _wait_for_the_end_of(int(done.stdout))


def _wait_for_the_end_of(pid: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return
        if stat.rpartition(")")[2].split()[0] == "Z":
            return
    raise AssertionError("the sentry's process is still there")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_has_its_own(recording: Path) -> None:
    with dcwrite.Recording(recording):
        pass
    other = Path(shutil.copy(recording, recording.with_name("other.rtdc")))
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            with dcwrite.Recording(other):
                os.write(write, json.dumps(sentry.sentry_pid()).encode())
            sentry.relieve()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert json.loads(os.read(read, 100)) != sentry.sentry_pid()
    os.close(read)
    os.close(write)


def test_one_that_cannot_start_says_nothing_of_files(
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An interpreter that does not find h5py: the file is not what is wrong."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "h5py.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    with dcwrite.Recording(recording) as opened:
        assert len(opened["deform"]) == 3000
    assert sentry.sentry_pid() is None
    assert "does it find h5py?" in caplog.text


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_one_that_somebody_kills_says_nothing_of_files(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "is_killed.py"
    once = tmp_path / "once"
    script.write_text(
        f"import os, pathlib, sys\nos.write(1, b'+')\nsys.stdin.readline()\n"
        f"if pathlib.Path({str(once)!r}).exists():\n    os.write(1, b'!')\n"
        f"else:\n    pathlib.Path({str(once)!r}).touch()\n    os.kill(os.getpid(), 9)\n"
    )
    monkeypatch.setattr(sentry, "_SCRIPT", script)
    with dcwrite.Recording(recording):
        assert once.exists()  # a second one was asked
    script.write_text(
        "import os, sys\nos.write(1, b'+')\nsys.stdin.readline()\nos.kill(os.getpid(), 15)\n"
    )
    monkeypatch.setattr(sentry, "_seen", {})
    sentry.relieve()
    with pytest.raises(DamagedFileError, match=r"killed twice .*exit code -15.*try again"):
        dcwrite.Recording(recording)
    assert not sentry._seen  # it may be right the next time


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_it_is_not_in_the_programs_group(recording: Path) -> None:
    """Ctrl-C, or a terminal that is closed, is not for it."""
    with dcwrite.Recording(recording):
        pid = sentry.sentry_pid()
        assert pid is not None
        assert os.getpgid(pid) != os.getpgid(0)


def test_from_within_h5py(recording: Path) -> None:
    """A callback of h5py's has its lock; another thread asks the sentry meanwhile."""
    names = [shutil.copy(recording, recording.with_name(f"{i}.rtdc")) for i in range(8)]

    def look(which: list[str]) -> None:
        for name in which:
            dcwrite.Recording(name).close()

    with h5py.File(recording) as h5:
        threads = [
            threading.Thread(target=h5.visit, args=(lambda _name: look(names),), daemon=True),
            threading.Thread(target=look, args=(names[::-1],), daemon=True),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("name", ["a b.rtdc", "ä.rtdc", "two\nlines.rtdc", '"quoted\\.rtdc'])
def test_odd_names(recording: Path, name: str) -> None:
    if os.name == "nt" and not name[0].isalpha():
        pytest.skip("no such names")
    try:
        path = recording.rename(recording.with_name(name))
    except OSError:
        pytest.skip("no such names")
    with dcwrite.Recording(path) as opened:
        assert len(opened) == 3000
    assert list(sentry._seen.values()) == [None]


def test_without_an_interpreter(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a program that has Python in it, `sys.executable` may be that program."""
    monkeypatch.setattr(sys, "executable", "/opt/some program")
    assert not sentry.has_interpreter()
    monkeypatch.setattr(sentry, "_is_off", True)
    with dcwrite.Recording(recording) as opened:
        assert len(opened) == 3000
    assert sentry.sentry_pid() is None


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_an_index_of_many_chunks(tmp_path: Path, libver: str) -> None:
    """All are gone through, and no more than the shape allows."""
    path = tmp_path / "many.rtdc"
    with h5py.File(path, "w", libver=libver) as h5:
        h5.create_dataset("events/image", data=np.ones((40, 7, 7), "u1"), chunks=(1, 3, 3))
    walk = sentry_process.Walk(60, sys.stderr)
    try:
        walk.go(os.fspath(path))
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert walk._n_left == 0
    assert walk._pass(None) is True


@pytest.mark.skipif(os.name == "nt", reason="needs a limit for the size of files")
def test_after_a_writer_whose_disk_was_full(recording: Path, tmp_path: Path) -> None:
    """HDF5 crashes when it is asked anything of a file whose closing failed."""
    code = """if True:
        import resource, sys
        import numpy as np
        import dcwrite
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
        try:
            with dcwrite.HDF5Writer(sys.argv[1], mode="x", compression="none") as writer:
                for _ in range(9):
                    writer.store_feature_chunk("image", np.zeros((100, 80, 90), np.uint8))
                    writer.store_feature_chunk("deform", np.zeros(100))
        except dcwrite.StorageError as exc:
            print(exc.errno)
        with dcwrite.Recording(sys.argv[2]) as opened:
            print(len(opened))
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "full.rtdc"), str(recording)],
        capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (0, ["27", "3000"]), done.stderr


def test_a_file_that_is_only_held_to_be_read_is_looked_at(recording: Path) -> None:
    with recording.open("rb"), dcwrite.Recording(recording):
        assert sentry.sentry_pid() is not None
