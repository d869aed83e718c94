"""`dcwrite recover`: a clean recording from an unfinished or damaged one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from ..store.recover import RecoveryReport
from ..store.recover import recover as run_recover
from .console import Command, clean, print_json, print_text

__all__ = ["recover"]

_EXAMPLE: Final = """\b
Example:
  dcwrite recover measurement.rtdc.part
  dcwrite recover measurement.rtdc.part /other/disk/measurement.rtdc
"""
#: Lines of what was lost that are shown; all of them are in the log "dcwrite-recover".
_SHOWN: Final = 20


@click.command(cls=Command, epilog=_EXAMPLE)
@click.argument("path_in", metavar="IN", type=click.Path(path_type=Path))
@click.argument("path_out", metavar="[OUT.rtdc]", required=False, type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option(
    "--cut-damaged",
    is_flag=True,
    help="Go on after damaged events, and leave them out; else the output ends before them.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=600,
    show_default=True,
    help="Seconds for reading a file that has no journal.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as a JSON object.")
@click.pass_context
def recover(
    ctx: click.Context,
    path_in: Path,
    path_out: Path | None,
    overwrite: bool,
    cut_damaged: bool,
    timeout_s: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write a clean recording with all whole events of an unfinished or damaged one.

    IN is NAME.rtdc.part (or NAME.rtdc, where that and its journal are beside it), or any .rtdc
    file that was not closed or is damaged; it is only read. OUT.rtdc may be on another disk. The
    exit code is 0 if all committed events were rescued, 1 if something is lost, 2 if nothing
    could be rescued.
    """
    report = run_recover(
        path_in, path_out, overwrite=overwrite, cut_damaged=cut_damaged, timeout_s=timeout_s
    )
    if as_json:
        print_json(report.to_dict())
    else:
        _print_report(report, quiet=quiet)
    ctx.exit(report.exit_code)


def _print_report(report: RecoveryReport, *, quiet: bool) -> None:
    if not quiet:
        print_text(
            f"{clean(str(report.path_out))}: {report.n_events:,} of {report.n_announced:,} events "
            f"rescued from {clean(str(report.path_in))}"
        )
        for note in report.notes:
            print_text(f"  note: {clean(note)}")
    for line in report.damaged[:_SHOWN]:
        print_text(f"  lost: {clean(line)}")
    if len(report.damaged) > _SHOWN:
        print_text(f"  lost: {len(report.damaged) - _SHOWN} more (log 'dcwrite-recover')")
    if not quiet and not report.damaged:
        print_text("Check it with `dcwrite verify`, then delete the unfinished files.")
