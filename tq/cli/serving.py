"""``tq serve`` and ``tq demo``: one server in this process, from its sockets to its last line."""

from __future__ import annotations

import gc
import math
import os
import random
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import Final, TypeVar

import trio

from tq import __version__
from tq.api.access import Answered, OnRequest
from tq.api.app import make_app
from tq.api.origin import OriginPolicy
from tq.api.routes import ROUTES
from tq.api.serve import CannotListen, Traffic, bind_sockets, serve_http
from tq.cli.exits import Exit, Fault
from tq.cli.streams import drop
from tq.cli.supervisor import Supervisor
from tq.clock import Clock, SystemClock, run_in_thread
from tq.config import Address, Config, format_duration, without_password
from tq.core.errors import StorageError
from tq.core.events import Event, HttpAnswered
from tq.core.queries import GetKeys
from tq.core.task import ServerId
from tq.engine.processes import python_child
from tq.engine.server import Server, Settings, new_server_id
from tq.engine.services import run_server
from tq.handlers import TaskQueue
from tq.logs import Log, open_log, printable, route_libraries
from tq.metrics.meter import Meter
from tq.storage.store import Store, open_store
from tq.tracing import find_tracing

T = TypeVar("T")

METHOD_MAX: Final = 20
"""Characters of a method that a line keeps."""

SWITCH_INTERVAL_S: Final = 0.001
"""The store's thread takes the GIL back several times per transaction, and beside a busy loop waits one
switch interval each time: with Python's own 5 ms a batch of 100 took 6 ms instead of 1."""


GC_THRESHOLDS: Final = (20_000, 50, 1_000)
"""Objects, and passes, between two passes of the collector. With Python's own 700, 10 and 10 a pass over all
comes often, and stands still for as long as there are objects: 1.2 s beside 10,000 streams."""


def run(queue: TaskQueue, config: Config) -> Exit:
    """Serve *queue* until a signal ends it. What the user can mend is found before anything starts."""
    log = open_log(format=config.log_format, level=config.log_level)
    route_libraries(log)
    raise_files_limit()
    with ExitStack() as opened:
        sockets = [opened.enter_context(sock) for sock in _bind(config)]
        chance = random.Random()
        server_id = new_server_id(chance)
        store = opened.enter_context(closing(_open_store(config, name=f"tq {server_id}")))
        _check_bind(config, store)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc.set_threshold(*GC_THRESHOLDS)
        trio.run(partial(_serve, queue, store, sockets, config, log, server_id=server_id, chance=chance))
    return Exit.OK


