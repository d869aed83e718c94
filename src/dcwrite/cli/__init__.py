"""The command line: `dcwrite COMMAND`.

Alone here: which commands there are, and the exit codes of what ends a command from outside.
Invariant: a command's module is loaded only when the command runs, so that `dcwrite --help` is
fast; an interrupted command has cleaned up before it ends with 130.
"""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import click

from .._version import __version__
from ..format.text import did_you_mean

__all__ = ["main"]

#: Command -> its line in the list of commands; module and function have its name.
_COMMANDS: Final = {
    "basins": "Write a file that refers to recordings of one measurement.",
    "compress": "Write recordings once more with another compression.",
    "copy": "Copy some features and some events of a recording.",
    "demo": "Simulate cells, stream them into a recording, check and draw it.",
    "info": "Show what is in recordings, and how it is stored.",
    "join": "Put recordings one behind the other.",
    "plot": "Draw a recording: density, cells, rate, histograms.",
    "recover": "Rescue the whole events of an unfinished or damaged recording.",
    "replay": "Send a recording through worker processes into a new one.",
    "split": "Cut recordings into parts.",
    "verify": "Check recordings from end to end.",
    "watch": "Follow recordings while they are written.",
}
#: As shells number them: 128 + number of the signal.
_EXIT_INTERRUPTED: Final = 130


class _Commands(click.Group):
    """Loads a command when it is asked for; sees to the exit code of interrupted ones."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            hint = did_you_mean(name, _COMMANDS)
            ctx.fail(
                f"No such command '{name}'; " + (hint or f"there are {', '.join(_COMMANDS)}.")
            )
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; ends the process, unless `standalone_mode` is off."""

        def run() -> Any:
            return super(_Commands, self).main(
                args, prog_name, complete_var, standalone_mode=False, **extra
            )

        if not standalone_mode:
            return run()
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:  # a character that the terminal lacks is no error
                reconfigure(errors="replace")
        try:
            with _terminations_as_exit():
                code = run()
        except click.ClickException as exc:
            exc.show()
            sys.exit(exc.exit_code)
        except (KeyboardInterrupt, click.Abort):
            _end_interrupted()
        sys.exit(code if isinstance(code, int) else 0)


def _end_interrupted() -> NoReturn:
    click.echo("Interrupted; no unfinished file was left behind.", err=True)
    sys.exit(_EXIT_INTERRUPTED)


@contextmanager
def _terminations_as_exit() -> Iterator[None]:
    """Let `kill` and a closed terminal end a command like Ctrl-C: with its cleaning up."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        names = []

    def end(number: int, _frame: object) -> NoReturn:
        sys.exit(128 + number)

    before = {name: signal.signal(getattr(signal, name), end) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Example:
  dcwrite demo
  dcwrite verify demo.rtdc

\b
Shell completion, in ~/.bashrc; in ~/.zshrc, after compinit; in config.fish:
  eval "$(_DCWRITE_COMPLETE=bash_source dcwrite)"
  eval "$(_DCWRITE_COMPLETE=zsh_source dcwrite)"
  _DCWRITE_COMPLETE=fish_source dcwrite | source
""",
)
@click.version_option(__version__, prog_name="dcwrite")
def main() -> None:
    """Write deformability-cytometry recordings (.rtdc): sorted, compressed, checksummed."""
