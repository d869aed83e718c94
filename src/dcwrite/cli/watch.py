"""`dcwrite watch`: a recording while it is written."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import click
import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..errors import DCWriteError
from ..store.live import LiveRecording
from .console import Command, print_text, size

__all__ = ["watch"]

_EXAMPLE: Final = """\b
Example:
  dcwrite watch measurement.rtdc
"""
#: Cells of the picture in the terminal, and the events that it shows.
_COLUMNS, _ROWS, _SHOWN = 60, 16, 5000
_SHADES: Final = " .:*#@"


@click.command(cls=Command, epilog=_EXAMPLE)
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--interval",
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
def watch(path: Path, interval: float, quiet: bool) -> None:
    """Follow a recording while it is written, and end when its writer has finished.

    FILE is NAME.rtdc, also before that name exists. Shown are the durable events (those that
    would survive a kill of the writer now), the rate, the size of the file, and deformation
    against area of the newest events. On a terminal the display is renewed, else a line is
    printed at each look. The writer is not disturbed: its journal is read, and HDF5 is not used.
    """
    is_terminal = sys.stdout.isatty() and not quiet
    with LiveRecording(path) as recording:
        view = _TerminalView() if is_terminal else _LineView(quiet=quiet)
        with view:
            rate = _Rate()
            pause = threading.Event()
            while True:
                n_events = recording.refresh()
                view.show(recording, n_events, rate.update(n_events))
                if recording.finished:
                    break
                pause.wait(interval)
        print_text(f"{path}: finished with {len(recording):,} events")


class _Rate:
    """Events per second since the look before."""

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None

    def update(self, n_events: int) -> float:
        now = time.monotonic()
        last, self._last = self._last, (now, n_events)
        if last is None or now <= last[0]:
            return 0.0
        return (n_events - last[1]) / (now - last[0])


class _LineView:
    """One line per look."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        pass

    def show(self, recording: LiveRecording, n_events: int, rate: float) -> None:
        if not self._quiet:
            print_text(
                f"{n_events:,} durable events, {rate:,.0f} events/s, {size(recording.size_bytes)}"
            )


class _TerminalView:
    """A display that is renewed."""

    def __init__(self) -> None:
        self._live = Live(console=Console(), transient=True, auto_refresh=False)

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

    def show(self, recording: LiveRecording, n_events: int, rate: float) -> None:
        table = Table.grid(padding=(0, 2))
        table.add_row("durable events", f"{n_events:,}")
        table.add_row("rate", f"{rate:,.0f} events/s")
        table.add_row("file", size(recording.size_bytes))
        table.add_row("features", f"{len(recording.features)}")
        parts: list[RenderableType] = [table]
        try:
            picture = _scatter(recording, n_events)
        except DCWriteError:
            picture = ""  # the file was finished between two looks
        if picture:
            parts.append(Text(picture))
        self._live.update(Group(*parts), refresh=True)


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
