"""What a client asks, and what it makes of the answers, without a server."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime

import httpx2
import pytest
from talks import LOST, REFUSED, Stage, ok, problem, short

from tq.client.address import find_address, silence_of
from tq.client.errors import NotEnded, NotTq, TaskCancelled, TaskFailed, Unreachable
from tq.client.records import (
    Changes,
    Fields,
    Filters,
    LimitsFields,
    QueueRules,
    RateFields,
    RetryFields,
    ScheduleFields,
    TaskRecord,
)
from tq.client.requests import batches, path_of, result_of, task_path
from tq.client.retrying import Answer, Call, Reply, RetryRules, accepted
from tq.core.errors import IllegalTransition, InvalidInput, NotFound, PayloadTooLarge
from tq.core.requests import (
    FILTER_FIELDS,
    LimitsRequest,
    QueueRequest,
    RateRequest,
    ScheduleRequest,
    UpdateRequest,
)
from tq.core.task import State
from tq.core.wire import RetryRequest, SubmitRequest

WHOLE = {"created_at": "2026-11-24T05:46:59.876Z"}
ENDED = short(state="succeeded", result=7, **WHOLE)


def test_a_submit_is_sent_again_with_the_same_key_and_the_same_bytes() -> None:
    stage = Stage(LOST, REFUSED, ok(short(), 201))
    record = stage.run(stage.api.submit({"type": "email", "payload": {"to": "ada"}}))
    assert (record.id, record.duplicate) == ("a", False)
    assert [call.headers for call in stage.calls] == [
        {"content-type": "application/json", "idempotency-key": "made-1"}
    ] * 3
    assert [call.body for call in stage.calls] == [b'{"type":"email","payload":{"to":"ada"}}'] * 3


def test_two_submits_have_two_keys() -> None:
    stage = Stage(ok(short(), 201))
    stage.run(stage.api.submit({"type": "email"}))
    stage._script.append(ok(short("b"), 201))
    stage.run(stage.api.submit({"type": "email"}))
    assert [call.headers and call.headers["idempotency-key"] for call in stage.calls] == ["made-1", "made-2"]


def test_a_submit_with_an_id_needs_no_key_and_one_with_a_key_has_that() -> None:
    stage = Stage(ok(short(), 201))
    stage.run(stage.api.submit({"type": "email", "id": "a"}))
    assert stage.calls[0].headers == {"content-type": "application/json"}
    stage._script.append(ok(short(), 201))
    stage.run(stage.api.submit({"type": "email", "id": "a"}, idempotency_key="mine"))
    assert stage.calls[1].headers == {"content-type": "application/json", "idempotency-key": "mine"}


def test_a_duplicate_is_marked() -> None:
    stage = Stage(ok(short(), tq_duplicate="true"))
    assert stage.run(stage.api.submit({"type": "email"})).duplicate


def test_an_instant_may_be_a_datetime() -> None:
    stage = Stage(ok(short(), 201))
    stage.run(stage.api.submit({"type": "email", "run_at": datetime(2026, 11, 24, 5, tzinfo=UTC)}))
    assert json.loads(stage.calls[0].body or b"")["run_at"] == "2026-11-24T05:00:00Z"


# Batches


def stored(call: Call) -> Reply:
    bodies = json.loads(call.body or b"")
    return ok({"tasks": [{"id": body["id"], "state": "pending"} for body in bodies]}, 201)


def test_2500_tasks_go_in_three_batches_and_come_back_in_order() -> None:
    stage = Stage(stored, stored, stored)
    records = stage.run(stage.api.submit_many({"type": "email", "payload": n} for n in range(2500)))
    assert [len(json.loads(call.body or b"")) for call in stage.calls] == [1000, 1000, 500]
    assert [record.id for record in records] == [f"made-{n}" for n in range(1, 2501)]
    assert {record.type for record in records} == {"email"}


def test_a_batch_is_sent_again_with_the_same_ids() -> None:
    stage = Stage(LOST, stored)
    stage.run(stage.api.submit_many([{"type": "email"}, {"type": "email", "id": "mine"}]))
    assert stage.calls[0].body == stage.calls[1].body
    assert [body["id"] for body in json.loads(stage.calls[1].body or b"")] == ["made-1", "mine"]


def test_a_refused_batch_says_which_task_of_all_and_how_many_are_stored() -> None:
    stage = Stage(stored, problem(422, "invalid_input", field="type", index=3))
    with pytest.raises(InvalidInput) as caught:
        stage.run(stage.api.submit_many({"type": "email"} for _ in range(1500)))
    assert caught.value.fields == {"field": "type", "index": 1003, "stored": 1000}


def test_no_tasks_are_no_request() -> None:
    stage = Stage()
    assert stage.run(stage.api.submit_many([])) == []


def test_batches_are_bounded_by_count_and_by_bytes() -> None:
    assert list(batches([b"a"] * 5, count_max=2)) == [[b"a", b"a"], [b"a", b"a"], [b"a"]]
    assert list(batches([b"aaaa", b"bbbb", b"c"], bytes_max=9)) == [[b"aaaa", b"bbbb"], [b"c"]]
    assert list(batches([b"a", b"b" * 100, b"c"], bytes_max=9)) == [[b"a"], [b"b" * 100], [b"c"]]
    assert list(batches([b"aaaa", b"bbbb"], bytes_max=8)) == [[b"aaaa"], [b"bbbb"]]


def test_a_batch_that_is_too_large_is_refused_by_the_server() -> None:
    stage = Stage(problem(413, "payload_too_large"))
    with pytest.raises(PayloadTooLarge):
        stage.run(stage.api.submit_many([{"type": "email", "payload": "x"}]))


# Waiting


def test_a_wait_asks_again_until_the_task_has_ended() -> None:
    stage = Stage()
    stage._script = [stage.later(30, ok(short(state="running"))), stage.later(5, ok(ENDED))]
    assert stage.run(stage.api.wait("a", timeout=None)).result == 7
    assert [call.path for call in stage.calls] == ["/v1/tasks/a?wait=30.000"] * 2
    assert [call.hold_s for call in stage.calls] == [30.0, 30.0]
    assert stage.pauses == []


def test_a_wait_that_is_over_says_what_the_task_was() -> None:
    stage = Stage()
    running = ok(short(state="running"))
    stage._script = [stage.later(30, running), stage.later(10, running)]
    with pytest.raises(TimeoutError, match="a has not ended in time: it is running") as caught:
        stage.run(stage.api.wait("a", timeout=40))
    assert isinstance(caught.value, NotEnded)
    assert caught.value.record.state is State.RUNNING
    assert [call.path for call in stage.calls] == ["/v1/tasks/a?wait=30.000", "/v1/tasks/a?wait=10.000"]


def test_a_wait_of_no_time_looks_once() -> None:
    stage = Stage(ok(short(state="running")))
    with pytest.raises(NotEnded):
        stage.run(stage.api.wait("a", timeout=0))
    assert stage.pauses == []


def test_a_server_that_holds_nobody_is_not_hammered() -> None:
    running = ok(short(state="running"))
    stage = Stage(running, running, ok(ENDED))
    stage.run(stage.api.wait("a", timeout=None))
    assert stage.pauses == [0.5, 0.5]


def test_a_wait_goes_on_after_a_lost_connection_and_only_for_what_is_left() -> None:
    stage = Stage()
    stage._script = [stage.later(6, LOST), ok(ENDED)]
    stage.run(stage.api.wait("a", timeout=10))
    assert [call.path for call in stage.calls] == ["/v1/tasks/a?wait=10.000", "/v1/tasks/a?wait=3.800"]


def test_a_wait_does_not_outlive_its_time_while_no_server_answers() -> None:
    stage = Stage(*[REFUSED] * 4)
    with pytest.raises(Unreachable):
        stage.run(stage.api.wait("a", timeout=2))
    assert stage.now - 100 == pytest.approx(0.2 + 0.4 + 0.8)


def test_a_task_that_is_kept_no_more_is_not_waited_for() -> None:
    stage = Stage(problem(404, "not_found", task_id="a"))
    with pytest.raises(NotFound):
        stage.run(stage.api.wait("a", timeout=None))


# Moves


def test_a_cancel_whose_answer_was_lost_is_not_told_that_the_task_had_ended() -> None:
    cancelled = short(state="cancelled", reason="user", **WHOLE)
    stage = Stage(LOST, problem(409, "illegal_transition"), ok(cancelled))
    assert stage.run(stage.api.cancel("a", cascade=True)).state is State.CANCELLED
    assert [call.body for call in stage.calls] == [b'{"cascade":true}'] * 2 + [None]


def test_a_cancel_of_an_ended_task_is_refused() -> None:
    stage = Stage(problem(409, "illegal_transition"))
    with pytest.raises(IllegalTransition):
        stage.run(stage.api.cancel("a", cascade=False))
    stage = Stage(LOST, problem(409, "illegal_transition"), ok(ENDED))
    with pytest.raises(IllegalTransition):
        stage.run(stage.api.cancel("a", cascade=False))


def test_a_retry_that_may_be_done_is_not_sent_again() -> None:
    stage = Stage(REFUSED, LOST)
    with pytest.raises(Unreachable) as caught:
        stage.run(stage.api.retry("a"))
    assert caught.value.may_be_done


# Lists and the rest


def test_filters_become_a_query() -> None:
    stage = Stage(ok({"tasks": [], "next": None}))
    at = datetime(2026, 11, 24, 5, tzinfo=UTC)
    filters = {"state": [State.FAILED, "waiting"], "where": "payload.a:b c", "created_after": at}
    stage.run(stage.api.page(filters, limit=7, cursor="9"))
    assert stage.calls[0].path == (
        "/v1/tasks?state=failed%2Cwaiting&where=payload.a%3Ab+c"
        "&created_after=2026-11-24T05%3A00%3A00%2B00%3A00&limit=7&cursor=9"
    )


def test_an_id_is_one_segment_of_a_path_whatever_it_is() -> None:
    assert task_path("a:b~c") == "/v1/tasks/a%3Ab~c"
    assert task_path("..") == "/v1/tasks/%2E%2E"
    assert task_path("a/b?c") == "/v1/tasks/a%2Fb%3Fc"


def record(**fields: object) -> TaskRecord:
    return accepted(ok({**short(), **WHOLE, **fields}), TaskRecord)


# Operating

DONE = {"matched": 3, "changed": 3, "more": False, "dry_run": False}


def test_a_filter_says_what_is_meant_and_the_server_has_time() -> None:
    stage = Stage(ok(DONE))
    filters = {"state": ["pending", "scheduled"], "created_after": datetime(2026, 11, 24, tzinfo=UTC)}
    talk = stage.api.change_many("cancel", filters, repeatable=True, all=False, limit=None)
    assert stage.run(talk).changed == 3
    (call,) = stage.calls
    assert (call.method, call.path, call.hold_s) == ("POST", "/v1/tasks/cancel", 120.0)
    assert json.loads(call.body or b"") == {
        "filter": {"state": "pending,scheduled", "created_after": "2026-11-24T00:00:00+00:00"},
        "all": False,
    }


def test_what_may_be_done_is_sent_again_only_where_twice_is_once() -> None:
    stage = Stage(LOST, ok(DONE))
    assert stage.run(stage.api.purge("q", dry_run=False)).matched == 3
    stage = Stage(LOST)
    with pytest.raises(Unreachable) as caught:
        stage.run(stage.api.change_many("retry", {"type": "email"}, repeatable=False))
    assert caught.value.may_be_done
    stage = Stage(REFUSED, ok(DONE))
    assert stage.run(stage.api.change_many("retry", {"type": "email"}, repeatable=False)).matched == 3


def test_what_an_attempt_before_removed_is_not_missed() -> None:
    gone = problem(404, "not_found")
    stage = Stage(LOST, gone)
    stage.run(stage.api.remove(path_of("schedules", "a")))
    stage = Stage(gone)
    with pytest.raises(NotFound):
        stage.run(stage.api.remove(path_of("schedules", "a")))
    stage = Stage(Answer(204, {}, b""))
    stage.run(stage.api.remove(path_of("schedules", "a")))
    stage = Stage(ok({}))
    with pytest.raises(NotTq):
        stage.run(stage.api.remove(path_of("schedules", "a")))


def test_a_name_is_one_segment_of_a_path() -> None:
    assert path_of("queues", "../keys", "pause") == "/v1/queues/%2E%2E%2Fkeys/pause"


def test_there_is_a_result_of_what_succeeded_only() -> None:
    assert result_of(record(state="succeeded", result={"a": 1})) == {"a": 1}
    error = {
        "attempt": 1,
        "at": "2026-11-24T05:46:59.876Z",
        "reason": "error",
        "type": "ValueError",
        "message": "no",
    }
    with pytest.raises(TaskFailed, match=r"a failed \(error\): ValueError: no") as caught:
        result_of(record(state="failed", reason="error", errors=[error]))
    assert caught.value.record.errors[0].at == datetime(2026, 11, 24, 5, 46, 59, 876000, tzinfo=UTC)
    with pytest.raises(TaskFailed, match=r"a failed \(poison\)$"):
        result_of(record(state="failed", reason="poison"))
    with pytest.raises(TaskCancelled, match=r"a was cancelled \(parent\)"):
        result_of(record(state="cancelled", reason="parent"))


def test_the_typed_fields_are_those_that_a_server_reads() -> None:
    assert set(Fields.__annotations__) == set(SubmitRequest.__struct_fields__) - {"type", "payload"}
    assert set(Filters.__annotations__) == set(FILTER_FIELDS)
    assert set(RetryFields.__annotations__) == set(RetryRequest.__struct_fields__)
    assert set(Changes.__annotations__) == set(UpdateRequest.__struct_fields__)
    assert set(QueueRules.__annotations__) == set(QueueRequest.__struct_fields__)
    assert set(LimitsFields.__annotations__) == set(LimitsRequest.__struct_fields__)
    assert set(RateFields.__annotations__) == set(RateRequest.__struct_fields__)
    assert set(ScheduleFields.__annotations__) == set(ScheduleRequest.__struct_fields__) - {"type", "payload"}


@pytest.mark.parametrize(("url", "trusts"), [("HTTPS://tq.example", True), ("http://tq.example", False)])
def test_whom_to_trust_is_loaded_for_https_alone_and_nothing_is_let_through(url: str, trusts: bool) -> None:
    tls = find_address(url, None, {}).tls()
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (tls.cert_store_stats()["x509_ca"] > 0) is trusts


def test_a_stage_wants_all_its_replies_asked_for() -> None:
    stage = Stage(ok(short()), ok(short()), rules=RetryRules(attempts=1))
    with pytest.raises(AssertionError, match="not all replies"):
        stage.run(stage.api.get("a"))


# What cannot be sent


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_a_key_is_stripped_and_one_that_cannot_be_sent_is_refused_unseen(how: str) -> None:
    def headers(key: str) -> object:
        given, environ = (key, {}) if how == "argument" else (None, {"TQ_KEY": key})
        return find_address(None, given, environ).headers

    assert headers("tq_secret\n") == {"authorization": "Bearer tq_secret"}
    assert headers("\n") == {}
    for key in ("tq_secret\nX: y", "tq_sécret", "tq secret"):
        with pytest.raises(InvalidInput) as caught:
            headers(key)
        assert "cret" not in str(caught.value)


def test_a_request_that_http_does_not_allow_is_not_asked_again_nor_shown() -> None:
    with pytest.raises(InvalidInput) as caught:
        silence_of(httpx2.LocalProtocolError("Illegal header value b'Bearer secret'"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("body", [{"payload": object()}, {"payload": "\ud800"}, {"payload": float("nan")}])
def test_a_payload_that_json_cannot_hold_is_refused_before_anything_is_sent(body: dict[str, object]) -> None:
    stage = Stage()
    with pytest.raises(InvalidInput, match=r"^task: "):
        stage.run(stage.api.submit({"type": "email", **body}))
    with pytest.raises(InvalidInput, match=r"^task 1: "):
        stage.run(stage.api.submit_many([{"type": "email"}, {"type": "email", **body}]))


def test_an_idempotency_key_an_id_and_a_filter_that_cannot_be_sent_are_refused() -> None:
    stage = Stage()
    with pytest.raises(InvalidInput, match=r"^idempotency_key: "):
        stage.run(stage.api.submit({"type": "email"}, idempotency_key="k\u00e9"))
    for id in ("", "\udcff"):
        with pytest.raises(InvalidInput, match=r"^id or name: "):
            stage.run(stage.api.get(id))
    with pytest.raises(InvalidInput, match=r"^filter: "):
        stage.run(stage.api.page({"type": "\udcff"}, limit=1, cursor=None))
