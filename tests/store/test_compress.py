"""compress: everything is carried over, and what is good already is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dcwrite
from dcwrite import (
    Compression,
    DamagedFileError,
    DataError,
    HDF5Writer,
    Recording,
    StorageError,
    UsageError,
    compress,
    compress_many,
    verify,
)
from dcwrite.tools.compare import compare
from dcwrite.tools.progress import Progress

from .everything import assert_survived, make_everything
from .files import make_recording

JOB = ("dcwrite-compress",)


def filters_of(path: Path, name: str) -> list[tuple[int, tuple[int, ...]]]:
    with h5py.File(path) as h5:
        plist = h5[name].id.get_create_plist()
        found = [plist.get_filter(number) for number in range(plist.get_nfilters())]
    return [(number, tuple(values)) for number, _flags, values, _name in found]


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    return make_everything(tmp_path / "everything.rtdc")


@pytest.mark.parametrize(
    ("compression", "force", "threads"),
    [
        ("archive", False, 2),
        ("archive", True, 1),
        ("fast", False, 1),
        ("none", False, 2),
        (Compression(9), True, 2),
    ],
    ids=str,
)
def test_everything_survives(
    compression: Compression | str, force: bool, threads: int, everything: Path, tmp_path: Path
) -> None:
    before = everything.read_bytes()
    out = tmp_path / "out.rtdc"
    summary = compress(everything, out, compression=compression, force=force, threads=threads)
    assert summary.action == "compressed"
    assert everything.read_bytes() == before
    assert_survived(everything, out, new_logs=JOB)
    level = {"archive": 5, "fast": 1, "none": None}.get(str(compression), 9)
    if level is not None:
        expected = [(32015, (level,)), (3, ())]
        for name in ("deform", "area_um", "image", "mask", "trace/fl1_raw", "contour/6"):
            assert filters_of(out, f"events/{name}") == expected, name
        assert filters_of(out, "basin_events/qpi_pha/0") == expected
    assert not [item for item in compare(everything, out) if "log 'dcwrite-compress'" not in item]


def test_in_another_folder_basins_are_still_found(everything: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    out = tmp_path / "other" / "out.rtdc"
    compress(everything, out)
    assert_survived(everything, out, new_logs=JOB)
    with Recording(out, basin_roots=[tmp_path]) as recording:
        np.testing.assert_array_equal(recording["bright_avg"][:], np.arange(120) // 2)


def test_the_log_says_what_was_done(everything: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "out.rtdc", tmp_path / "again.rtdc"
    compress(everything, out, compression=Compression(3))
    compress(out, again, compression=Compression(7))
    with Recording(again) as recording:
        first = json.loads("\n".join(recording.logs["dcwrite-compress-1"]))
        second = json.loads("\n".join(recording.logs["dcwrite-compress"]))
    assert first["options"] == {
        "level": 3, "fletcher32": True, "exact": False, "force": False,
    }  # fmt: skip
    assert second["options"]["level"] == 7
    assert second["files"][0]["name"] == "out.rtdc"
    assert second["files"][0]["size"] == out.stat().st_size
    assert second["libraries"]["dcwrite"] == dcwrite.__version__


@pytest.mark.parametrize("if_good", ["copy", "link", "skip"])
def test_what_is_good_already(if_good: Any, tmp_path: Path) -> None:
    path, out = make_recording(tmp_path / "in.rtdc"), tmp_path / "out.rtdc"
    seen: list[Progress] = []
    summary = compress(path, out, if_good=if_good, progress=seen.append)
    assert summary.action == {"copy": "copied", "link": "linked", "skip": "skipped"}[if_good]
    assert summary.saved_bytes == 0
    assert seen[-1].is_done
    if if_good == "skip":
        assert [item.name for item in tmp_path.iterdir()] == ["in.rtdc"]
        return
    assert out.read_bytes() == path.read_bytes()
    assert out.stat().st_mtime_ns == path.stat().st_mtime_ns
    assert out.samefile(path) == (if_good == "link")


@pytest.mark.parametrize(
    ("made", "wanted", "good"),
    [
        (Compression(5), Compression(5), True),
        (Compression(9), Compression(5), True),
        (Compression(4), Compression(5), False),
        (Compression(5, fletcher32=False), Compression(5), False),
        (Compression(5), Compression(5, fletcher32=False), True),
        (Compression(None), Compression(5), False),
        (Compression(None), Compression(None), True),
        (Compression(5), Compression(None), False),
    ],
    ids=str,
)
def test_what_counts_as_good(
    made: Compression, wanted: Compression, good: bool, tmp_path: Path
) -> None:
    path = tmp_path / "in.rtdc"
    with HDF5Writer(path, compression=made) as writer:
        writer.store_feature_chunk("deform", np.arange(2500.0))
    summary = compress(path, tmp_path / "out.rtdc", compression=wanted)
    assert (summary.action == "copied") == good
    forced = compress(path, tmp_path / "forced.rtdc", compression=wanted, force=True)
    assert forced.action == "compressed"
    assert forced.n_moved == 0


def test_good_chunks_are_moved_where_others_are_not(tmp_path: Path) -> None:
    """One feature that is not compressed: the others are taken over as they are stored."""
    path, out = tmp_path / "in.rtdc", tmp_path / "out.rtdc"
    with HDF5Writer(path, compression=Compression(9)) as writer:
        writer.store_feature_chunk("deform", np.random.default_rng(0).random(5000))
        writer.h5["events/area_um"] = np.arange(5000.0)
    summary = compress(path, out)
    assert (summary.n_moved, summary.n_recoded) == (5, 1)
    with h5py.File(path) as a, h5py.File(out) as b:
        for start in range(0, 5000, 1000):
            first, second = (h5["events/deform"].id.read_direct_chunk((start,)) for h5 in (a, b))
            assert first == second


def test_one_bad_contour_among_many_good_ones(tmp_path: Path) -> None:
    """Also where it is none of those that are looked at first: it is right in the output."""
    path, out = make_recording(tmp_path / "in.rtdc", 620), tmp_path / "out.rtdc"
    with h5py.File(path, "r+") as h5:
        contour = h5["events/contour"]
        data = contour["601"][()]
        del contour["601"]
        contour["601"] = data
    assert compress(path, out, force=True).action == "compressed"
    assert_survived(path, out, new_logs=JOB)
    assert filters_of(out, "events/contour/601") == [(32015, (5,)), (3, ())]


@pytest.mark.parametrize("lowest", [1, 5])
def test_chunks_of_a_stream_in_a_hurry_are_compressed_anew(lowest: int, tmp_path: Path) -> None:
    """Their dataset says level 5; the stream's log knows better."""
    path, out, again = (tmp_path / name for name in ("in.rtdc", "out.rtdc", "again.rtdc"))
    with HDF5Writer(path) as writer:
        writer.store_feature_chunk("deform", np.random.default_rng(0).random(5000))
        levels = {"chunks by Zstandard level": {"5": 3, str(lowest): 2}}
        writer.store_log("dcwrite-stream", json.dumps(levels, indent=2).split("\n"))
    summary = compress(path, out)
    if lowest == 5:
        assert summary.action == "copied"
        return
    assert (summary.action, summary.n_moved) == ("compressed", 0)
    assert compress(out, again).action == "copied"


