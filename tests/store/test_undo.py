"""Undo files: what a file had is kept while it is added to in place."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import dcwrite
from dcwrite.store.recover_undo import missing_of_before, open_undone
from dcwrite.store.stream_file import StreamFile
from dcwrite.store.undo import Undo, keeping, undo_of, undo_path
from dcwrite.store.undo_file import UndoneFile

N_EVENTS = 1234


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A recording with full chunks and chunks that are not, texts, traces and contours."""
    path = tmp_path / "run.rtdc"
    with dcwrite.HDF5Writer(path, mode="x") as writer:
        rng = np.random.default_rng(5)
        writer.store_feature_chunk("deform", rng.random(N_EVENTS))
        writer.store_feature_chunk("image", rng.integers(0, 255, (150, 80, 90), np.uint8))
        writer.store_feature_chunk("trace", {"fl1_raw": rng.integers(0, 9, (50, 30), np.int16)})
        writer.store_feature_chunk("contour", [np.arange(6).reshape(3, 2)] * 3)
        writer.store_log("a log", ["some", "lines"])
        writer.store_metadata({"setup:channel width": 20.0})
    return path


def _digest(file: object) -> str:
    return hashlib.sha256(file.read()).hexdigest()  # type: ignore[attr-defined]


def _before(path: Path) -> bytes:
    with UndoneFile(path, undo_path(path)) as file:
        return file.readall()


@pytest.mark.parametrize("kind", ["path", "foreign", "foreign latest"])
def test_gives_the_bytes_of_before(path: Path, kind: str) -> None:
    with h5py.File(path, "a", libver="latest" if kind.endswith("latest") else None) as h5:
        obj = path if kind == "path" else h5
        if kind == "path":
            h5.close()
        else:
            h5.flush()
        original = path.read_bytes()
        with dcwrite.HDF5Writer(obj, mode="a") as writer:
            undo = undo_path(path)
            assert undo.stat().st_size < len(original) - 100 * 80 * 90  # full chunks are not in it
            writer.store_feature_chunk("deform", np.ones(3000))
            writer.store_feature_chunk("image", np.ones((500, 80, 90), np.uint8))
            writer.store_log("a log", ["other"] * 1000, override=True)
            writer.store_metadata({"setup:channel width": 30.0})
            writer.flush()
            assert path.read_bytes() != original
            before = _before(path)
            if kind == "path":  # HDF5 marks a file of the new format when it opens it
                before = (
                    before[:11] + original[11:12] + before[12:44] + original[44:48] + before[48:]
                )
            assert before == original
            with open_undone(path, undo) as old:
                assert old["events/deform"].shape == (N_EVENTS,)
                assert old["events/image"][149].shape == (80, 90)
                assert old.attrs["setup:channel width"] == 20
        assert not undo.exists()
    assert not list(path.parent.glob("*.undo*"))


def test_of_a_plain_file(path: Path) -> None:
    """Contiguous data of somebody else: they stay where they are, the rest is in the undo file."""
    with h5py.File(path, "w") as h5:
        h5["events/deform"] = np.arange(100_000.0)
        h5.create_dataset("events/area_um", data=np.arange(5.0), maxshape=(None,), chunks=(3,))
    with h5py.File(path, "a") as h5:
        h5.flush()  # HDF5 notes that the file is open
        original = path.read_bytes()
        with dcwrite.HDF5Writer(h5) as writer:
            assert undo_path(path).stat().st_size < 10_000
            writer.store_feature_chunk("area_um", np.arange(100.0))
            writer.flush()
            assert _before(path) == original


def test_with_a_user_block(path: Path) -> None:
    path.unlink()
    with h5py.File(path, "w", userblock_size=512) as h5:
        h5["events/deform"] = np.arange(10_000.0)
    with h5py.File(path, "a") as h5:
        h5.flush()
        original = path.read_bytes()
        with dcwrite.HDF5Writer(h5) as writer:
            writer.store_feature_chunk("area_um", np.arange(100.0))
            writer.flush()
            assert _before(path) == original


def test_writers_share_it(path: Path) -> None:
    original = path.read_bytes()
    with h5py.File(path, "a") as h5:
        first = dcwrite.HDF5Writer(h5)
        first.store_feature_chunk("deform", np.ones(10))
        with dcwrite.HDF5Writer(h5) as second:
            second.store_feature_chunk("area_um", np.ones(10))
        with keeping(h5):
            h5.attrs["setup:channel width"] = 1
        first.flush()
        assert _before(path)[48:] == original[48:]
        assert undo_of(path) is None  # it is in use
        first.close()
        assert not undo_path(path).exists()


