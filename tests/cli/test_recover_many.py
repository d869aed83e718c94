"""`dcwrite recover` with several inputs, and which of two names is an output."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dcwrite import HDF5Writer, Recording, verify

from .command import dcwrite


@pytest.fixture
def unfinished(folder: Path) -> Path:
    """Return a folder with the unfinished recordings m.rtdc and n.rtdc."""
    for ending in ("part", "journal"):
        shutil.copyfile(folder / f"m.rtdc.{ending}", folder / f"n.rtdc.{ending}")
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.rtdc")}


@pytest.mark.parametrize(
    "typed",
    [
        ["m.rtdc.part", "n.rtdc.part"],
        ["m.rtdc.part", "n.rtdc.journal"],
        ["m.rtdc.part", "m.rtdc.journal", "n.rtdc.part", "n.rtdc.journal"],  # m.rtdc* n.rtdc*
        ["*.rtdc.part"],
        ["."],
    ],
    ids=" ".join,
)
def test_many_inputs(unfinished: Path, typed: list[str]) -> None:
    result = dcwrite("recover", *typed, cwd=unfinished)
    assert result.returncode == 0, result.stderr
    assert names(unfinished) == {"m.rtdc", "n.rtdc"}
    for name in ("m.rtdc", "n.rtdc"):
        with Recording(unfinished / name) as recording:
            assert len(recording) == 400
    table = result.stdout.split("\n\n")[-1].splitlines()
    assert [line.split()[1:4] for line in table[1:3]] == [["rescued", "400", "400"]] * 2
    assert result.stdout.endswith("then delete the unfinished files.\n")


def test_a_folder_for_the_outputs(unfinished: Path) -> None:
    result = dcwrite("recover", "--json", "--out-dir", "new/deep", ".", cwd=unfinished)
    assert result.returncode == 0, result.stderr
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert [report["n_events"] for report in reports] == [400, 400]
    assert names(unfinished / "new" / "deep") == {"m.rtdc", "n.rtdc"}
    assert names(unfinished) == set()
    again = dcwrite("recover", "--out-dir", "new/deep", ".", cwd=unfinished)
    assert again.returncode == 2
    assert again.stderr.count("--overwrite") == 2
    more = dcwrite("recover", "--out-dir", "new/deep", "--overwrite", ".", cwd=unfinished)
    assert more.returncode == 0


def test_a_damaged_file_beside_itself(recording: Path, tmp_path: Path) -> None:
    shutil.copyfile(recording, tmp_path / "whole.rtdc")
    result = dcwrite("recover", "--out-dir", ".", "whole.rtdc", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert names(tmp_path) == {"whole.rtdc", "whole_recovered.rtdc"}
    assert (tmp_path / "whole.rtdc").read_bytes() == recording.read_bytes()


def test_it_goes_on_after_one_fails(unfinished: Path) -> None:
    (unfinished / "bad.rtdc").write_text("no recording")
    typed = ("bad.rtdc", "missing.rtdc", "z*.part", "m.rtdc.part")
    result = dcwrite("recover", "--out-dir", "new", "--json", *typed, cwd=unfinished)
    assert result.returncode == 2
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert [report["exit_code"] for report in reports] == [2, 2, 2, 0]
    assert [Path(report["path_in"]).name for report in reports] == list(typed)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert [any(name in line for line in errors) for name in typed] == [True] * 3 + [False]
    assert names(unfinished / "new") == {"m.rtdc"}


def test_the_highest_code_counts(unfinished: Path, recording: Path) -> None:
    """1: something is lost."""
    damaged = Path(shutil.copyfile(recording, unfinished / "damaged.rtdc"))
    with HDF5Writer(damaged) as writer:
        place = writer.h5["events/image"].id.get_chunk_info(0)
    with damaged.open("rb+") as file:
        file.seek(place.byte_offset + place.size // 2)
        file.write(b"not what was here")
    result = dcwrite("recover", "--out-dir", "new", "n.rtdc.part", damaged, cwd=unfinished)
    assert result.returncode == 1, result.stderr
    assert names(unfinished / "new") == {"damaged.rtdc", "n.rtdc"}
    assert "  lost: image: events 0 to " in result.stdout
    assert "then delete the unfinished files" not in result.stdout


# -- IN OUT ---------------------------------------------------------------------------------


@pytest.mark.parametrize("second", ["out.rtdc", "m.rtdc", "any.name"])
def test_a_second_name_that_is_not_there_is_the_output(folder: Path, second: str) -> None:
    result = dcwrite("recover", "m.rtdc.part", second, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert verify(folder / second).exit_code == 0
    assert names(folder) <= {second}


@pytest.mark.parametrize("extra", [[], ["--overwrite"]], ids=["", "overwrite"])
@pytest.mark.parametrize("second", ["there.rtdc", "empty", "n.rtdc"])
def test_a_second_name_that_is_there_is_refused(
    unfinished: Path, second: str, extra: list[str]
) -> None:
    (unfinished / "there.rtdc").write_text("somebody's data")
    (unfinished / "empty").mkdir()
    before = sorted(unfinished.iterdir())
    result = dcwrite("recover", *extra, "m.rtdc.part", second, cwd=unfinished)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "expected IN and an OUT that is not there yet" in line
    assert f"--output '{second}' --overwrite" in line
    assert "--out-dir DIR" in line
    assert sorted(unfinished.iterdir()) == before
    assert (unfinished / "there.rtdc").read_text() == "somebody's data"


def test_output_says_it(unfinished: Path) -> None:
    (unfinished / "there.rtdc").write_text("old")
    args = ("recover", "-o", "there.rtdc", "m.rtdc.part")
    assert dcwrite(*args, cwd=unfinished).returncode == 2
    assert dcwrite(*args, "--overwrite", cwd=unfinished).returncode == 0
    assert verify(unfinished / "there.rtdc").exit_code == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-o", "x.rtdc", "--out-dir", "y", "m.rtdc.part"], "--output or --out-dir, got both"),
        (["-o", "x.rtdc", "m.rtdc.part", "n.rtdc.part"], "--output: expected one input, got 2"),
        (["-o", "x.rtdc", "."], "--output: expected one input, got 2"),
        (["--out-dir", "y", "m.rtdc.part", "sub/m.rtdc.part"], "would both become 'y/m.rtdc'"),
    ],
    ids=["both", "two", "folder of two", "same name"],
)
def test_what_does_not_fit_is_refused_before_any_work(
    unfinished: Path, args: list[str], message: str
) -> None:
    (unfinished / "sub").mkdir()
    for ending in ("part", "journal"):
        shutil.copyfile(unfinished / f"m.rtdc.{ending}", unfinished / "sub" / f"m.rtdc.{ending}")
    before = sorted(unfinished.rglob("*"))
    result = dcwrite("recover", *args, cwd=unfinished)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert message in line
    assert sorted(unfinished.rglob("*")) == before
