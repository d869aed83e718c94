"""What all commands share: options, errors in one line, progress, tables.

Alone here: how things look on a terminal, in a pipe and in a log file. Invariant: results go to
stdout, everything else to stderr; text from a file cannot control the terminal.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import click
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table
from rich.text import Text

from ..errors import DCWriteError
from ..tools.progress import Progress

__all__ = [
    "Command",
    "ProgressView",
    "amount",
    "basin_roots_option",
    "clean",
    "error_text",
    "fail",
    "jobs_options",
    "json_option",
    "print_json",
    "print_table",
    "print_text",
    "seconds",
    "shown_error",
    "size",
]

#: A line of progress at least that often, where there is no terminal.
LINE_PERIOD_S: Final = 5.0
#: Wide enough that nothing is cut in a pipe.
PIPE_WIDTH: Final = 4000

#: Where a context keeps whether --debug was given.
_DEBUG: Final = f"{__name__}.debug"

#: What to do, for errors of the system that do not say it.
_REMEDIES: Final = {
    errno.ENOENT: "check the name",
    errno.EINVAL: "name a file, not a folder or a device",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "check the name",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "choose another folder",
    errno.ENOSPC: "free some space, or choose another disk",
}


# -- errors ---------------------------------------------------------------------------------


class Command(click.Command):
    """A command with --quiet and --debug, whose errors are one line and exit code 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(["-q", "--quiet"], is_flag=True, help="Show errors and results only."),
            click.Option(["--debug"], is_flag=True, help="Show where an error comes from."),
        ]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the words of the call; an empty name would stand for the working folder."""
        if not ctx.resilient_parsing:
            typed, _, _ = self.make_parser(ctx).parse_args(list(args))
            for param in self.params:
                words = typed.get(param.name)
                words = words if isinstance(words, (list, tuple)) else [words]
                if isinstance(param.type, click.Path) and "" in words:
                    raise click.BadParameter(
                        "expected a name, got an empty one; check what should stand there",
                        ctx,
                        param,
                    )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; raises what ends it."""
        debug = ctx.meta[_DEBUG] = ctx.params.pop("debug")
        # errors arrive as exceptions; their log records would say them twice
        logger, handler = logging.getLogger("dcwrite"), logging.NullHandler()
        if not debug:
            logger.addHandler(handler)
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as exc:  # noqa: BLE001 - shown in one line, in full with --debug
            fail(shown_error(exc))
            ctx.exit(2)
        finally:
            logger.removeHandler(handler)


#: Options of commands that look at recordings; their argument is in `inputs`.
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON array, one object per file."
)
basin_roots_option = click.option(
    "--basin-root",
    "basin_roots",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder below which basins may be opened, besides that of the recording; repeatable.",
)


