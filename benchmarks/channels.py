"""Row 14: from a worker process to sorted batches, without compression or disk."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import transport
from measure import Context, Row
from producers import SPAWN

from dcwrite.stream.channel import EventQueue

__all__ = ["transports"]


def transports(context: Context) -> Iterator[Row]:
    """Row 14: both queues, with events of 77 kB, and the time from put to batch."""
    n_frames = context.size(8000, 120)
    ways: dict[str, tuple[Callable[[], Any], int, int]] = {
        "peer": (SPAWN.Queue, 1, n_frames // 4),
        "ours": (EventQueue, 1, n_frames),
        "batches": (EventQueue, transport.BATCH, n_frames),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(context.rounds + (not context.quick)):
        for name, (make_queue, batch, n_put) in ways.items():
            values = transport.measure(make_queue, n_put, batch)
            if number or context.quick:
                found[name].append(values)
    rates, cpus_us = (
        {name: statistics.median(value[which] for value in runs) for name, runs in found.items()}
        for which in (0, 1)
    )
    for name, what in (("ours", "EventQueue.put"), ("batches", "EventQueue.put_batch, 40 frames")):
        samples = {"ours": found[name], "peer": found["peer"]}
        yield Row(
            "14",
            f"worker to sorted batches, full events, {what}; peer: multiprocessing.Queue",
            "events/s",
            ours=rates[name],
            peer=rates["peer"],
            limited_by="copies of the images",
            note=f"CPU {cpus_us[name]:.0f} us/event on both sides, peer {cpus_us['peer']:.0f}",
            samples={who: [value[0] for value in values] for who, values in samples.items()},
        )
    waits_us = {
        name: transport.latencies(make_queue, context.size(2000, 40))
        for name, make_queue in (("ours", EventQueue), ("peer", SPAWN.Queue))
    }
    p99 = {name: float(np.percentile(values, 99)) for name, values in waits_us.items()}
    yield Row(
        "14",
        "99 % of puts to the batch, one frame under way",
        "us",
        ours=p99["ours"],
        peer=p99["peer"],
        ratio=p99["ours"] / p99["peer"],
        limited_by="waking the reader",
        note=f"median {np.median(waits_us['ours']):.0f} us, peer "
        f"{np.median(waits_us['peer']):.0f} us",
    )
