"""What the documentation shows works: its examples are run, the tests and files it names exist.

Of each page, the blocks ```python and ```console are run in order, in one temporary folder. Blocks
of other kinds (```shell, ```text) are not. A python block with a `__main__` guard is a program of
its own, and runs in a process of its own, for it may start processes; the others share their
names, page by page. Of console blocks the lines that begin with `$ dcwrite` are run; what stands
below one has to be in its output, line by line, `...` for any lines between.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import dcwrite

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60

PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if "_build" not in page.parts
]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a page."""

    kind: str
    text: str
    #: number of the line before its first one
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start(2)))
        for found in BLOCK.finditer(text)
    ]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def run(command: list[str], where: str) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment()
    )
    assert result.returncode == 0, f"{where}: {shlex.join(command)}\n{result.stderr[-3000:]}"
    return result.stdout


def environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}


def run_console(block: Block, where: str) -> None:
    output: Iterator[str] | None = None
    for line in block.text.splitlines():
        if line.startswith("$ "):
            output = None
            if line.startswith("$ dcwrite "):
                args = shlex.split(line.removeprefix("$ dcwrite "), comments=True)
                output = iter(run([sys.executable, "-m", "dcwrite", *args], where).splitlines())
        elif output is not None and line.strip() not in {"", "..."}:
            assert any(got.split() == line.split() for got in output), f"{where}: no {line!r}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=name_of)
def test_examples_of_a_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "interop import dcnum" in page.read_text(encoding="utf-8"):
        pytest.importorskip("dcnum", reason="needs dcnum (extra `peer`)")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "example"}
    for block in blocks_of(page):
        where = f"{name_of(page)}, line {block.line + 1}"
        if block.kind == "console":
            run_console(block, where)
        elif "__main__" in block.text:
            Path("program.py").write_text(block.text, encoding="utf-8")
            run([sys.executable, "-W", "error", "program.py"], where)
        else:
            code = compile("\n" * block.line + block.text, str(page), "exec")
            exec(code, names)


def docstrings_with_examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    objects = [getattr(dcwrite, name) for name in dcwrite.__all__]
    found = [test for value in objects if callable(value) for test in finder.find(value)]
    return [test for test in found if test.examples]


@pytest.mark.parametrize("test", docstrings_with_examples(), ids=lambda test: test.name)
def test_examples_of_a_docstring(test: doctest.DocTest, tmp_path: Path) -> None:
    """`path` is a recording; in the examples of writing, one that is not there yet."""
    path = tmp_path / "recording.rtdc"
    if not test.name.startswith("HDF5Writer"):
        with dcwrite.HDF5Writer(path) as writer:
            writer.store_feature_chunk("deform", np.array([0.1, 0.2]))
    test.globs = {**vars(dcwrite), "path": path}
    assert doctest.DocTestRunner().run(test).failed == 0


def test_names_of_tests_exist() -> None:
    """A page that names a test as evidence names one that is there."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for module, test in re.findall(r"`(?:tests/([\w/]+\.py)::)?(test_\w+)(?:\[.*?\])?`", text):
            source = (ROOT / "tests" / module).read_text(encoding="utf-8") if module else code
            assert f"def {test}(" in source, f"{name_of(page)} names {module}::{test}"
        for path in re.findall(r"`((?:tests|src|docs|benchmarks)/[\w/.-]+)`", text):
            assert (ROOT / path).exists(), f"{name_of(page)} names {path}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files(name: str) -> None:
    """Links between pages of docs/ are checked when they are built; these are outside."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / target).exists(), target


def test_every_public_name_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\.\. auto\w+:: dcwrite\.(\w+)$", text, re.MULTILINE))
    assert documented == set(dcwrite.__all__) - {"__version__"}


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(
        r"^(\d{4}-[\w-]+)$", (folder / "index.md").read_text("utf-8"), re.MULTILINE
    )
    assert listed == sorted(path.stem for path in folder.glob("[0-9]*.md"))
