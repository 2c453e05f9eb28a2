"""Metrics, their documentation, the dashboard and the alerts speak of the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from tq.metrics.exposition import METRICS, OF_STORE

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT = (ROOT / "docs/reference/metrics.md").read_text()
DASHBOARD = json.loads((ROOT / "deploy/grafana/tq.json").read_text())
ALERTS = (ROOT / "deploy/prometheus/alerts.yml").read_text()

NAME = re.compile(r"\b(?:tq|process)_[a-z_]+\b")
ALERT = re.compile(r"- alert: (\w+)\n +expr: (.+)\n")
OF_PROMETHEUS = {"instance", "job", "le"}
"""Labels that Prometheus adds, or that every histogram has."""


def full_name(name: str, kind: str) -> str:
    return f"{name}_total" if kind == "counter" else name


def of_process() -> dict[str, tuple[str, ...]]:
    families = ProcessCollector(registry=CollectorRegistry()).collect()
    return {full_name(family.name, family.type): (family.type,) for family in families}


EXPOSED = {full_name(each.name, each.kind): (each.kind, *each.labels) for each in METRICS} | of_process()
"""By name: the kind and the labels."""


def samples() -> dict[str, set[str]]:
    """The labels that can be asked for, by the name of a sample."""
    found: dict[str, set[str]] = {}
    for name, (kind, *labels) in EXPOSED.items():
        endings = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + ending: {*labels} for ending in endings}
    return found


def faults(expression: str) -> list[str]:
    """What *expression* asks for and is not exposed: names of samples, and labels of any of them."""
    known = samples()
    names = set(NAME.findall(expression))
    missing = sorted(names - set(known))
    labels = {label for name in names & set(known) for label in known[name]} | OF_PROMETHEUS
    asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        asked |= {label.strip() for label in group.split(",")}
    return missing + sorted(asked - labels)


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    yield from ALERT.findall(ALERTS)


EACH = [pytest.param(expression, id=name) for name, expression in expressions()]


@pytest.mark.parametrize("expression", EACH)
def test_dashboard_and_alerts_ask_for_what_there_is(expression: str) -> None:
    assert NAME.search(expression) or "up{" in expression
    assert faults(expression) == []


OF_EACH: Final = r"max(?: by \([^)]*\))? ?\((?:sum by \(instance\b[^)]*\) \()?"
"""What may stand before a metric of the store: servers that share it all tell the same."""


def multiplied(expression: str) -> list[str]:
    """The metrics of the store that *expression* adds up over servers, or shows once for each."""
    names = "|".join(full_name(each.name, each.kind) for each in OF_STORE)
    found = re.findall(rf"({OF_EACH})?\b({names})\b", expression)
    return [name for before, name in found if not before]


@pytest.mark.parametrize("expression", EACH)
def test_what_all_servers_tell_alike_is_not_added_up(expression: str) -> None:
    assert multiplied(expression) == []


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("sum(tq_tasks)", ["tq_tasks"]),
        ("sum by (state) (tq_tasks)", ["tq_tasks"]),
        ("sum(rate(tq_store_tasks_finished_total[5m]))", ["tq_store_tasks_finished_total"]),
        ("tq_queue_paused > 0", ["tq_queue_paused"]),
        ("sum by (instance) (tq_tasks)", ["tq_tasks"]),
        ("sum(max by (queue) (tq_queue_paused))", []),
        ("max(sum by (instance) (tq_tasks)) + sum(tq_tasks)", ["tq_tasks"]),
        ("max by (state) (sum by (instance, state) (tq_tasks))", []),
        ("max(tq_oldest_pending_seconds) + sum(tq_workers)", []),
    ],
)
def test_what_is_added_up_over_servers_is_found(expression: str, wrong: list[str]) -> None:
    assert multiplied(expression) == wrong


def test_the_first_request_that_fails_raises_an_alert() -> None:
    (expression,) = (expression for name, expression in expressions() if name == "TqErrors")
    failed = 'tq_http_requests_total{status="500"}'
    assert f"({failed} unless {failed} offset 10m) > 0" in expression


def test_a_server_that_is_gone_raises_an_alert() -> None:
    alerts = dict(expressions())
    assert alerts["TqServerGone"] == 'min by (instance) (up{job="tq"}) == 0'
    assert alerts["TqNoServer"] == "absent(tq_build_info)"
    for where in ("deploy/docker/prometheus.yml", "docs/reference/metrics.md"):
        assert "job_name: tq\n" in (ROOT / where).read_text()


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("sum(tq_taskz)", ["tq_taskz"]),
        ("tq_tasks_submitted", ["tq_tasks_submitted"]),
        ("rate(tq_task_wait_seconds[5m])", ["tq_task_wait_seconds"]),
        ('tq_tasks{colour="red"}', ["colour"]),
        ("sum by (le, type) (rate(tq_task_wait_seconds_bucket[5m]))", ["type"]),
        ("sum by (le, queue) (rate(tq_task_wait_seconds_bucket[5m]))", []),
    ],
)
def test_an_expression_that_asks_for_more_is_found(expression: str, wrong: list[str]) -> None:
    assert faults(expression) == wrong


def test_every_alert_is_read() -> None:
    assert (
        len(re.findall("alert:", ALERTS)) == len(re.findall(r"- alert: (\w+)\n +expr: (.+)\n", ALERTS)) == 15
    )


def test_every_legend_and_every_text_of_an_alert_names_labels_that_its_expression_keeps() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                kept = f"by ({label}" in target["expr"] or f", {label}" in target["expr"]
                assert kept or (label == "instance" and "sum" not in target["expr"]), target
    for rule in ALERTS.split("- alert:")[1:]:
        (expression,) = re.findall(r"expr: (.+)", rule)
        for label in re.findall(r"\$labels\.(\w+)", rule):
            assert re.search(rf"by \([^)]*\b{label}\b", expression), rule


def test_every_panel_has_a_place_of_its_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_metric_follows_the_naming_of_prometheus() -> None:
    assert len({each.name for each in METRICS}) == len(METRICS)
    for each in METRICS:
        assert re.fullmatch(r"tq_[a-z]+(_[a-z]+)*", each.name)
        assert not each.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert each.text.endswith(".")
        assert not {"id", "task_id", "key", "worker", "server"} & {*each.labels}, "no label without a bound"


def test_the_documentation_speaks_of_no_other_metric() -> None:
    assert {name for name in NAME.findall(DOCUMENT) if name.startswith("tq_")} <= {
        *EXPOSED,
        "tq_store_",
    }
