"""A gRPC server of generic handlers over bytes. Prints its port; ends when its stdin does."""

import sys
import threading
from concurrent import futures

import grpc

cancelled = threading.Semaphore(0)
name = sys.argv[1] if len(sys.argv) > 1 else "one"


def echo(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-initial", metadata.get("x-sent", "none")),))
    context.set_trailing_metadata((("x-final", "done"), ("x-raw-bin", metadata.get("x-raw-bin", b""))))
    return request


def who(_, context):
    return name.encode()


def refuse(_, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no – not today, 100 %")


def hang(_, context):
    """Until the call is cancelled, which `cancelled` then tells."""
    done = threading.Event()
    context.add_callback(done.set)
    if done.wait(15):
        cancelled.release()
    return b""


def was_cancelled(_, context):
    return b"yes" if cancelled.acquire(timeout=15) else b"no"


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def count_then_fail(request, context):
    yield from count(request, context)
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "that was all")


def total(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def chat(requests, context):
    for request in requests:
        yield b"re: " + request


METHODS = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Who": grpc.unary_unary_rpc_method_handler(who),
    "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
    "Hang": grpc.unary_unary_rpc_method_handler(hang),
    "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "CountThenFail": grpc.unary_stream_rpc_method_handler(count_then_fail),
    "Total": grpc.stream_unary_rpc_method_handler(total),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
}

server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("interop.Echo", METHODS),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.read()
server.stop(0)
