"""How each command is run by the tests that walk through all of them.

A new command is picked up by itself: arguments with a path become recordings, those whose name or
placeholder says OUT become new files, `--out-dir` and required options are given. A command that
needs more than that has a line in `EXTRA`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from dcwrite.cli import _COMMANDS, main

__all__ = ["COMMANDS", "arguments", "command_of", "has_option", "n_inputs", "writes"]

COMMANDS = tuple(_COMMANDS)
#: What a command needs besides.
EXTRA = {
    "demo": ["--frames", "200", "--workers", "1"],
    "join": ["--allow-differences"],  # the inputs are copies of one recording
    "split": ["--events", "7"],
}


def command_of(name: str) -> click.Command:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command


def _is_output(param: click.Parameter) -> bool:
    return "OUT" in (param.metavar or "").upper() or (param.name or "").endswith("out")


def _arguments_of(name: str) -> list[click.Argument]:
    return [param for param in command_of(name).params if isinstance(param, click.Argument)]


def _options_of(name: str) -> list[click.Option]:
    return [param for param in command_of(name).params if isinstance(param, click.Option)]


def has_option(name: str, opt: str) -> bool:
    return any(opt in option.opts for option in _options_of(name))


def n_inputs(name: str) -> int:
    """Number of inputs that the command is given: 0, 1 or 2 (for as many as one likes)."""
    counts = [2 if p.nargs == -1 else 1 for p in _arguments_of(name) if not _is_output(p)]
    return sum(counts)


def writes(name: str) -> bool:
    """Whether the command has outputs."""
    return any(map(_is_output, _arguments_of(name))) or any(
        has_option(name, opt) for opt in ("--out", "--output", "--out-dir")
    )


def arguments(name: str, inputs: Sequence[Path], *, out: str = "new") -> list[str]:
    """Words of a call; outputs are below the working folder.

    Parameters
    ----------
    name
        The command.
    inputs
        As many as `n_inputs` says.
    out
        Beginning of the names of outputs.
    """
    words = [name]
    left = list(inputs)
    for argument in _arguments_of(name):
        if _is_output(argument):
            words.append(out + (".png" if "png" in (argument.metavar or "") else ".rtdc"))
        elif argument.nargs == -1:
            words += [str(left.pop(0)) for _ in range(2)]
        else:
            words.append(str(left.pop(0)))
    assert not left
    for option in _options_of(name):
        if option.required:
            words += [option.opts[-1], f"{out}.rtdc"]
    if has_option(name, "--out-dir"):
        words += ["--out-dir", out]
    return words + EXTRA.get(name, [])
