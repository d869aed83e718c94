"""Arguments that are names, folders or patterns."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from dcwrite.cli import main
from dcwrite.cli.inputs import expand_inputs, input_problem


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with some files."""
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "none").mkdir()
    for name in (
        "b.rtdc", "a.rtdc", ".hidden.rtdc", "notes.txt", "c.rtdc.part", "[x].rtdc", "sub/d.rtdc",
        "sub/deep/e.rtdc",
    ):  # fmt: skip
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.rtdc").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["a.rtdc"], ["a.rtdc"]),
        (["a.rtdc", "a.rtdc"], ["a.rtdc", "a.rtdc"]),
        (["."], ["[x].rtdc", "a.rtdc", "b.rtdc"]),
        (["sub"], ["sub/d.rtdc"]),
        (["?.rtdc"], ["a.rtdc", "b.rtdc"]),
        (["b.rtdc", "?.rtdc"], ["b.rtdc", "a.rtdc"]),
        (["[x].rtdc"], ["[x].rtdc"]),  # it is a name
        (["**/?.rtdc"], ["a.rtdc", "b.rtdc", "sub/d.rtdc", "sub/deep/e.rtdc"]),
        (["missing.rtdc", "z*.rtdc", "none"], ["missing.rtdc", "z*.rtdc", "none"]),
        (["notes.txt"], ["notes.txt"]),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("here")
def test_what_arguments_stand_for(typed: list[str], found: list[str]) -> None:
    assert [path.as_posix() for path in expand_inputs(map(Path, typed))] == found


@pytest.mark.usefixtures("here")
def test_other_endings() -> None:
    assert expand_inputs([Path()], (".rtdc.part",)) == [Path("c.rtdc.part")]


@pytest.mark.parametrize(
    "line",
    [
        "verify ''",
        "plot ''",
        "split -- ''",
        "copy in.rtdc ''",
        "copy in.rtdc out.rtdc --index ''",
        "compress in.rtdc --output=",
        "join in.rtdc '' --output out.rtdc",
    ],
)
@pytest.mark.usefixtures("here")
def test_an_empty_name_is_not_the_working_folder(line: str) -> None:
    result = CliRunner().invoke(main, shlex.split(line))
    assert result.exit_code == 2
    assert "expected a name, got an empty one; check" in result.stderr


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a.rtdc", None),
        ("missing.rtdc", "'missing.rtdc': no such file; check the name"),
        ("z*.rtdc", "'z*.rtdc': no file matches; check the folder and the pattern"),
        (
            "https://example.org/a.rtdc",
            "'https:/example.org/a.rtdc': expected a file, got a URL; download it first",
        ),
        ("none", "'none': a folder without *.rtdc; name the files, or another folder"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_is_wrong_with_a_name(name: str, problem: str | None) -> None:
    assert input_problem(Path(name)) == problem
