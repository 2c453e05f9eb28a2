"""Handlers of child processes in which OpenTelemetry is set up, imported by them as ``traced_app:app``."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from tq.handlers import TaskQueue

trace.set_tracer_provider(TracerProvider())
app = TaskQueue()


def span_of_a_library() -> list[str]:
    """The trace and the parent of a span that is made here."""
    with trace.get_tracer("library").start_as_current_span("asked") as span:
        assert isinstance(span, ReadableSpan)
        parent = 0 if span.parent is None else span.parent.span_id
        return [f"{span.get_span_context().trace_id:032x}", f"{parent:016x}"]


@app.task("render", isolation="process")
def render() -> list[str]:
    return span_of_a_library()


@app.task("render_async", isolation="process", backend="asyncio")
async def render_async() -> list[str]:
    return span_of_a_library()
