"""The harness itself: a test that trusts a helper must be able to."""

import time

import pytest

from harness import http1, upstream
from harness.gateway import parse_metrics
from harness.grpc_peers import GrpcLoad
from harness.load import Load
from harness.process import alive, marked
from harness.wait import until


def test_a_cut_body_is_never_taken_for_a_complete_one(server):
    for behaviour in (upstream.truncated(), upstream.truncated_chunks()):
        with pytest.raises(http1.Closed):
            http1.get(server(behaviour).port)


def test_a_reset_is_seen_as_a_closed_connection(server):
    with pytest.raises(http1.Closed):
        http1.get(server(upstream.reset()).port)


def test_interim_answers_and_trailers_are_kept(server):
    early = server(upstream.interim(103, [("link", "</a>")], upstream.trailers(b"body", [("x-sum", "1")])))
    answer = http1.get(early.port)
    assert answer.interim == [(103, [("link", "</a>")])]
    assert (answer.body, answer.trailers) == (b"body", [("x-sum", "1")])


def test_chunked_requests_and_their_trailers_arrive(server):
    one = server(upstream.echo())
    with http1.Client(one.port) as client:
        client.send(http1.head("POST", "/", [("host", "a"), ("transfer-encoding", "chunked")]) + http1.chunked([b"ab", b"c"], [("x-t", "1")]))
        assert client.response().body == b"abc"
    assert one.requests[0].trailers == [("x-t", "1")]


def test_a_caller_that_leaves_is_noted(server):
    slow = server(upstream.hang())
    with http1.Client(slow.port) as client:
        client.send_request("GET", "/")
        until(lambda: slow.requests)
    until(lambda: slow.cancelled)


def test_load_counts_answers_failures_and_refusals(server):
    one = server(upstream.in_turn(upstream.ok(), upstream.status(500), upstream.reset(), upstream.ok()))
    report = Load(one.port, connections=1, count=10).__enter__().finish()
    assert report.statuses[500] == 1 and report.statuses[200] >= 8
    one.stop()
    report = Load(one.port, connections=1, count=3).__enter__().finish()
    assert report.refused == 3


def test_a_killed_process_is_gone_with_its_children(process):
    parent = process(["sh", "-c", "sleep 100 & sleep 100"])
    until(lambda: len(marked(parent.mark)) == 3, what="parent and children")
    parent.end()
    assert not marked(parent.mark) and not alive(parent.pid)


def test_the_grpc_server_names_itself_and_fails_as_told(grpc_server, channel):
    one = grpc_server("one")
    load = GrpcLoad([channel(one.port)], threads=2, count=50).__enter__().finish()
    assert load.answers == {"one": 50} and not load.failures
    one.tell("fail", 3, "INTERNAL")
    load = GrpcLoad([channel(one.port)], threads=2, count=10).__enter__().finish()
    assert [code for code, *_ in load.failures] == ["INTERNAL"] * 3


def test_waiting_gives_up_and_says_what_it_waited_for():
    began = time.monotonic()
    with pytest.raises(AssertionError, match="the impossible"):
        until(lambda: False, 0.05, "the impossible")
    assert time.monotonic() - began >= 0.05


def test_metrics_are_read_with_their_labels():
    text = '# HELP a b\na{x="1",y="q\\"z"} 2\nb 3.5\n'
    assert parse_metrics(text) == {"a": [({"x": "1", "y": 'q\\"z'}, 2.0)], "b": [({}, 3.5)]}