def raise_files_limit() -> None:
    """Let this process have as many files open as the system allows it: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems name a hard limit that they then do not grant; the soft one stays.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _bind(config: Config) -> list[socket.socket]:
    try:
        return bind_sockets([str(config.bind)])
    except CannotListen as error:
        raise Fault(Exit.CANNOT_BIND, str(error)) from None


def _check_bind(config: Config, store: Store) -> None:
    """Return if the server may listen where it is told to: without keys, whoever reaches it may do all."""
    if config.bind.is_loopback or store.read(GetKeys()):
        return
    what = f"make the first with `tq keys create --name NAME --scope admin --store {config.store}`"
    if config.store == "memory:":
        what = "a store in memory has no keys at the start: choose another with --store"
    raise Fault(
        Exit.USAGE,
        f"--bind {config.bind}: there are no keys yet, and without one only loopback is listened on: {what}",
    )


def _open_store(config: Config, *, name: str) -> Store:
    try:
        return open_store(config.store, durable=config.durability == "full", name=name)
    except StorageError as error:
        raise Fault(Exit.CANNOT_OPEN_STORE, error.message) from None


async def _serve(
    queue: TaskQueue,
    store: Store,
    sockets: list[socket.socket],
    config: Config,
    log: Log,
    *,
    server_id: ServerId,
    chance: random.Random,
) -> None:
    # Each thread is a worker's, so the pool is the limit; trio's own of 40 would be another.
    threads = trio.CapacityLimiter(math.inf)
    own_threads = trio.CapacityLimiter(math.inf)

    async def run_handler(function: Callable[[], T], /) -> T:
        return await trio.to_thread.run_sync(function, limiter=threads)

    async def run_own(function: Callable[[], T], /) -> T:
        # A handful of callers, who would else wait behind 40 requests that wait for the store.
        return await trio.to_thread.run_sync(function, limiter=own_threads)

    supervisor = Supervisor(os.environ, pid=os.getpid())

    def emit(event: Event) -> None:
        log.event(event)
        supervisor.hear(event)

    server = Server(
        queue,
        store,
        settings=Settings(
            workers=config.workers.minimum,
            workers_max=config.workers.maximum,
            buffer=config.buffer,
            timeout_s=config.timeout_ms / 1000,
            grace_s=config.grace_ms / 1000,
            host=socket.gethostname(),
            pid=os.getpid(),
            url=f"http://{Address(*sockets[0].getsockname()[:2])}",
        ),
        clock=SystemClock(),
        random=chance,
        run_sync=run_in_thread,
        run_handler=run_handler,
        emit=emit,
        spawn=None if queue.reference is None else python_child(queue.reference),
        tracing=find_tracing(),
        id=server_id,
        run_own=run_own,
    )
    traffic = Traffic()
    app = make_app(
        server,
        origins=OriginPolicy(config.hosts),
        on_request=None if config.access_log == "off" else access_log(log, server.clock),
        secrets=random.SystemRandom(),
        meter=Meter(server, traffic),
        address_rate=config.address_rate,
        root_path=config.root_path,
    )
    front_door = partial(serve_http, app, sockets, draining=server.draining, traffic=traffic)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as beside:
            beside.start_soon(supervisor.run)
            async with trio.open_nursery() as nursery:
                run = partial(run_server, server, front_door=front_door, signals=signals, exit_now=os._exit)
                await nursery.start(run)
                _announce(queue, sockets, config)
            beside.cancel_scope.cancel()


def access_log(log: Log, clock: Clock) -> OnRequest:
    """Writes a line for each request that is over."""

    def write(answered: Answered) -> None:
        log.event(
            HttpAnswered(
                at=clock.now_ms(),
                method=printable(answered.method[:METHOD_MAX]),
                route=answered.route or None,
                path=printable(answered.path) or None,
                status=answered.status,
                duration_ms=round(answered.duration_ms, 1),
                sent_bytes=answered.sent_bytes,
                complete=answered.complete,
                key_id=answered.key_id,
                request_id=answered.request_id,
            )
        )

    return write


def _announce(queue: TaskQueue, sockets: list[socket.socket], config: Config) -> None:
    """Tell, on stdout, where the server is (the first line, for scripts), what it serves, how to stop."""
    first, *others = [f"http://{Address(*each.getsockname()[:2])}{config.root_path}" for each in sockets]
    types = "any" if queue.types is None else ", ".join(queue.types)
    relaxed = "" if config.durability == "full" else " (durability relaxed)"
    what_waits = (
        "all is lost then" if config.store == "memory:" else "everything that waits stays in the store"
    )
    shown = [(route.method, route.path.replace("*}", "}"), route.summary) for route in ROUTES]
    width = max(len(path) for _, path, _ in shown)
    lines = [
        f"tq {__version__} listening on {first}",
        *(f"  and on {other}" for other in others),
        f"  store {without_password(config.store)}{relaxed}, {config.workers} workers, types: {types}",
        "",
        *(f"  {method:6}  {path:{width}}  {summary}" for method, path, summary in shown),
        "",
        f"Stop with Ctrl+C: running tasks get {format_duration(config.grace_ms)} to finish,"
        f" and {what_waits}.",
    ]
    # Nobody has to read this: a closed stdout is no reason to stop.
    try:
        print("\n".join(lines), flush=True)
    except OSError:
        drop(1)
