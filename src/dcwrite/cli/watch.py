"""`dcwrite watch`: recordings while they are written."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

import click
import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from ..errors import DCWriteError
from ..store.live import LiveRecording
from .console import Command, clean, fail, print_text, shown_error, size
from .inputs import expand_inputs, input_problem, is_pattern

__all__ = ["watch"]

_EXAMPLE: Final = """\b
Example:
  dcwrite watch measurement.rtdc
  dcwrite watch --json --interval 10 folder
  dcwrite watch --once --json *.rtdc.part
"""
_PART: Final = (".rtdc.part",)
#: Cells of the picture in the terminal, and the events that it shows.
_COLUMNS: Final = 60
_ROWS: Final = 16
_SHOWN: Final = 5000
_SHADES: Final = " .:*#@"

State: TypeAlias = Literal["writing", "finished", "stalled", "failed"]


@click.command(cls=Command, epilog=_EXAMPLE)
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Look once, and end.")
@click.option(
    "--stall-timeout",
    "stall_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Give a file up that had nothing new for so long.  [default: never]",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object in a line per look.")
@click.pass_context
def watch(
    ctx: click.Context,
    files: tuple[Path, ...],
    interval: float,
    once: bool,
    stall_s: float | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Follow recordings while they are written, and end when their writers have finished.

    FILE is NAME.rtdc, also before that name exists, a folder (the unfinished recordings in it) or
    a pattern. Shown are the durable events (those that would survive a kill of the writer now),
    the rate, the size of the file, and of a single one deformation against area of the newest
    events. On a terminal the display is renewed, else a line is printed at each look. The writers
    are not disturbed: their journals are read, and HDF5 is not used. The exit code is 0 if all
    have finished, 1 if one was given up (--stall-timeout), 2 if one cannot be followed, or its
    writer is gone.
    """
    followed = [_Followed(path) for path in _names(files)]
    view = _view(n_files=len(followed), as_json=as_json, quiet=quiet)
    pause = threading.Event()
    try:
        with view:
            while True:
                waiting = [item for item in followed if item.state == "writing"]
                for item in waiting:
                    item.look(stall_s)
                view.show(waiting)
                if once or all(item.state != "writing" for item in followed):
                    break
                pause.wait(interval)
    finally:
        for item in followed:
            item.close()
    for item in followed:
        if item.error:
            fail(item.error)
        elif item.state == "finished" and not as_json:
            print_text(f"{clean(str(item.path))}: finished with {item.n_events:,} events")
    codes: dict[State, int] = {"writing": 0, "finished": 0, "stalled": 1, "failed": 2}
    ctx.exit(max(codes[item.state] for item in followed))


def _names(files: Sequence[Path]) -> list[Path]:
    """NAME.rtdc of each recording, once."""
    typed = []
    for path in files:
        typed.append(path)
        if is_pattern(path) and not path.name.endswith("*"):
            # *.rtdc stands for those that are being written, too
            part = path.with_name(path.name + ".part")
            if expand_inputs([part], _PART) != [part]:
                typed[-1:] = [part, *([path] if expand_inputs([path]) != [path] else [])]
    return list(dict.fromkeys(map(_target, expand_inputs(typed, _PART))))


def _target(path: Path) -> Path:
    if path.is_dir():
        return path
    return path.with_name(path.name.removesuffix(".part").removesuffix(".journal"))


class _Rate:
    """Events per second since the look before."""

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None
        self._changed = time.monotonic()
        self.idle_s = 0.0

    def update(self, n_events: int) -> float:
        now = time.monotonic()
        last, self._last = self._last, (now, n_events)
        if last is None or n_events != last[1]:
            self._changed = now
        self.idle_s = now - self._changed
        if last is None or now <= last[0]:
            return 0.0
        return (n_events - last[1]) / (now - last[0])


@dataclass(slots=True)
class _Followed:
    """One recording and what was seen of it."""

    path: Path
    state: State = "writing"
    n_events: int = 0
    rate: float = 0.0
    size_bytes: int = 0
    error: str = ""
    recording: LiveRecording | None = None
    _rate: _Rate = field(default_factory=_Rate)

    def look(self, stall_s: float | None) -> None:
        """See what is new."""
        try:
            if self.recording is None:
                self.recording = LiveRecording(self.path)
            self.n_events = self.recording.refresh()
            self.size_bytes = self.recording.size_bytes
        except (DCWriteError, OSError) as exc:
            self.state = "failed"
            self.error = self._problem() or shown_error(exc)
            return
        self.rate = self._rate.update(self.n_events)
        if self.recording.finished:
            self.state = "finished"
        elif stall_s is not None and self._rate.idle_s >= stall_s:
            self.state = "stalled"
            self.error = (
                f"'{self.path}': nothing new for {self._rate.idle_s:.0f} s; look after its writer "
                f"(its {self.n_events:,} durable events are safe)"
            )

    def _problem(self) -> str | None:
        """What is wrong with a name that stands for no recording."""
        if self.path.is_dir() or is_pattern(self.path):
            return input_problem(self.path, _PART)
        return None

    def close(self) -> None:
        if self.recording is not None:
            self.recording.close()

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "path": str(self.path),
            "state": self.state,
            "n_events": self.n_events,
            "events_per_s": round(self.rate, 3),
            "size_bytes": self.size_bytes,
        }
        return {**found, "error": self.error} if self.error else found


