"""Long calls and large inputs: through impatient proxies, over broken connections, and with input that is not what it should be."""

import hashlib
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
import zstandard

from harness import http1
from harness.model import Chaos, ai, call, compressed, failure, spooled, workers
from harness.peers import NginxFront
from harness.wait import until

MIB = 1 << 20


@pytest.fixture
def fronts(tmp_path):
    """Impatient nginx servers before a port, one before the other: `fronts(port, 3, seconds=2)`; callers go to the first."""
    started = []

    def start(port, count, **more):
        started.extend(NginxFront.chain(tmp_path / f"fronts-{len(started)}", port, count, **more))
        return started[-count]

    yield start
    for each in started:
        each.end()


LONG = [8, pytest.param(60, marks=pytest.mark.heavy)]


@pytest.mark.parametrize("seconds", LONG)
def test_a_long_job_finishes_over_chaos_through_three_proxies_that_wait_2_s(serve, fronts, channel, seconds):
    host = serve("Example")
    front = fronts(host.port, 3, seconds=2)
    made = Chaos(channel(front.grpc_port), "slow", {"seconds": seconds}, timeout=seconds + 60)
    assert made.result()["slept"] == seconds
    assert made.heartbeats >= seconds - 2


@pytest.mark.parametrize("seconds", LONG)
def test_a_long_job_finishes_over_events_through_three_proxies_that_wait_2_s(serve, fronts, seconds):
    host = serve("Example", "--name", "example")
    front = fronts(host.port, 3, seconds=2)
    body = json.dumps({"seconds": seconds}).encode()
    headers = [("content-type", "application/json"), ("accept", "text/event-stream")]
    with http1.Client(front.port, timeout=30) as client:
        answer = client.request("POST", "/example/slow", headers, body)
    assert answer.status == 200
    assert b"event: result" in answer.body and json.loads(answer.body.split(b"event: result\ndata:")[1].split(b"\n")[0])["slept"] == seconds
    assert answer.body.count(b": ping") >= seconds - 3


