"""Spans of submits and attempts, as an exporter of OpenTelemetry gets them; and none where it is not used."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence

import pytest
import trio.testing
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tiers import slow, tiered

from tq.context import Context
from tq.engine.processes import python_child
from tq.handlers import TaskQueue
from tq.testing.kit import finished, open_server, submit
from tq.tracing import Tracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
SECRET = "canary-7f3a9c51"


class Spans:
    """A tracing whose spans are kept here once they have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(provider)

    def of(self, kind: SpanKind) -> Sequence[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.kind is kind]


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("report", queue="slow", max_attempts=2, retry={"base": 1, "jitter": 0})
    async def report(secret: str, ctx: Context) -> str:
        if ctx.attempt == 1:
            raise ValueError(secret)
        return f"{trace.get_current_span().get_span_context().span_id:016x}"

    @queue.task("plain")
    def plain() -> str:
        return f"{trace.get_current_span().get_span_context().span_id:016x}"

    return queue


def ids(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


async def test_a_submit_is_a_span_below_that_of_its_request_and_is_kept_with_the_task(
    queue: TaskQueue, spans: Spans, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_server(queue, tracing=spans.tracing) as server:
        task_id = await submit(server, type="plain", traceparent=f"00-{TRACE}-{SPAN}-01")
        task = await finished(server, task_id)
    (span,) = spans.of(SpanKind.PRODUCER)
    assert span.name == "submit plain"
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == SPAN
    assert ids(span)[0] == TRACE
    assert task.options.traceparent == f"00-{TRACE}-{ids(span)[1]}-01"
    assert dict(span.attributes or {}) == {
        "messaging.system": "tq",
        "messaging.operation.type": "send",
        "messaging.destination.name": "default",
        "messaging.message.id": task_id,
        "tq.type": "plain",
    }


async def test_each_attempt_is_a_span_of_its_own_trace_linked_to_the_submit(
    queue: TaskQueue, spans: Spans, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_server(queue, tracing=spans.tracing) as server:
        task = await finished(server, await submit(server, type="report", payload={"secret": SECRET}))
    (sent,) = spans.of(SpanKind.PRODUCER)
    first, second = spans.of(SpanKind.CONSUMER)
    assert [span.name for span in (first, second)] == ["process report"] * 2
    for span in (first, second):
        (link,) = span.links
        assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == ids(sent)
        assert span.parent is None
    assert len({ids(span)[0] for span in (sent, first, second)}) == 3
    assert [(span.attributes or {})["tq.attempt"] for span in (first, second)] == [1, 2]
    assert [(span.attributes or {})["tq.outcome"] for span in (first, second)] == ["failure", "success"]
    assert (first.status.status_code, first.status.description) == (StatusCode.ERROR, "error")
    assert (first.attributes or {})["error.type"] == "ValueError"
    assert second.status.status_code is StatusCode.UNSET
    assert task.result == f'"{ids(second)[1]}"', "current while the handler runs"
    assert not [span for span in (sent, first, second) if SECRET in span.to_json()]


async def test_the_span_is_the_current_one_in_a_plain_handler_too(
    queue: TaskQueue, spans: Spans, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_server(queue, tracing=spans.tracing) as server:
        task = await finished(server, await submit(server, type="plain"))
    (span,) = spans.of(SpanKind.CONSUMER)
    assert task.result == f'"{ids(span)[1]}"'


async def test_the_span_is_the_current_one_on_an_asyncio_loop_too(spans: Spans) -> None:
    queue = TaskQueue()

    @queue.task("on_asyncio", backend="asyncio")
    async def on_asyncio() -> list[str]:
        found = [trace.get_current_span()]
        await asyncio.sleep(0)
        found.append(await asyncio.create_task(current_span()))
        return [f"{span.get_span_context().span_id:016x}" for span in found]

    async def current_span() -> trace.Span:
        return trace.get_current_span()

    async with open_server(queue, tracing=spans.tracing) as server:
        tasks = [await finished(server, await submit(server, type="on_asyncio")) for _ in range(2)]
    attempts = spans.of(SpanKind.CONSUMER)
    assert [json.loads(task.result or "") for task in tasks] == [[ids(span)[1]] * 2 for span in attempts]


@pytest.mark.parametrize("type", tiered(["render", "render_async"]))
async def test_spans_in_a_process_are_below_that_of_the_attempt(spans: Spans, type: str) -> None:
    spawn = python_child("traced_app:app")
    async with open_server(no_render(), tracing=spans.tracing, spawn=spawn) as server:
        tasks = [await finished(server, await submit(server, type=type)) for _ in range(2)]
    attempts = spans.of(SpanKind.CONSUMER)
    assert [json.loads(task.result or "") for task in tasks] == [list(ids(span)) for span in attempts]


async def test_in_a_process_of_a_server_without_tracing_spans_are_roots() -> None:
    async with open_server(no_render(), spawn=python_child("traced_app:app")) as server:
        task = await finished(server, await submit(server, type="render"))
    assert json.loads(task.result or "")[1] == "0" * 16


def no_render() -> TaskQueue:
    """The types of `traced_app`, which is for its child processes alone: it is for the whole of a process."""
    queue = TaskQueue()
    for type in ("render", "render_async"):
        queue.task(type, isolation="process")(lambda: None)
    return queue


async def test_without_tracing_a_task_keeps_the_span_it_came_with(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    given = f"00-{TRACE}-{SPAN}-01"
    async with open_server(queue) as server:
        task = await finished(server, await submit(server, type="plain", traceparent=given))
    assert task.options.traceparent == given


@pytest.mark.parametrize(
    ("first", "found"),
    [
        ("", "None False"),
        pytest.param("import opentelemetry.trace", "None True", marks=slow),
        (
            "from opentelemetry import trace; from opentelemetry.sdk.trace import TracerProvider;"
            " trace.set_tracer_provider(TracerProvider())",
            "Tracing True",
        ),
    ],
)
def test_nothing_is_imported_or_traced_unless_something_else_has_set_it_up(first: str, found: str) -> None:
    code = f"""{first}
import sys, tq.cli.serving
from tq.tracing import find_tracing
tracing = find_tracing()
print("None" if tracing is None else type(tracing).__name__, "opentelemetry" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found
