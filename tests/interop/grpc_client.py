"""grpcio's client: `grpc_client.py TOPIC WAY ADDRESS`. Prints `ok`."""

import os
import queue
import sys

topic, way, address = sys.argv[1:]
options = [("grpc.enable_retries", 0)]
target = address
match way:
    case "host":
        options.append(("grpc.default_authority", "app"))
    case "mesh":
        options.append(("grpc.default_authority", "mesh"))
    case "connect":
        os.environ["http_proxy"] = f"http://{address}"
        target = "dns:///app:80"

import grpc  # noqa: E402: it reads the environment

channel = grpc.insecure_channel(target, options=options)
# A call that takes longer than this fails its test.
LONG = 15


def unary(method, request=b"", **more):
    return channel.unary_unary(f"/interop.Echo/{method}").with_call(request, **{"timeout": LONG, **more})


def same(got, want):
    if got != want:
        raise SystemExit(f"{topic} by {way}: got {got!r}, want {want!r}")


def error_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise SystemExit(f"{topic} by {way}: no error")


match topic:
    case "unary":
        for size in (0, 1, 100_000, 3_000_000):
            body = os.urandom(size)
            same(unary("Echo", body)[0], body)
        same(unary("Echo", b"z" * 50_000, compression=grpc.Compression.Gzip)[0], b"z" * 50_000)
        calls = [channel.unary_unary("/interop.Echo/Echo").future(b"%d" % n, timeout=LONG) for n in range(100)]
        same([call.result() for call in calls], [b"%d" % n for n in range(100)])
    case "server_stream":
        count = channel.unary_stream("/interop.Echo/Count")
        same(list(count(b"0", timeout=LONG)), [])
        same(list(count(b"1000", timeout=LONG)), [b"%d" % n for n in range(1000)])
        got = []
        stream = channel.unary_stream("/interop.Echo/CountThenFail")(b"3", timeout=LONG)
        error = error_of(lambda: got.extend(stream) or [got.append(m) for m in stream])
        same((error.code(), error.details()), (grpc.StatusCode.RESOURCE_EXHAUSTED, "that was all"))
    case "client_stream":
        total = channel.stream_unary("/interop.Echo/Total")
        same(total(iter([]), timeout=LONG), b"0")
        same(total((b"x" * 20_000 for _ in range(100)), timeout=LONG), b"2000000")
    case "bidi":
        # The next message is sent when the answer to the last one is there.
        messages = queue.Queue()
        answers = channel.stream_stream("/interop.Echo/Chat")(iter(messages.get, None), timeout=LONG)
        for number in range(50):
            messages.put(b"%d" % number)
            same(next(answers), b"re: %d" % number)
        messages.put(None)
        same(list(answers), [])
        same(answers.code(), grpc.StatusCode.OK)
    case "metadata":
        raw = bytes(range(256))
        _, call = unary("Echo", b"", metadata=(("x-sent", "one"), ("x-raw-bin", raw)))
        same(dict(call.initial_metadata())["x-initial"], "one")
        trailing = dict(call.trailing_metadata())
        same((trailing["x-final"], trailing["x-raw-bin"]), ("done", raw))
    case "status":
        error = error_of(lambda: unary("Refuse"))
        same((error.code(), error.details()), (grpc.StatusCode.FAILED_PRECONDITION, "no – not today, 100 %"))
        same(error_of(lambda: unary("Nowhere")).code(), grpc.StatusCode.UNIMPLEMENTED)
        # The connection lives on.
        same(unary("Echo", b"still here")[0], b"still here")
    case "deadline":
        error = error_of(lambda: unary("Hang", timeout=0.3))
        same(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        same(unary("WasCancelled")[0], b"yes")
        call = channel.unary_unary("/interop.Echo/Hang").future(b"", timeout=LONG)
        same(unary("Echo", b"beside it")[0], b"beside it")
        call.cancel()
        same(unary("WasCancelled")[0], b"yes")
    case "spread":
        # One connection of the client, two servers.
        names = {unary("Who")[0] for _ in range(60)}
        same(names, {b"one", b"two"})
    case "unavailable":
        error = error_of(lambda: unary("Who"))
        same(error.code(), grpc.StatusCode.UNAVAILABLE)
print("ok")