def test_none_where_nothing_can_be_lost(tmp_path: Path) -> None:
    paths = [tmp_path / "new.rtdc", tmp_path / "x.rtdc.part"]
    with dcwrite.HDF5Writer(paths[0], mode="x") as writer:
        writer.store_feature_chunk("deform", np.ones(10))
    shutil.copy(paths[0], paths[1])
    with dcwrite.HDF5Writer(paths[1], mode="a"):
        assert sorted(tmp_path.iterdir()) == paths
    with h5py.File("memory", "w", driver="core", backing_store=False) as h5:
        h5["events/deform"] = np.ones(4)
        assert Undo.keep(h5, tmp_path / "memory") is None


def _killed(path: Path) -> None:
    """As if a program was killed: an undo file that nobody will remove."""
    with dcwrite.HDF5Writer(path, mode="a"):
        undo = undo_path(path)
        shutil.copy(undo, path.parent / "kept")
    (path.parent / "kept").rename(undo)


def test_what_a_killed_program_left_is_told(path: Path) -> None:
    _killed(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with h5py.File(path) as h5:
        assert len(h5["events/deform"]) == N_EVENTS
    for mode in ("a", "r+", "w"):
        with pytest.raises(dcwrite.StorageError, match=r"dcwrite recover run\.rtdc"):
            dcwrite.HDF5Writer(path, mode=mode)
    with h5py.File(path, "a") as h5, pytest.raises(dcwrite.StorageError, match="recover"):
        dcwrite.HDF5Writer(h5)
    report = dcwrite.verify(path)
    assert any("dcwrite recover" in finding.message for finding in report.findings)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


def test_recover_takes_what_is_whole(path: Path, tmp_path: Path) -> None:
    path.unlink()
    with dcwrite.HDF5Writer(path, mode="x") as writer:
        writer.store_feature_chunk("deform", np.arange(1500.0))
    _killed(path)
    with h5py.File(path, "a") as h5:
        h5["events/deform"].resize((1700,))
        h5["events/deform"][1500:] = 7
    report = dcwrite.recover(undo_path(path), tmp_path / "out.rtdc")
    assert (report.way, report.n_events, report.exit_code) == ("scan", 1700, 0)


@pytest.mark.parametrize("how", ["overwritten", "shorter", "a log is gone", "a feature is gone"])
def test_recover_goes_back_where_something_is_missing(
    path: Path, tmp_path: Path, how: str
) -> None:
    path.unlink()
    with dcwrite.HDF5Writer(path, mode="x") as writer:
        writer.store_feature_chunk("deform", np.arange(1500.0))
        writer.store_feature_chunk("area_um", np.arange(1500.0))
        writer.store_log("a log", ["some", "lines"])
    with dcwrite.HDF5Writer(path, mode="a"):
        shutil.copy(undo_path(path), tmp_path / "kept")
    with h5py.File(path, "a") as h5:
        if how == "overwritten":
            h5["events/deform"][1400] = -1
        elif how == "shorter":
            h5["events/deform"].resize((1400,))
        elif how == "a log is gone":
            del h5["logs/a log"]
        else:
            del h5["events/area_um"]  # the file becomes shorter: its end is in the undo file only
    (tmp_path / "kept").rename(undo_path(path))
    report = dcwrite.recover(path, tmp_path / "out.rtdc")
    assert (report.way, report.n_events, report.exit_code) == ("undo", 1500, 1)
    with dcwrite.Recording(tmp_path / "out.rtdc") as recording:
        np.testing.assert_array_equal(recording["deform"][:], np.arange(1500.0))
        np.testing.assert_array_equal(recording["area_um"][:], np.arange(1500.0))
        assert recording.logs["a log"] == ["some", "lines"]


@pytest.mark.parametrize("cut", [1, 30, 3000])
def test_an_undo_file_that_is_torn_is_told(path: Path, tmp_path: Path, cut: int) -> None:
    _killed(path)
    undo = undo_path(path)
    os.truncate(undo, undo.stat().st_size - cut)
    with pytest.raises(dcwrite.DamagedFileError, match="undo"):
        dcwrite.recover(path, tmp_path / "out.rtdc")
    assert not (tmp_path / "out.rtdc").exists()


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid"), reason="needs POSIX permissions"
)
def test_a_folder_that_may_not_be_written(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file may be: as before, but it is said."""
    if os.geteuid() == 0:
        undo_path(path).mkdir()  # who is root may write everywhere, but no file over a folder
        with h5py.File(path, "a") as h5, pytest.raises(dcwrite.StorageError, match="undo"):
            dcwrite.HDF5Writer(h5)
        return
    path.parent.chmod(0o500)
    try:
        with caplog.at_level(logging.WARNING), dcwrite.HDF5Writer(path, mode="a") as writer:
            writer.store_feature_chunk("deform", np.ones(3))
    finally:
        path.parent.chmod(0o700)
    assert "undo" in caplog.text


def test_a_file_that_was_moved_meanwhile(path: Path) -> None:
    with dcwrite.HDF5Writer(path, mode="a") as writer:
        writer.store_feature_chunk("deform", np.ones(3))
        path.rename(path.with_name("elsewhere.rtdc"))
    assert not undo_path(path).exists()
    with h5py.File(path.with_name("elsewhere.rtdc")) as h5:
        assert h5["events/deform"].shape == (N_EVENTS + 3,)


def test_an_error_of_the_caller_needs_no_undo(path: Path) -> None:
    with (
        pytest.raises(dcwrite.DataError),
        dcwrite.HDF5Writer(path, mode="a") as writer,
    ):
        writer.store_feature_chunk("deform", np.array(["x"]))
    assert not undo_path(path).exists()
    with pytest.raises(dcwrite.UsageError):
        dcwrite.HDF5Writer(path, mode="a", compression="archive", ds_kwds={"compression": "gzip"})
    assert not undo_path(path).exists()


def _run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    code = f"import os\nimport dcwrite, h5py\nimport numpy as np\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder
    )


@pytest.mark.parametrize("kind", ["path", "foreign"])
def test_the_working_folder_changes_meanwhile(
    path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's name is relative to a folder that is left, where another of its name is."""
    other = path.parent / "other"
    other.mkdir()
    shutil.copy(path, other / path.name)
    monkeypatch.chdir(path.parent)
    obj = h5py.File(path.name, "a") if kind == "foreign" else path.name
    writer = dcwrite.HDF5Writer(obj, mode="a") if kind == "path" else None
    monkeypatch.chdir(other)
    writer = writer or dcwrite.HDF5Writer(obj)
    assert undo_path(path).exists()
    writer.store_feature_chunk("deform", np.ones(3))
    writer.close()
    if isinstance(obj, h5py.File):
        obj.close()
    assert not list(path.parent.rglob("*.undo*"))


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be moved")
@pytest.mark.parametrize("how", ["renamed", "deleted"])
def test_a_file_that_was_moved_before(
    path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with h5py.File(path, "a") as h5:
        there = path.rename(path.with_name("elsewhere.rtdc"))
        if how == "deleted":
            there.unlink()
        with caplog.at_level(logging.WARNING), dcwrite.HDF5Writer(h5) as writer:
            kept = undo_path(there).exists()
            writer.store_feature_chunk("deform", np.ones(3))
            writer.flush()
            assert h5["events/deform"].shape == (N_EVENTS + 3,)
        assert kept or "no undo file can be kept" in caplog.text
        assert kept == (how == "renamed" and sys.platform == "linux")
    assert not list(path.parent.glob("*.undo*"))


def test_through_a_link(path: Path, tmp_path: Path) -> None:
    """The undo file is beside the file, where it counts for all of its names."""
    folder = tmp_path / "links"
    folder.mkdir()
    link = folder / "link.rtdc"
    try:
        link.symlink_to(path)
    except OSError:
        pytest.skip("links are not allowed here")
    with dcwrite.HDF5Writer(link, mode="a"):
        assert undo_path(path).exists()
        assert list(folder.iterdir()) == [link]
    _killed(link)
    for name in (path, link):
        assert undo_of(name) is not None
        with pytest.raises(dcwrite.StorageError, match="dcwrite recover"):
            dcwrite.HDF5Writer(name, mode="a")


@pytest.mark.skipif(os.name == "nt", reason="no locks to ask for")
def test_another_program_that_is_alive_was_not_killed(path: Path) -> None:
    with dcwrite.HDF5Writer(path, mode="a"):
        done = _run(f"dcwrite.HDF5Writer({path.name!r}, mode='a')", path.parent)
    assert f"another program adds to '{path.name}' now" in done.stderr
    assert "killed" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_does_not_end_it(path: Path) -> None:
    with h5py.File(path, "a") as h5:
        undo = Undo.keep(h5, path)
        assert undo is not None
        pid = os.fork()
        if not pid:
            try:
                undo.release(is_whole=True)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert undo.path.exists()
        undo.release(is_whole=True)
        assert not undo.path.exists()


@pytest.mark.parametrize("mode", ["a", "w"])
def test_a_stream_is_told(path: Path, mode: str) -> None:
    """Its end would replace the file, and leave what belongs to another."""
    _killed(path)
    content = path.read_bytes()
    with pytest.raises(dcwrite.StorageError, match="dcwrite recover"):
        StreamFile(path, mode, writer_options={})
    assert path.read_bytes() == content
    assert sorted(path.parent.iterdir()) == [path, undo_path(path)]


def test_an_undo_file_of_another_file(path: Path, tmp_path: Path) -> None:
    """What was replaced since is not mixed with what another file had."""
    _killed(path)
    path.unlink()
    with h5py.File(path, "w") as h5:
        h5["events/deform"] = np.random.default_rng(7).random(500_000)
    with pytest.raises(dcwrite.DamagedFileError, match=r"of a file with other data.*move"):
        dcwrite.recover(path, tmp_path / "out.rtdc")
    path.unlink()
    with pytest.raises(dcwrite.DamagedFileError, match=r"recording 'run\.rtdc' beside it"):
        dcwrite.recover(undo_path(path), tmp_path / "out.rtdc")
    with pytest.raises(dcwrite.StorageError, match="not there any more"):
        dcwrite.HDF5Writer(path, mode="x")
    assert not (tmp_path / "out.rtdc").exists()


def test_a_file_whose_data_are_damaged_is_still_known(path: Path) -> None:
    _killed(path)
    with h5py.File(path) as h5:
        info = h5["events/image"].id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(info.byte_offset)
        file.write(bytes(info.size // 2))
    UndoneFile(path, undo_path(path)).close()


@pytest.mark.parametrize("feat", ["area_um", "contour"])
def test_a_new_feature_that_is_not_whole_costs_no_events(tmp_path: Path, feat: str) -> None:
    """The program is killed when the new feature has fewer rows than there were events."""
    path = tmp_path / "run.rtdc"
    with dcwrite.HDF5Writer(path, mode="x") as writer:
        writer.store_feature_chunk("deform", np.arange(3000.0))
    data = "np.ones(1000)" if feat == "area_um" else "[np.ones((4, 2), int)] * 100"
    _run(
        f"h5 = h5py.File('run.rtdc', 'a')\nwriter = dcwrite.HDF5Writer(h5)\n"
        f"writer.store_feature_chunk({feat!r}, {data})\nh5.flush()\nos.kill(os.getpid(), 9)",
        tmp_path,
    )
    report = dcwrite.recover(path, tmp_path / "out.rtdc")
    assert (report.way, report.n_events, report.exit_code) == ("undo", 3000, 1)
    assert "expected the 3000 events that were there before" in report.damaged[-1]
    with dcwrite.Recording(tmp_path / "out.rtdc") as recording:
        np.testing.assert_array_equal(recording["deform"][:], np.arange(3000.0))


@pytest.mark.parametrize("how", ["contour", "attribute"])
def test_recover_looks_at_contours_and_attributes(path: Path, how: str) -> None:
    _killed(path)
    with h5py.File(path, "a") as h5:
        assert not missing_of_before(h5, path, undo_path(path))
        if how == "contour":
            h5["events/contour/1"][0] = 77
            assert missing_of_before(h5, path, undo_path(path)) == ["'contour' is not what it was"]
        else:
            del h5.attrs["setup:channel width"]
            assert missing_of_before(h5, path, undo_path(path)) == [
                "the attribute 'setup:channel width' is gone"
            ]


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_kill_before_it_has_its_name(path: Path, tmp_path: Path) -> None:
    """Nothing was changed but HDF5's note that the file is open."""
    done = _run(
        "from pathlib import Path\nPath.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "dcwrite.HDF5Writer('run.rtdc', mode='a')",
        tmp_path,
    )
    assert done.returncode == -9
    assert not undo_path(path).exists()
    with pytest.raises(dcwrite.StorageError, match=r"dcwrite recover run\.rtdc"):
        dcwrite.HDF5Writer(path, mode="a")
    report = dcwrite.recover(path, tmp_path / "out.rtdc")
    assert report.n_announced == N_EVENTS
    with h5py.File(tmp_path / "out.rtdc") as h5:  # its features are of different lengths
        assert h5["events/deform"].shape == (report.n_events,)
