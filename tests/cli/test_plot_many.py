"""`dcwrite plot` of many recordings: a picture of each, also when some fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from dcwrite import UsageError, plot_many
from dcwrite.cli import main

QUICK = ("--dpi", "50", "--panels", "rate")


def run(*args: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["plot", *map(str, args), *QUICK])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def here(recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with "a.rtdc", "b.rtdc" and a text "c.rtdc", in which commands run."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.rtdc", "b.rtdc"):
        shutil.copyfile(recording, name)
    Path("c.rtdc").write_text("no recording")
    return tmp_path


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in {".png", ".pdf"})


def test_the_others_go_on_when_one_fails(here: Path) -> None:
    code, out, err = run("a.rtdc", "c.rtdc", "none.rtdc", "b.rtdc", "--out-dir", "new/pictures")
    assert code == 2
    assert pictures(here / "new" / "pictures") == ["a.png", "b.png"]
    lines = [line.split() for line in out.splitlines()]
    assert [line[:2] for line in lines[1:]] == [
        ["a.rtdc", "drawn"], ["c.rtdc", "failed"], ["none.rtdc", "failed"], ["b.rtdc", "drawn"],
    ]  # fmt: skip
    errors = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 2
    assert "'c.rtdc': expected an HDF5 file" in errors[0]
    assert errors[1] == "Error: 'none.rtdc': no such file; check the name"


@pytest.mark.parametrize("name", [".", "[ab].rtdc", "*.rtdc"])
def test_folders_and_patterns(here: Path, name: str) -> None:
    (here / "c.rtdc").unlink()
    code, out, err = run(name, "--kind", "pdf", "--quiet")
    assert (code, out, err) == (0, "", "")
    assert pictures(here) == ["a.pdf", "b.pdf"]


def test_all_fail(here: Path) -> None:
    code, _, _ = run("c.rtdc", "c2.rtdc", "--out-dir", "new")
    assert code == 2
    assert not (here / "new").exists()


def test_json_of_many(here: Path) -> None:
    code, out, _ = run("a.rtdc", "c.rtdc", "--json")
    assert code == 2
    outcomes = json.loads(out)["outcomes"]
    assert [outcome["state"] for outcome in outcomes] == ["done", "failed"]
    assert outcomes[0]["result"]["path_out"] == "a.png"
    assert pictures(here) == ["a.png"]


def test_one_recording_and_a_name(here: Path) -> None:
    assert run("a.rtdc", "x.PDF")[0] == 0
    assert run("a.rtdc", "--output", "y.png")[0] == 0
    assert run("--out-dir", "deep", "a.rtdc")[1].startswith("deep/a.png: rate of ")
    assert sorted(path.name for path in here.iterdir() if path.suffix[1:2] != "r") == [
        "deep", "x.PDF", "y.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.rtdc", "b.rtdc", "x.png"], "'x.png': expected recordings, got the name of a picture"),
        (["a.rtdc", "x.png", "--out-dir", "d"], "'x.png': expected recordings, got the name"),
        (["a.rtdc", "b.rtdc", "-o", "x.png"], "--output is for one input, got 2"),
        (["a.rtdc", "-o", "x.png", "--out-dir", "d"], "pass --output or --out-dir, not both"),
        (["a.rtdc", "."], "'.': a folder; pass --out-dir '.'"),
        (["a.rtdc", "a.rtdc"], "would both become 'a.png'"),
        (["a.rtdc", "x.jpg"], "expected a picture with the ending .png or .pdf, got '.jpg'"),
    ],
)
def test_calls_that_make_no_sense(here: Path, words: list[str], message: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert pictures(here) == []
    assert not (here / "d").exists()


def test_the_function(here: Path) -> None:
    batch = plot_many(["a.rtdc", here / "c.rtdc"], here / "out", panels="rate", dpi=50)
    assert [outcome.state for outcome in batch.outcomes] == ["done", "failed"]
    assert pictures(here / "out") == ["a.png"]
    (here / "a.png").mkdir()
    (failed,) = plot_many(["a.rtdc"], panels="rate").outcomes
    assert "got a folder" in str(failed.error)
    with pytest.raises(UsageError, match="kind: expected one of png, pdf, got 'svg'"):
        plot_many(["a.rtdc"], kind="svg")
