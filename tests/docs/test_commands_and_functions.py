"""The table of the reference that says which function is which command, and with which options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

import dcwrite
from dcwrite.cli import _COMMANDS, main

ROOT = Path(__file__).parents[2]
SECTION = "## Tools, as on the command line"
#: Explained once below the table: how results, errors and progress are shown, and where work runs.
EVERYWHERE = {"--json", "--quiet", "--debug", "--scheduler", "--cluster"}


class Row(NamedTuple):
    """A command, its functions, and the options that are explained in words."""

    command: str
    functions: list[Callable[..., Any]]
    explained: set[str]


def rows() -> list[Row]:
    section = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8").partition(SECTION)[2]
    found = []
    for line in section.partition("```")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if match := re.fullmatch(r"`(\w+)`", cells[0]):
            names = re.findall(r"`(\w+)`", cells[1] + cells[2])
            words = cells[3].partition(":")
            assert names or cells[1] == "none", line
            assert names or cells[3], f"{line}: say why there is none"
            assert words[2] or not words[0].startswith("`--"), f"{line}: say what it is instead"
            explained = set(re.findall(r"`(--[\w-]+)`", cells[3]))
            functions = [getattr(dcwrite, name) for name in names]
            found.append(Row(match.group(1), functions, explained))
    return found


def test_each_command_has_a_row() -> None:
    assert [row.command for row in rows()] == list(_COMMANDS)
    assert all(row.functions for row in rows() if row.command not in {"demo", "replay"})


@pytest.mark.parametrize("row", [row for row in rows() if row.functions], ids=lambda r: r.command)
def test_options_are_keywords(row: Row) -> None:
    command = main.get_command(click.Context(main), row.command)
    assert command is not None
    keywords = {
        name: parameter
        for function in reversed(row.functions)
        for name, parameter in inspect.signature(function).parameters.items()
    }
    seen = set()
    for option in command.params:
        if not isinstance(option, click.Option):
            continue
        long = next(name for name in option.opts if name.startswith("--"))
        seen.add(long)
        if long in row.explained:
            assert option.name not in keywords or option.name == "path_out", long
        elif long not in EVERYWHERE:
            assert option.name in keywords, long
            default = option.get_default(click.Context(command))
            if isinstance(default, (str, int, float)) and not isinstance(default, bool):
                assert keywords[option.name].default == default, long
    assert row.explained <= seen


def test_the_section_names_the_rest() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8").partition(SECTION)[2]
    below = text.partition("All other options")[2].partition("```")[0]
    assert set(re.findall(r"`(--[\w-]+)`", below)) - {"--out-dir"} == EVERYWHERE