def test_virtual_datasets_become_real_ones(tmp_path: Path) -> None:
    path, out = tmp_path / "in.rtdc", tmp_path / "out.rtdc"
    with h5py.File(tmp_path / "part.rtdc", "w") as h5:
        h5["events/deform"] = np.arange(100.0)
    layout = h5py.VirtualLayout((100,), "f8")
    layout[:] = h5py.VirtualSource("part.rtdc", "events/deform", (100,))
    with h5py.File(path, "w") as h5:
        h5.create_virtual_dataset("events/deform", layout)
    assert compress(path, out).action == "compressed"
    with h5py.File(out) as h5:
        assert not h5["events/deform"].is_virtual
        np.testing.assert_array_equal(h5["events/deform"], np.arange(100.0))


def test_an_empty_recording(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "in.rtdc", compression="none") as writer:
        writer.store_feature_chunk("image", np.empty((0, 5, 6), np.uint8))
        writer.store_metadata({"setup:medium": "PBS"})
    assert compress(tmp_path / "in.rtdc", tmp_path / "out.rtdc").action == "copied"
    compress(tmp_path / "in.rtdc", tmp_path / "forced.rtdc", force=True)
    assert_survived(tmp_path / "in.rtdc", tmp_path / "forced.rtdc", new_logs=JOB)