def jobs_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options --jobs and --threads of commands that make one output of each input."""
    threads = click.option(
        "--threads",
        type=click.IntRange(min=1),
        help="Threads of all jobs together.  [default: the usable cores]",
    )
    jobs = click.option(
        "--jobs",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Files at the same time.",
    )
    return jobs(threads(command))


def error_text(exc: Exception) -> str:
    """An error in one line, with what to do about it."""
    if isinstance(exc, OSError) and exc.errno and exc.strerror:
        where = f"'{exc.filename}': " if exc.filename is not None else ""
        remedy = _REMEDIES.get(exc.errno)
        given = ";" in exc.strerror or remedy is None
        return f"{where}{exc.strerror}{'' if given else f'; {remedy}'}"
    if isinstance(exc, DCWriteError):
        return str(exc)
    name = type(exc).__name__
    return f"unexpected {name}: {exc}; run it again with --debug, and report what that shows"


def shown_error(exc: Exception) -> str:
    """The same; with --debug, shows where it comes from."""
    ctx = click.get_current_context(silent=True)
    if ctx is not None and ctx.meta.get(_DEBUG):
        traceback.print_exception(exc)
    return error_text(exc)


def fail(message: str) -> None:
    """Print an error, in one line."""
    click.echo(f"Error: {clean(' '.join(message.split()))}", err=True)


# -- numbers and text -----------------------------------------------------------------------


def clean(text: str) -> str:
    """Text of a file with its control characters made visible."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(n_bytes: float) -> str:
    """Bytes in the unit that suits, powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000 or unit == "MB":
            return f"{n_bytes:,.0f} B" if unit == "B" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1000
    raise AssertionError("unreachable")


def amount(number: float, unit: str) -> str:
    """A number with its unit."""
    return size(number) if unit == "bytes" else f"{number:,.0f} {unit}"


def seconds(duration_s: float) -> str:
    """A duration."""
    if duration_s < 10:
        return f"{duration_s:.1f} s"
    if duration_s < 100:
        return f"{duration_s:.0f} s"
    minutes, rest = divmod(round(duration_s), 60)
    return f"{minutes} min {rest:02d} s"


# -- results --------------------------------------------------------------------------------


def _stdout() -> Console:
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def print_text(text: str = "") -> None:
    """Print a line of a result."""
    click.echo(text)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()
) -> None:
    """Print a table.

    Parameters
    ----------
    columns
        Headers; all empty: none is shown.
    rows
        Cells.
    right
        Headers of the columns that are aligned to the right.
    """
    console = _stdout()
    numbers = set(right)
    table = Table(
        *(
            Column(name, justify="right" if name in numbers else "left", overflow="fold")
            for name in columns
        ),
        box=box.SIMPLE_HEAD if console.is_terminal and any(columns) else None,
        show_header=any(columns),
        pad_edge=False,
    )
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    # blank cells at the end of a line are in the way of those who read it with a program
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(f"  {line.rstrip()}".rstrip())


def print_json(data: Any) -> None:
    """Print JSON: ASCII only, and null for numbers that JSON does not have."""
    click.echo(json.dumps(_jsonable(data), indent=2))


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return _jsonable(value.tolist())
    if isinstance(value, np.generic):
        return _jsonable(value.item())
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


# -- progress -------------------------------------------------------------------------------


class ProgressView:
    """Shows records of progress on stderr: a bar on a terminal, else lines.

    Parameters
    ----------
    quiet
        Whether nothing is shown.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Bar | None = None
        self._task: Any = None
        self._stage: str | None = None
        self._shown: Progress | None = None
        self._next_line_s = 0.0

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            console = Console(stderr=True, markup=False, highlight=False, emoji=False)
            self._bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[state]}", markup=False),
                TimeElapsedColumn(),
                console=console,
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show a record."""
        if self._quiet:
            return
        if self._bar is None:
            self._show_line(progress)
            return
        if progress.stage != self._stage:
            self._stage = progress.stage
            self._task = self._bar.add_task(progress.stage, total=progress.total, state="")
        self._bar.update(
            self._task, completed=progress.current, total=progress.total, state=_state(progress)
        )

    def _show_line(self, progress: Progress) -> None:
        """The first record, one of the first with something done, some later ones, the last."""
        now, shown = time.monotonic(), self._shown
        is_first = shown is None or shown.stage != progress.stage
        has_begun = (
            shown is not None
            and not shown.current
            and progress.current * 50 >= (progress.total or 1)
        )
        is_last = progress.is_done and shown is not None and not shown.is_done
        if is_first or has_begun or is_last or now >= self._next_line_s:
            self._shown = progress
            self._next_line_s = now + LINE_PERIOD_S
            click.echo(f"{progress.stage}: {_state(progress)}", err=True)


def _state(progress: Progress) -> str:
    """A record in words."""
    is_bytes = progress.unit == "bytes"
    done = size(progress.current) if is_bytes else f"{progress.current:,}"
    parts = [done if progress.total is None else f"{done} of {_total(progress)}"]
    if progress.queued is not None:
        parts[0] += f" written, {progress.queued:,} queued"
    if progress.current and progress.rate >= 1:
        parts.append(f"{amount(progress.rate, progress.unit)}/s")
    left = progress.time_left_s
    if left is not None and not progress.is_done:
        parts.append(f"{seconds(left)} left")
    return ", ".join(parts)


def _total(progress: Progress) -> str:
    return amount(progress.total or 0, progress.unit)
