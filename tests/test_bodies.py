"""Bodies are whole or visibly cut, whatever happens to the attempts that carry them; time that a caller takes is no fault of an endpoint."""

import asyncio
import os
import time

import h2.errors
import h2.events
import pytest

from harness import http1, http2, upstream
from harness.gateway import simple
from harness.tunnel import Server
from harness.wait import until


def test_a_hedged_upload_is_whole_wherever_it_arrives(tidegate, server):
    """The hedge is due long before the body is complete, the body is larger than what is kept for another attempt, and the first
    endpoint does not read it for a while."""
    asked = []

    async def take(request, connection):
        asked.append(request)
        if len(asked) == 1:
            await asyncio.sleep(1)
        await upstream.read_body(request, connection)
        await connection.respond(200, b"ok")

    servers = [server(take, read_body=False) for _ in range(3)]
    gateway = tidegate(simple(*servers, hedge={"delay": "20ms", "max": 2}, retry={"buffer": "64KiB"}))
    body = os.urandom(16 << 20)
    pieces = [body[at : at + 65536] for at in range(0, len(body), 65536)]
    with gateway.client() as client:
        client.send(http1.head("PUT", "/", [("host", "a"), ("transfer-encoding", "chunked")]))
        client.send(b"10000\r\n" + pieces[0][:1000])
        # Well beyond the hedge's delay, and less than what is kept.
        moment = time.monotonic() + 0.2
        until(lambda: asked and time.monotonic() > moment)
        client.send(pieces[0][1000:] + b"\r\n")
        for piece in pieces[1:]:
            client.send(b"10000\r\n" + piece + b"\r\n")
        client.send(b"0\r\n\r\n")
        assert client.response().status == 200
    whole = [request.body == body for request in asked if request.complete]
    assert whole and all(whole)


class Resetting(Server):
    """`/cut` resets with NO_ERROR in the middle of its answer, anything else after its end."""

    def _take(self, end, event):
        if isinstance(event, h2.events.RequestReceived):
            self.requests.append(dict(event.headers))
            end.codec.send_headers(event.stream_id, [(":status", "200")])
            end.codec.send_data(event.stream_id, b"first part", end_stream=self.requests[-1][":path"] != "/cut")
            end.codec.reset_stream(event.stream_id, h2.errors.ErrorCodes.NO_ERROR)


def test_a_polite_reset_before_the_end_of_an_answer_is_a_cut(tidegate):
    behind = Resetting()
    gateway = tidegate(simple(behind, upstream_more={"protocol": "http2"}))
    with pytest.raises(http1.Closed):
        gateway.get("/cut")
    with http2.Client(gateway.port) as client:
        answer = client.response(client.request(http2.request_headers(path="/cut")))
        assert answer.reset and not answer.ended
        # After the end it only says that the rest of the request is not wanted.
        number = client.request(http2.request_headers("POST", "/early"), end=False)
        answer = client.response(number)
        assert answer.ended and answer.body == b"first part"
    behind.stop()


def test_a_caller_that_stops_sending_costs_the_endpoint_nothing(tidegate, server):
    servers = [server(upstream.ok()) for _ in range(2)]
    gateway = tidegate(simple(*servers, idle_timeout="1s"))
    clients = [gateway.client() for _ in range(12)]
    for client in clients:
        client.send(http1.head("POST", "/", [("host", "a"), ("content-length", 100)]) + b"x" * 10)
    assert {client.response().status for client in clients} == {504}
    members = gateway.upstream()["members"]
    assert {(each["state"], each["failures"]) for each in members} == {("healthy", 0)}


def test_an_endpoint_that_stays_silent_is_still_charged(tidegate, server):
    servers = [server(upstream.hang()) for _ in range(2)]
    gateway = tidegate(simple(*servers, timeout="300ms"))
    assert [gateway.get().status for _ in range(4)] == [504] * 4
    assert sum(each["failures"] for each in gateway.upstream()["members"]) == 4


def test_a_long_upload_that_moves_is_not_idle(tidegate, server):
    async def slowly(request, connection):
        for _ in range(12):
            request.body += await connection.reader.readexactly(1)
            await asyncio.sleep(0.2)
        await connection.respond(200, request.body)

    behind = server(slowly, read_body=False)
    gateway = tidegate(simple(behind, idle_timeout="1s"))
    with gateway.client() as client:
        client.send(http1.head("POST", "/", [("host", "a"), ("content-length", 12)]))
        for number in range(12):
            client.send(b"x")
            until(lambda: behind.requests and len(behind.requests[0].body) > number)
        assert client.response().body == b"x" * 12
