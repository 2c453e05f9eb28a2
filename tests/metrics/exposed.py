"""Reads what a server exposes, as Prometheus would."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import trio
from prometheus_client.parser import text_string_to_metric_families

from tq.engine.server import Server
from tq.engine.services import FrontDoor
from tq.handlers import TaskQueue
from tq.metrics.meter import Meter
from tq.testing.kit import open_server

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """Each sample of *text* by its name and labels; none comes twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, key
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def of(found: Samples, name: str) -> dict[tuple[str, ...], float]:
    """The samples of *name*, by the values of their labels in the order of the labels' names."""
    return {
        tuple(text for _, text in sorted(labels)): number
        for (each, labels), number in found.items()
        if each == name
    }


async def exposed(server: Server) -> Samples:
    """What *server* exposes now."""
    assert server.write_metrics is not None
    return samples((await server.write_metrics(openmetrics=False)).decode())


async def no_door(*, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()


def measure(server: Server) -> FrontDoor:
    Meter(server)
    return no_door


def open_measured(queue: TaskQueue, **given: Any) -> AbstractAsyncContextManager[Server]:
    """A server that is measured from its start."""
    return open_server(queue, front_door=measure, **given)