# -- views ----------------------------------------------------------------------------------


class _View:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        pass

    def show(self, followed: Sequence[_Followed]) -> None:
        """Show what was seen at a look."""


def _view(*, n_files: int, as_json: bool, quiet: bool) -> _View:
    if as_json:
        return _JsonView(only_ends=quiet)
    if quiet:
        return _View()
    return _TerminalView() if sys.stdout.isatty() else _LineView(n_files > 1)


class _JsonView(_View):
    """One JSON object per look and file."""

    def __init__(self, *, only_ends: bool) -> None:
        self._only_ends = only_ends

    def show(self, followed: Sequence[_Followed]) -> None:
        for item in followed:
            if not self._only_ends or item.state != "writing":
                print_text(json.dumps({"time": round(time.time(), 3), **item.to_dict()}))
        sys.stdout.flush()


class _LineView(_View):
    """One line per look and file."""

    def __init__(self, with_names: bool) -> None:
        self._with_names = with_names

    def show(self, followed: Sequence[_Followed]) -> None:
        for item in followed:
            if item.state != "failed" or item.n_events:
                name = f"{clean(str(item.path))}: " if self._with_names else ""
                print_text(
                    f"{name}{item.n_events:,} durable events, {item.rate:,.0f} events/s, "
                    f"{size(item.size_bytes)}"
                )
        sys.stdout.flush()


class _TerminalView(_View):
    """A display that is renewed: a table of all files, and the newest events of a single one."""

    def __init__(self) -> None:
        self._live = Live(console=Console(), transient=True, auto_refresh=False)
        self._shown: dict[Path, _Followed] = {}

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._live.__exit__(exc_type, exc_val, exc_tb)

    def show(self, followed: Sequence[_Followed]) -> None:
        self._shown |= {item.path: item for item in followed}
        items = list(self._shown.values())
        parts: list[RenderableType] = [_table(items)]
        if len(items) == 1 and items[0].recording is not None:
            try:
                picture = _scatter(items[0].recording, items[0].n_events)
            except DCWriteError:
                picture = ""  # the file was finished between two looks
            if picture:
                parts.append(Text(picture))
        self._live.update(Group(*parts), refresh=True)


def _table(items: Sequence[_Followed]) -> Table:
    table = Table(
        Column("file", overflow="fold"),
        "state",
        *(Column(name, justify="right") for name in ("durable events", "events/s", "size")),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for item in items:
        table.add_row(
            Text(clean(str(item.path))),
            item.state,
            f"{item.n_events:,}",
            f"{item.rate:,.0f}",
            size(item.size_bytes),
        )
    return table


def _scatter(recording: LiveRecording, n_events: int) -> str:
    """Deformation against area of the newest events, in characters; "" without these features."""
    if not n_events or not {"area_um", "deform"} <= set(recording.features):
        return ""
    newest = slice(max(0, n_events - _SHOWN), n_events)
    area = np.asarray(recording["area_um"][newest], dtype=float)
    deform = np.asarray(recording["deform"][newest], dtype=float)
    valid = np.isfinite(area) & np.isfinite(deform)
    area, deform = area[valid], deform[valid]
    if not area.size:
        return ""
    x_end, y_end = (float(np.percentile(values, 99)) or 1.0 for values in (area, deform))
    counts, _, _ = np.histogram2d(
        deform, area, bins=(_ROWS, _COLUMNS), range=((0, y_end), (0, x_end))
    )
    scale = np.sqrt(counts / max(1.0, counts.max())) * (len(_SHADES) - 1)
    shades = np.ceil(scale).astype(int)
    lines = ["|" + "".join(_SHADES[shade] for shade in row) for row in shades[::-1]]
    return "\n".join(
        [
            f"deformation, 0 to {y_end:.3f}",
            *lines,
            "+" + "-" * _COLUMNS,
            f"area, 0 to {x_end:.0f} µm²".rjust(_COLUMNS),
        ]
    )
