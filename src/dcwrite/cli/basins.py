"""`dcwrite basins`: a file that refers to other recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from ..tools.link import LinkSummary, link
from .console import Command, ProgressView, clean, print_json, print_table, print_text
from .inputs import inputs_argument

__all__ = ["basins"]

_EXAMPLE: Final = """\b
Example:
  dcwrite basins all.rtdc measured.rtdc fluorescence.rtdc
  dcwrite basins chosen.rtdc measured.rtdc --mapping chosen.txt --features deform,image
"""


@click.command(cls=Command, epilog=_EXAMPLE)
@click.argument("path_out", metavar="OUT.rtdc", type=click.Path(path_type=Path))
@inputs_argument("paths", "IN.rtdc...")
@click.option(
    "--features",
    metavar="LIST",
    help="Names and patterns (fl*) that OUT.rtdc provides, separated by commas.  [default: all]",
)
@click.option(
    "--mapping",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Numbers of the events, from 0, that OUT.rtdc has (text, CSV with a column 'event', "
    ".npy).  [default: all]",
)
@click.option(
    "--relative-only", is_flag=True, help="Leave absolute paths out; for folders that are moved."
)
@click.option(
    "--basin-root",
    "basin_roots",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder below which basins of the inputs may be opened, besides those of the inputs; "
    "repeatable.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing OUT.rtdc.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as a JSON object.")
@click.pass_context
def basins(ctx: click.Context, /, as_json: bool, quiet: bool, **options: Any) -> None:
    """Write a file that refers to recordings of one measurement.

    Nothing is copied but metadata, logs and tables: OUT.rtdc has all features of the recordings
    as long as these are there. They have to have the same events and the same measurement
    identifier. What a recording refers to itself is listed by `dcwrite info`. The exit code is 1
    if something cannot be reached through OUT.rtdc from here.
    """
    with ProgressView(quiet=quiet or len(options["paths"]) == 1) as view:
        summary = link(**options, progress=view)
    if as_json:
        print_json(summary.to_dict())
    elif not quiet:
        _print_summary(summary)
    for note in summary.notes:
        click.echo(f"Note: {clean(note)}", err=True)
    if summary.notes:
        ctx.exit(1)


def _print_summary(summary: LinkSummary) -> None:
    print_text(
        f"{clean(str(summary.path_out))} is written: {summary.n_events:,} events, "
        f"{len(summary.features)} features through basins."
    )
    print_table(
        ("basin", "locations", "mapping", "features", "reachable"),
        [
            (
                str(basin["name"]),
                ", ".join(basin["locations"]),
                basin["mapping"] or "same",
                f"{len(basin['features'])}" if basin["reachable"] else "",
                "yes" if basin["reachable"] else "no",
            )
            for basin in summary.basins
        ],
        right=("features",),
    )