def blocks(size):
    """Bytes a quarter of which can't be compressed, made as they are asked for; and their hash, told at the end."""
    hasher = hashlib.sha256()
    noise = os.urandom(4 * MIB)
    made = 0
    while made < size:
        at = (made * 7919) % (3 * MIB)
        block = (noise[at : at + MIB // 4] + bytes(3 * MIB // 4))[: size - made]
        hasher.update(block)
        made += len(block)
        yield block
    blocks.digest = hasher.hexdigest()


def peak_rss_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


@pytest.mark.parametrize("size, seconds", [(256 * MIB, 8), pytest.param(4096 * MIB, 60, marks=pytest.mark.heavy)])
@pytest.mark.timeout(900)
def test_a_large_upload_to_a_slow_model_passes_nginx_in_bounded_memory(serve, fronts, channel, size, seconds):
    host = serve("Example")
    front = fronts(host.port, 1, seconds=5)
    made = Chaos(channel(front.grpc_port), "digest", {"seconds": seconds}, binary=blocks(size), size=size, timeout=850)
    answer = made.result()
    assert answer == {"size": size, "sha256": blocks.digest}
    roles = host.roles()
    peak = peak_rss_mib(roles["host"])
    assert peak < 100, f"the host had {peak:.0f} MiB"
    assert peak_rss_mib(roles["gateway"]) < 150
    until(lambda: not spooled(host), what=f"spool empty: {spooled(host)}")


# --- going on where it broke -------------------------------------------------------------------


TOKEN = "a-secret-of-16-and-more"


def named(name, offset=None, token=TOKEN):
    metadata = [("x-tidegate-upload-id", name), ("x-tidegate-upload-token", token)]
    return metadata + ([("x-tidegate-upload-offset", str(offset))] if offset is not None else [])


def upload_status(host, name, token=TOKEN):
    answer = http1.get(host.port, f"/tidegate/uploads/{name}", [("x-tidegate-upload-token", token)])
    return answer.status, json.loads(answer.body)


def broken_upload(host, ch, name, data, part):
    """Sends the first `part` bytes, waits until the host has most of them, and breaks the connection."""
    release = threading.Event()

    def first_part():
        yield data[:part]
        release.wait(30)

    sent = Chaos(ch, "digest", binary=first_part(), size=len(data), metadata=named(name))
    reached = until(lambda: at if (at := _offset(host, name)) >= part - 4 * MIB else 0, 20, "most of the first part arrived")
    sent.call.cancel()
    release.set()
    return reached


def _offset(host, name):
    status, told = upload_status(host, name)
    return told.get("offset", 0) if status == 200 else 0


def test_an_upload_that_breaks_at_three_quarters_goes_on_where_it_was(serve, channel):
    host = serve("Example")
    data = os.urandom(32 * MIB)
    broken_upload(host, channel(host.port), "broken-upload-1", data, 24 * MIB)
    status, told = until(lambda: (seen := upload_status(host, "broken-upload-1")) and seen[0] == 200 and seen)
    offset = told["offset"]
    assert 20 * MIB <= offset <= 24 * MIB and told["size"] == len(data) and not told["complete"]
    assert len(spooled(host)) >= 1
    assert upload_status(host, "broken-upload-1", "another-token-of-somebody")[0] == 403
    made = Chaos(channel(host.port), "digest", binary=data[offset:], size=len(data), metadata=named("broken-upload-1", offset))
    assert made.result() == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert upload_status(host, "broken-upload-1")[0] == 404
    until(lambda: not spooled(host), what=f"spool empty: {spooled(host)}")


def test_a_broken_upload_survives_the_hosts_death(serve, channel):
    host = serve("Example")
    data = os.urandom(16 * MIB)
    broken_upload(host, channel(host.port), "broken-upload-2", data, 12 * MIB)
    host.kill_role("host")
    _, told = until(lambda: (seen := upload_status(host, "broken-upload-2"))[0] == 200 and seen, 30, "the upload is known again")
    offset = told["offset"]
    assert offset >= 4 * MIB
    made = Chaos(channel(host.port), "digest", binary=data[offset:], size=len(data), metadata=named("broken-upload-2", offset))
    assert made.result()["sha256"] == hashlib.sha256(data).hexdigest()
    until(lambda: not spooled(host), what=f"spool empty: {spooled(host)}")


def test_a_broken_upload_goes_on_after_an_upgrade(serve, channel):
    host = serve("Example")
    data = os.urandom(16 * MIB)
    # The host before has to stay for a while: a call of it runs.
    runs = Chaos(channel(host.port), "slow", {"seconds": 6}, timeout=60)
    results = []
    asking = threading.Thread(target=lambda: results.append(runs.result()), daemon=True)
    asking.start()
    until(lambda: runs.heartbeats, 10, "a heartbeat")
    broken_upload(host, channel(host.port), "broken-upload-3", data, 12 * MIB)
    before = workers(host)
    host.start(False, "--upgrade")
    until(lambda: len(workers(host)) == 2, 30, "another host's worker")
    _, told = until(lambda: (seen := upload_status(host, "broken-upload-3"))[0] == 200 and seen, 30, "the upload is known")
    assert told["offset"] >= 4 * MIB and 3000 < told["expires_in"] <= 3600
    assert upload_status(host, "broken-upload-3", "another-token-of-somebody")[0] == 403
    until(lambda: call(channel(host.port))["pid"] not in before, 30, "the other host answers")
    _, told = until(lambda: (seen := upload_status(host, "broken-upload-3"))[0] == 200 and seen, 30, "the upload is known there")
    offset = told["offset"]
    made = Chaos(channel(host.port), "digest", binary=data[offset:], size=len(data), metadata=named("broken-upload-3", offset))
    assert made.result()["sha256"] == hashlib.sha256(data).hexdigest()
    asking.join(20)
    assert results and results[0]["slept"] == 6
    until(lambda: not spooled(host), what=f"spool empty: {spooled(host)}")


def test_an_offset_beyond_what_came_is_refused_and_the_right_one_is_told(serve, channel):
    host = serve("Example")
    data = os.urandom(8 * MIB)
    broken_upload(host, channel(host.port), "broken-upload-3", data, 6 * MIB)
    code, _, metadata = failure(lambda: Chaos(channel(host.port), "digest", binary=data[-10:], size=len(data), metadata=named("broken-upload-3", len(data) - 10)).result())
    assert (code, metadata["x-tidegate-error"]) == ("OUT_OF_RANGE", "upload_offset")
    assert 0 < int(metadata["x-tidegate-upload-offset"]) <= 6 * MIB
    answer = http1.request(host.port, "DELETE", "/tidegate/uploads/broken-upload-3", [("x-tidegate-upload-token", TOKEN)])
    assert answer.status in (200, 204), answer
    until(lambda: not spooled(host), what=f"spool empty: {spooled(host)}")


def test_somebody_elses_upload_cannot_be_had(serve, channel):
    host = serve("Example")
    data = os.urandom(8 * MIB)
    broken_upload(host, channel(host.port), "broken-upload-4", data, 6 * MIB)
    code, _, metadata = failure(lambda: Chaos(channel(host.port), "digest", binary=data, size=len(data), metadata=named("broken-upload-4", 0, "another-token-of-somebody")).result())
    assert (code, metadata["x-tidegate-error"]) == ("PERMISSION_DENIED", "upload_token")
    assert upload_status(host, "broken-upload-4")[0] == 200


# --- input that is not what it should be --------------------------------------------------------


def first(**kwargs):
    return zstandard.compress(json.dumps(kwargs).encode())


def good(data, **kwargs):
    return [first(_aipod_binary_size=len(data), **kwargs), *compressed(data)]


def bad_messages():
    data = os.urandom(300_000)
    whole = good(data)
    corrupt = bytearray(whole[3])
    corrupt[:64] = bytes(64)
    bomb = zstandard.compress(bytes(600 * MIB))
    return {
        "no message": ([], "INVALID_ARGUMENT", None),
        "kwargs are no zstd": ([b"hello"], "INVALID_ARGUMENT", "bad_zstd"),
        "kwargs are cut": ([first(a="x" * 1000)[:-5]], "INVALID_ARGUMENT", None),
        "kwargs are no json": ([zstandard.compress(b"{")], "INVALID_ARGUMENT", None),
        "kwargs are no object": ([zstandard.compress(b"[1]")], "INVALID_ARGUMENT", None),
        "reserved": ([first(_aipod_other=1)], "INVALID_ARGUMENT", "reserved_argument"),
        "a negative size": ([first(_aipod_binary_size=-1)], "INVALID_ARGUMENT", None),
        "cut in the middle": (whole[:-2], "INVALID_ARGUMENT", "truncated"),
        "a frame without its end": (whole[:-1] + [whole[-1][:-4]], "INVALID_ARGUMENT", "truncated"),
        "no zstd": ([whole[0], data[:1000]], "INVALID_ARGUMENT", "bad_zstd"),
        "corrupt": (whole[:3] + [bytes(corrupt)] + whole[4:], "INVALID_ARGUMENT", None),
        "more than announced": ([first(_aipod_binary_size=1000), *compressed(data)], "INVALID_ARGUMENT", "size_mismatch"),
        "less than announced": ([first(_aipod_binary_size=len(data) + 1), *compressed(data)], "INVALID_ARGUMENT", None),
        "a bomb": ([first(_aipod_binary_size=600 * MIB), *(bomb[at : at + 32768] for at in range(0, len(bomb), 32768))], "INVALID_ARGUMENT", "ratio"),
    }


@pytest.fixture(scope="module")
def bad():
    return bad_messages()


def test_bad_uploads_are_refused_precisely_and_leave_nothing(serve, channel, bad):
    host = serve("Example")
    ch = channel(host.port, max_send_message_length=-1)
    for what, (messages, code, reason) in bad.items():
        got, details, metadata = failure(lambda: Chaos(ch, "digest", messages=messages).result())
        assert got == code and details, (what, got, details)
        if reason:
            assert metadata.get("x-tidegate-error") == reason, (what, metadata, details)
        assert spooled(host) == [], what
    data = os.urandom(100_000)
    assert Chaos(ch, "digest", messages=good(data)).result()["sha256"] == hashlib.sha256(data).hexdigest()
    until(lambda: spooled(host) == [])
    assert peak_rss_mib(host.roles()["host"]) < 100


def test_a_missing_function_name_is_refused(serve, channel):
    host = serve("Example")
    stub = channel(host.port).stream_stream("/ai.AI/chaos", request_serializer=ai().Raw.SerializeToString, response_deserializer=ai().Raw.FromString)
    code, details, _ = failure(lambda: list(stub(iter([ai().Raw(data=first(a=1))]), timeout=20)))
    assert code == "INVALID_ARGUMENT" and "x-func-name" in details


def test_frames_may_be_cut_anywhere_or_stand_by_themselves(serve, channel):
    host = serve("Example")
    ch, data = channel(host.port), os.urandom(200_000) + bytes(200_000)
    wanted = hashlib.sha256(data).hexdigest()
    frames = [zstandard.compress(data[at : at + 50_000]) for at in range(0, len(data), 50_000)]
    one = zstandard.compress(data)
    for pieces in (frames, [one[at : at + 7777] for at in range(0, len(one), 7777)], [one], [b"".join(frames)]):
        assert Chaos(ch, "digest", messages=[first(_aipod_binary_size=len(data)), *pieces]).result()["sha256"] == wanted
        assert Chaos(ch, "digest", messages=[first(), *pieces]).result()["sha256"] == wanted


def test_a_caller_that_leaves_in_the_middle_leaves_nothing(serve, channel):
    host = serve("Example")
    stuck = threading.Event()

    def pieces():
        yield os.urandom(4 * MIB)
        stuck.wait(20)

    made = Chaos(channel(host.port), "digest", binary=pieces(), size=64 * MIB)
    until(lambda: spooled(host), what="an upload under way")
    made.call.cancel()
    until(lambda: not spooled(host), what=f"spool empty: {spooled(host)}")
    stuck.set()
    # One that leaves while the model works frees the worker, too.
    made = Chaos(channel(host.port), "digest", {"seconds": 60}, binary=os.urandom(4 * MIB))
    until(lambda: spooled(host), what="an upload before the model")
    made.call.cancel()
    until(lambda: not spooled(host), 15, what=f"spool empty: {spooled(host)}")


def service_of(tmp_path, **more):
    from harness.gateway import route
    from harness.model import service

    return {"routes": [route([{"service": "example"}])], "services": [service(tmp_path, **more)]}


def test_uploads_beyond_the_quota_are_refused(tidegate, tmp_path, channel):
    host = tidegate(service_of(tmp_path, limits={"upload": "8MiB"}))
    ch = channel(host.port)
    until(lambda: call(ch), 20)
    code, details, metadata = failure(lambda: Chaos(ch, "digest", binary=os.urandom(9 * MIB)).result())
    assert (code, metadata["x-tidegate-error"]) == ("RESOURCE_EXHAUSTED", "upload_quota"), details
    assert Chaos(ch, "digest", binary=os.urandom(7 * MIB)).result()["size"] == 7 * MIB
    until(lambda: not spooled(host), what=f"spool empty: {spooled(host)}")


def test_messages_beyond_the_limit_are_refused(tidegate, tmp_path, channel):
    host = tidegate(service_of(tmp_path, limits={"message": "1MiB"}))
    ch = channel(host.port, max_send_message_length=-1)
    until(lambda: call(ch), 20)
    code, details, _ = failure(lambda: call(ch, binary=bytes(2 * MIB)))
    assert code == "RESOURCE_EXHAUSTED" and details
    assert workers(host)


def test_a_full_disk_is_told_and_leaves_nothing(serve, channel, tmp_path):
    """The state is on a file system of 24 MiB, which only the server sees."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = ["unshare", "--mount", "--map-root-user", "sh", "-c", f"mount -t tmpfs -o size=24m none {small} && exec \"$@\"", "sh"]
    if subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("a file system of its own is not allowed here (a container without user namespaces); crates/host tests a full disk as well")
    host = serve("Example", "--state", small / "state", prefix=mounted)
    ch = channel(host.port)
    code, details, metadata = failure(lambda: Chaos(ch, "digest", binary=os.urandom(48 * MIB)).result())
    assert (code, metadata["x-tidegate-error"]) == ("RESOURCE_EXHAUSTED", "disk_full"), details
    # As the server sees it.
    inside = Path(f"/proc/{host.roles()['host']}/root") / small.relative_to("/")
    left = lambda: [path for path in inside.rglob("*") if path.is_file() and "spool" in path.parts]  # noqa: E731
    until(lambda: not left(), what="spool empty")
    assert Chaos(ch, "digest", binary=os.urandom(2 * MIB)).result()["size"] == 2 * MIB
    until(lambda: not left(), what="spool empty")


def test_many_uploads_at_once_are_told_apart(serve, channel):
    host = serve("Example", "--replicas", 2)
    datas = [os.urandom(2 * MIB + number) for number in range(8)]
    made = [Chaos(channel(host.port), "digest", binary=data) for data in datas]
    assert [each.result()["sha256"] for each in made] == [hashlib.sha256(data).hexdigest() for data in datas]
    until(lambda: not spooled(host))