def test_progress_counts_bytes_of_events(everything: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    summary = compress(everything, tmp_path / "out.rtdc", progress=seen.append)
    counts = [progress.current for progress in seen]
    assert counts == sorted(counts)
    assert {progress.unit for progress in seen} == {"bytes"}
    assert seen[-1].is_done
    assert seen[-1].current == summary.raw_bytes


def test_what_progress_raises_ends_it_without_an_output(everything: Path, tmp_path: Path) -> None:
    def end(progress: Progress) -> None:
        if progress.current > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(everything, tmp_path / "out.rtdc", progress=end)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["everything.rtdc", "origin.rtdc"]


# -- refused --------------------------------------------------------------------------------


def test_the_input_as_output(tmp_path: Path) -> None:
    path = make_recording(tmp_path / "in.rtdc")
    before = path.read_bytes()
    (tmp_path / "link.rtdc").symlink_to(path)
    for out in (path, tmp_path / "." / "in.rtdc", tmp_path / "link.rtdc"):
        with pytest.raises(UsageError, match="choose another name"):
            compress(path, out, overwrite=True)
    with pytest.raises(UsageError, match="choose another output folder"):
        compress_many([path], tmp_path, overwrite=True)
    assert path.read_bytes() == before


def test_a_basin_of_the_input_as_output(everything: Path, tmp_path: Path) -> None:
    before = (tmp_path / "origin.rtdc").read_bytes()
    with pytest.raises(UsageError, match="leads to"):
        compress(everything, tmp_path / "origin.rtdc", overwrite=True)
    assert (tmp_path / "origin.rtdc").read_bytes() == before


def test_an_existing_output(tmp_path: Path) -> None:
    path, out = make_recording(tmp_path / "in.rtdc"), tmp_path / "out.rtdc"
    out.write_text("mine")
    with pytest.raises(StorageError, match="--overwrite"):
        compress(path, out)
    assert out.read_text() == "mine"
    compress(path, out, overwrite=True)
    assert verify(out).exit_code == 0


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "cut", "no events"])
def test_inputs_that_are_no_recordings(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "in.rtdc"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("no recording")
    elif kind == "cut":
        path.write_bytes(make_recording(tmp_path / "whole.rtdc").read_bytes()[:5000])
    elif kind == "no events":
        with h5py.File(path, "w") as h5:
            h5["data"] = 1
    expected = StorageError if kind in {"missing", "folder"} else DamagedFileError
    with pytest.raises(expected, match=r"in\.rtdc"):
        compress(path, tmp_path / "out.rtdc")
    assert not (tmp_path / "out.rtdc").exists()


def test_a_damaged_chunk(tmp_path: Path) -> None:
    path = tmp_path / "in.rtdc"
    with h5py.File(path, "w") as h5:
        dset = h5.create_dataset("events/deform", data=np.arange(5000.0), compression="gzip")
        info = dset.id.get_chunk_info(2)
    with path.open("rb+") as file:
        file.seek(info.byte_offset + 5)
        file.write(bytes(100))
    with pytest.raises(DamagedFileError, match="dcwrite recover"):
        compress(path, tmp_path / "out.rtdc")
    assert [item.name for item in tmp_path.iterdir()] == ["in.rtdc"]


@pytest.mark.parametrize(
    "options",
    [{"compression": "live"}, {"compression": "best"}, {"if_good": "move"}],
    ids=str,
)
def test_options_that_make_no_sense(options: dict[str, Any], tmp_path: Path) -> None:
    path = make_recording(tmp_path / "in.rtdc")
    with pytest.raises(DataError, match=r"expected one"):
        compress(path, tmp_path / "out.rtdc", **options)


# -- many -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three recordings: one to compress, one that is good, one that is none."""
    (tmp_path / "in").mkdir()
    make_everything(tmp_path / "in" / "a.rtdc")
    (tmp_path / "in" / "origin.rtdc").unlink()
    make_recording(tmp_path / "in" / "b.rtdc")
    (tmp_path / "in" / "c.rtdc").write_text("no recording")
    return tmp_path / "in"


@pytest.mark.parametrize("jobs", [1, 5])
def test_many(jobs: int, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "deep"
    paths = sorted(folder.iterdir())
    seen: list[Progress] = []
    batch = compress_many(paths, out, jobs=jobs, progress=seen.append)
    assert [outcome.state for outcome in batch.outcomes] == ["done", "skipped", "failed"]
    assert [outcome.path for outcome in batch.outcomes] == paths
    assert batch.outcomes[1].reason == "good already, copied"
    assert isinstance(batch.outcomes[2].error, DamagedFileError)
    assert batch.exit_code == 2
    with pytest.raises(DamagedFileError, match=r"c\.rtdc"):
        batch.raise_first()
    assert sorted(item.name for item in out.iterdir()) == ["a.rtdc", "b.rtdc"]
    assert_survived(paths[0], out / "a.rtdc", new_logs=JOB)
    assert batch.outcomes[0].bytes_after == (out / "a.rtdc").stat().st_size
    assert seen[-1].is_done
    assert json.loads(json.dumps(batch.to_dict()))["outcomes"][2]["state"] == "failed"


def test_a_second_run_does_what_is_missing(folder: Path, tmp_path: Path) -> None:
    paths, out = sorted(folder.iterdir()), tmp_path / "out"
    compress_many(paths, out)
    made = {item: item.stat().st_mtime_ns for item in out.iterdir()}
    (out / "b.rtdc").unlink()
    make_recording(folder / "d.rtdc", 30)
    again = compress_many(sorted(folder.iterdir()), out)
    assert [(item.state, item.reason) for item in again.outcomes] == [
        ("skipped", "complete before"),
        ("skipped", "good already, copied"),
        ("failed", ""),
        ("skipped", "good already, copied"),
    ]
    assert (out / "a.rtdc").stat().st_mtime_ns == made[out / "a.rtdc"]
    third = compress_many(sorted(folder.iterdir())[:2], out)
    assert [item.reason for item in third.outcomes] == ["complete before", "copied before"]


@pytest.mark.parametrize("change", ["input", "touched", "options", "output"])
def test_what_belongs_to_another_job_is_never_taken_for_complete(
    change: str, folder: Path, tmp_path: Path
) -> None:
    paths, out = [folder / "a.rtdc"], tmp_path / "out"
    compress_many(paths, out)
    level: Compression | str = "archive"
    if change == "input":
        with h5py.File(paths[0], "r+") as h5:
            h5["events/area_um"][:] = 0
    elif change == "touched":
        os.utime(paths[0], ns=(1, 1))
    elif change == "options":
        level = Compression(6)
    else:
        make_recording(tmp_path / "other.rtdc").replace(out / "a.rtdc")
    before = (out / "a.rtdc").read_bytes()
    (outcome,) = compress_many(paths, out, compression=level).outcomes
    assert outcome.state == "failed"
    assert "exists already" in str(outcome.error)
    assert (out / "a.rtdc").read_bytes() == before
    (outcome,) = compress_many(paths, out, compression=level, overwrite=True).outcomes
    assert outcome.state == "done"
    assert_survived(paths[0], out / "a.rtdc", new_logs=JOB)


def test_without_resume(folder: Path, tmp_path: Path) -> None:
    paths, out = [folder / "a.rtdc", folder / "b.rtdc"], tmp_path / "out"
    compress_many(paths, out)
    again = compress_many(paths, out, resume=False)
    assert [outcome.state for outcome in again.outcomes] == ["failed", "failed"]
    again = compress_many(paths, out, resume=False, overwrite=True)
    assert [outcome.state for outcome in again.outcomes] == ["done", "skipped"]


def test_links_are_known_again(folder: Path, tmp_path: Path) -> None:
    paths, out = [folder / "b.rtdc"], tmp_path / "out"
    (first,) = compress_many(paths, out, if_good="link").outcomes
    (second,) = compress_many(paths, out, if_good="link").outcomes
    assert (first.reason, second.reason) == ("good already, linked", "linked before")


def test_two_inputs_of_one_name(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    other = make_recording(tmp_path / "more" / "a.rtdc")
    with pytest.raises(UsageError, match="another output folder"):
        compress_many([folder / "a.rtdc", other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


#: As in test_full_disk: a limit for files stands in for a full disk.
FULL_DISK = """
import resource, signal, sys
import dcwrite

path_in, path_out = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for options in ({"compression": "none"}, {"force": True}, {}):
    try:
        dcwrite.compress(path_in, path_out, **options)
    except dcwrite.StorageError as exc:
        print(exc.errno)
"""


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    path = tmp_path / "here" / "in.rtdc"
    with HDF5Writer(path) as writer:
        noise = np.random.default_rng(0).integers(0, 255, (400, 60, 70))
        writer.store_feature_chunk("image", noise.astype(np.uint8))
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path, path.with_name("out.rtdc")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout.split() == ["27"] * 3, result.stderr  # EFBIG
    assert [item.name for item in path.parent.iterdir()] == ["in.rtdc"]
