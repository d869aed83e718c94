"""Run the benchmarks and print their table: ours, peer, limit, ratio, target, met or not.

``python benchmarks/run.py`` runs all rows; ``--only 6`` one of them (may be given several times),
``--quick`` all with sizes that only show that they run, ``--json FILE`` keeps all measured values,
``--markdown`` prints the table of docs/performance.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import channels
import copying
import joining
import latency
import memory
import scaling
import selecting
import storing
import streaming
import tools
from measure import HEADINGS, Context, Row, machine

__all__ = ["ROWS", "main"]

ROWS: dict[str, Callable[[Context], Iterator[Row]]] = {
    "1": storing.batches_of_500,
    "2": storing.small_batches,
    "3": storing.many_scalars,
    "4": streaming.multiprocessing_queue,
    "5": streaming.event_queue,
    "6": streaming.full_events,
    "7": copying.selections,
    "8": storing.uncompressed,
    "9": memory.peaks,
    "10": scaling.lengths,
    "11": streaming.durabilities,
    "12": latency.latencies,
    "13": scaling.serial_fraction,
    "14": channels.transports,
    "15": tools.compressions,
    "16": joining.joins_and_splits,
    "17": selecting.selections_by_condition,
}

WIDTHS = (4, 62, 11, 11, 11, 12, 8, 8, 4)


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 1 if a target was missed (never with ``--quick``)."""
    parser = argparse.ArgumentParser(description="Compare dcwrite with its peers.")
    parser.add_argument(
        "--only", action="append", choices=list(ROWS), metavar="ROW",
        help=f"row to run, may be given several times: {', '.join(ROWS)}",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="small sizes; figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all measured values")
    parser.add_argument("--markdown", action="store_true", help="print the table for the docs")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where files are written"
    )
    options = parser.parse_args(arguments)
    context = Context(quick=options.quick, folder=options.folder)
    header = machine()
    out = sys.stderr if options.markdown else sys.stdout
    print("\n".join(f"{name:>11}: {value}" for name, value in header.items()), file=out)
    if options.quick:
        print("\n--quick: small sizes, few rounds; these figures mean nothing", file=out)
    print("\n" + _line(HEADINGS), file=out, flush=True)
    rows = []
    for number in options.only or ROWS:
        start = time.perf_counter()
        for row in ROWS[number](context):
            rows.append(row)
            print(
                _line(_cells(row, options.quick)) + f"  {row.note}".rstrip(), file=out, flush=True
            )
        print(f"     ({time.perf_counter() - start:.0f} s)", file=out, flush=True)
    if options.json is not None:
        content = {
            "machine": header,
            "quick": options.quick,
            "rows": [_plain(row) for row in rows],
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        print(_markdown(header, rows, " ".join(arguments or sys.argv[1:]), options.quick))
    missed = [] if options.quick else [row for row in rows if row.met is False]
    for row in missed:
        print(f"missed: row {row.number}, {row.title}: {row.ratio:.3g} {row.target}", file=out)
    return int(bool(missed))


def _cells(row: Row, quick: bool) -> list[str]:
    """Cells of a row; figures that mean nothing meet no target."""
    cells = row.cells()
    return [*cells[:-2], "", ""] if quick else cells


def _line(cells: tuple[str, ...] | list[str]) -> str:
    parts = []
    for position, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True)):
        parts.append(f"{cell:>{width}}" if position in {2, 3, 4, 6} else f"{cell:<{width}}")
    return " ".join(parts).rstrip()


def _plain(row: Row) -> dict[str, object]:
    return {**dataclasses.asdict(row), "target": row.target, "met": row.met}


def _markdown(header: dict[str, str], rows: list[Row], arguments: str, quick: bool) -> str:
    lines = [
        *(["**Not to be published: run with --quick.**", ""] if quick else []),
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * len(header),
        "| " + " | ".join(header.values()) + " |",
        "",
        f"Command: `python benchmarks/run.py {arguments}`".rstrip(),
        "",
        "| " + " | ".join((*HEADINGS, "limited by", "notes")) + " |",
        "| --- | --- |" + " ---: |" * 3 + " --- | ---: |" + " --- |" * 4,
    ]
    lines += [
        "| " + " | ".join((*_cells(row, quick), row.limited_by, row.note)) + " |" for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
