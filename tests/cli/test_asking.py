"""How a server is asked: its key, what is asked again, and what every ending turns into."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cli_kit import CallTq

from tq.cli import asking
from tq.cli.asking import Event, part, read_events

pytest_plugins = ("calling",)

TASK = b'{"id":"a","type":"t","queue":"q","state":"pending","reason":null,"errors":[]}'
Answer = tuple[int, dict[str, str], bytes]
Script = Callable[..., tuple[str, list[tuple[str, dict[str, str]]]]]


def problem(status: int, code: str, **headers: str) -> Answer:
    return status, headers, b'{"code":"%b","detail":"told\\u001b[31m so"}' % code.encode()


def stream(*blocks: str) -> Answer:
    return 200, {"content-type": "text/event-stream"}, "".join(f"{each}\n\n" for each in blocks).encode()


@pytest.fixture
def scripted() -> Iterator[Script]:
    """Starts a server that gives the answers it is handed, one a request; the last one again and again.

    Returns its URL, and the requests that came: their first lines and their headers.
    """
    servers: list[ThreadingHTTPServer] = []

    def start(*answers: Answer) -> tuple[str, list[tuple[str, dict[str, str]]]]:
        left = list(answers)
        asked: list[tuple[str, dict[str, str]]] = []

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                asked.append((self.requestline.rpartition(" ")[0], dict(self.headers)))
                status, headers, body = left.pop(0) if len(left) > 1 else left[0]
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_key_goes_with_every_request_and_is_never_shown(tq: CallTq, scripted: Script) -> None:
    url, asked = scripted((200, {}, TASK))
    assert tq("tasks", "show", "a", TQ_URL=url, TQ_KEY="tq_secret").code == 0
    assert [headers["authorization"] for _, headers in asked] == ["Bearer tq_secret"]
    assert tq("tasks", "show", "a", TQ_URL=url).code == 0
    assert "authorization" not in asked[1][1]
    assert "secret" not in tq("tasks", "show", "a", TQ_URL=url, TQ_KEY="secret\nX: y").refused(2)


@pytest.mark.parametrize(
    ("status", "code"), [(401, 13), (403, 13), (404, 8), (409, 7), (422, 7), (500, 7), (503, 9), (507, 9)]
)
def test_a_refusal_is_one_line_and_an_exit_code_by_its_kind(
    tq: CallTq, scripted: Script, status: int, code: int
) -> None:
    url, asked = scripted(problem(status, "some_code"))
    line = tq("queues", "pause", "q", "--json", TQ_URL=url).refused(code)
    assert line == "tq: q: refused: told\\x1b[31m so [some_code]\n"
    assert len(asked) == 1, "a change is asked for once"


def test_a_read_is_asked_again_while_the_server_cannot_answer(tq: CallTq, scripted: Script) -> None:
    url, asked = scripted(problem(503, "overloaded"), problem(503, "overloaded"), (200, {}, TASK))
    assert tq("tasks", "show", "a", TQ_URL=url).code == 0
    assert len(asked) == 3
    url, asked = scripted(problem(503, "overloaded"))
    assert "[overloaded]" in tq("tasks", "show", "a", TQ_URL=url).refused(9)
    assert len(asked) == 3


def test_a_server_that_says_nothing_is_not_asked_again(tq: CallTq, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asking.READ_S == 10
    read_s = {**(asking.Api.get.__kwdefaults__ or {}), "timeout_s": 0.3}
    monkeypatch.setattr(asking.Api.get, "__kwdefaults__", read_s)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        assert "gave no answer (ReadTimeout" in tq("tasks", "list", TQ_URL=url).refused(6)
    assert time.monotonic() - began < 0.9


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b"\xff", b'{"id"'])
def test_what_is_no_tq_server_is_told_so(tq: CallTq, scripted: Script, body: bytes) -> None:
    url, _ = scripted((200, {}, body))
    assert "answered 200, not as a tq server does: check --url" in tq("queues", "list", TQ_URL=url).refused(7)


def test_a_name_is_one_part_of_a_path_whatever_it_is() -> None:
    assert part("a/b?c#d%") == "a%2Fb%3Fc%23d%25"
    assert part("..") == "%2E%2E"
    assert part("a..b") == "a..b"


def test_events_are_read_however_they_are_cut() -> None:
    text = ':\nid: s-1\n\nid: s-2\nevent: snapshot\ndata: {"é":1}\n\nevent: dropped\ndata: {}\n\nid: lost\n'
    expected = [Event("s-1", "", None), Event("s-2", "snapshot", {"é": 1}), Event(None, "dropped", {})]
    data = text.encode()
    for size in (1, 2, 7, len(data)):
        assert list(read_events(data[at : at + size] for at in range(0, len(data), size))) == expected


def test_a_tail_comes_back_with_the_last_id_it_had(tq: CallTq, scripted: Script) -> None:
    url, asked = scripted(
        stream(
            'id: s-0\nevent: snapshot\ndata: {"id":"a","state":"pending"}', "event: server.draining\ndata: {}"
        ),
        problem(503, "shutting_down"),
        stream(":\nid: s-4", 'id: s-5\nevent: end\ndata: {"id":"a","state":"cancelled","reason":"user"}'),
    )
    done = tq("tasks", "tail", "a", TQ_URL=url)
    assert done.code == 11
    assert done.out == (
        "snapshot id=a state=pending\nserver.draining\nend id=a state=cancelled reason=user\n"
    )
    assert done.err == "tq: the stream broke off; coming back\ntq: a was cancelled (user)\n"
    assert [headers.get("last-event-id") for _, headers in asked] == [None, "s-0", "s-0"]
    assert asked[0][0] == "GET /v1/tasks/a/events"


def test_a_tail_of_what_was_never_there_does_not_wait_for_it(tq: CallTq, scripted: Script) -> None:
    url, asked = scripted(problem(404, "not_found"))
    assert "[not_found]" in tq("tasks", "tail", "a", TQ_URL=url).refused(8)
    url, asked = scripted(problem(503, "overloaded"))
    assert "[overloaded]" in tq("tasks", "tail", "a", TQ_URL=url).refused(9)
    assert len(asked) == 1


def test_a_task_that_was_deleted_ends_its_tail(tq: CallTq, scripted: Script) -> None:
    url, _ = scripted(stream("id: s-0\nevent: end\ndata: null"))
    done = tq("tasks", "tail", "a", TQ_URL=url)
    assert (done.code, done.out, done.err) == (8, "end\n", "tq: a was deleted\n")


def test_schedules_are_listed_over_all_pages(tq: CallTq, scripted: Script) -> None:
    pages = [b'{"schedules":[{"name":"a"}],"next":"a"}', b'{"schedules":[{"name":"b"}],"next":null}']
    url, asked = scripted(*((200, {}, page) for page in pages))
    assert tq("schedules", "list", "--json", TQ_URL=url).out == '{"name":"a"}\n{"name":"b"}\n'
    assert [line for line, _ in asked] == ["GET /v1/schedules", "GET /v1/schedules?cursor=a"]
