"""Spans of OpenTelemetry: one where a task is submitted, and one for each attempt, linked to it.

Knows tasks, and imports OpenTelemetry only where something else has: who does not use it pays nothing.
No span has a payload, a result or the message of an error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tq import __version__
from tq.core.task import Failure, Lease, NewTask, Outcome

if TYPE_CHECKING:
    from opentelemetry.trace import Link, TracerProvider

Told = Callable[[Outcome | None], None]
"""To be told what came of an attempt, before its span ends."""


def find_tracing() -> Tracing | None:
    """Tracing by the tracer provider that the app, or what started Python, has set; None if none did."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider

    provider = get_tracer_provider()
    return None if isinstance(provider, ProxyTracerProvider) else Tracing(provider)


class Tracing:
    """Spans of *provider*, under the names of the semantic conventions for messaging."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = provider.get_tracer("tq", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def submitted(self, new: NewTask) -> NewTask:
        """*new* with the span of its submit, which is a child of the one that it came with."""
        from opentelemetry.trace import SpanKind

        before = new.options.traceparent
        span = self._tracer.start_span(
            f"submit {new.type}",
            context=None if before is None else self._propagator.extract({"traceparent": before}),
            kind=SpanKind.PRODUCER,
            attributes=_attributes("send", new.id, new.type, new.queue),
        )
        span.end()
        context = span.get_span_context()
        if not context.is_valid:
            return new
        trace = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        return replace(new, options=replace(new.options, traceparent=trace))

    @contextmanager
    def attempt(self, lease: Lease) -> Iterator[Told]:
        """The span of an attempt at *lease*, the current one meanwhile; a trace of its own, with a link."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, Status, StatusCode

        with self._tracer.start_as_current_span(
            f"process {lease.type}",
            context=Context(),
            kind=SpanKind.CONSUMER,
            links=self._links(lease.options.traceparent),
            attributes=_attributes("process", lease.task_id, lease.type, lease.queue)
            | {"tq.attempt": lease.attempt},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:

            def tell(outcome: Outcome | None) -> None:
                name = "stopped" if outcome is None else type(outcome).__name__.lower()
                span.set_attribute("tq.outcome", name)
                if isinstance(outcome, Failure):
                    span.set_attribute("error.type", outcome.type)
                    span.set_status(Status(StatusCode.ERROR, outcome.reason))

            yield tell

    def current(self) -> str | None:
        """The current span as W3C Trace Context writes it, for another process; None if there is none."""
        found: dict[str, str] = {}
        self._propagator.inject(found)
        return found.get("traceparent")

    @contextmanager
    def within(self, traceparent: str | None) -> Iterator[None]:
        """Have the span of another process be the current one, if there is one."""
        from opentelemetry import context

        if traceparent is None:
            yield
            return
        before = context.attach(self._propagator.extract({"traceparent": traceparent}))
        try:
            yield
        finally:
            context.detach(before)

    def _links(self, traceparent: str | None) -> list[Link]:
        from opentelemetry.trace import Link, get_current_span

        if traceparent is None:
            return []
        context = self._propagator.extract({"traceparent": traceparent})
        return [Link(get_current_span(context).get_span_context())]


def _attributes(operation: str, task_id: str, type: str, queue: str) -> dict[str, str | int]:
    return {
        "messaging.system": "tq",
        "messaging.operation.type": operation,
        "messaging.destination.name": queue,
        "messaging.message.id": task_id,
        "tq.type": type,
    }
