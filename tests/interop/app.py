"""An app over HTTP/1.1, with nothing but the standard library. Prints its port; ends when its stdin does."""

import hashlib
import json
import sys
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

# Longer than anything here takes; a handler that waits in vain breaks its connection.
PATIENCE = 15
semaphores = defaultdict(lambda: threading.Semaphore(0))


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_expect_100(self):
        if self.path == "/refuse":
            # Before a byte of the body, and the client still has it.
            self.answer(413, b"not wanted", connection="close")
            self.close_connection = True
            return False
        return super().handle_expect_100()

    def read_body(self):
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def begin_chunks(self, content_type):
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def serve(self):
        body = self.read_body()
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        name = query.get("name", "")
        match url.path:
            case "/echo":
                seen = {
                    "method": self.command,
                    "path": self.path,
                    "version": self.request_version,
                    "headers": self.headers.items(),
                    "length": len(body),
                    "sha256": hashlib.sha256(body).hexdigest(),
                }
                self.answer(200, json.dumps(seen).encode(), X_CaSe="Kept")
            case "/mirror":
                self.begin_chunks("application/octet-stream")
                for start in range(0, len(body), 10_000):
                    self.chunk(body[start : start + 10_000])
                self.chunk(b"")
            case "/until-close":
                # As HTTP/1.0 servers answer: no length, the end is the end of the connection.
                self.send_response(200)
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(b"all of it")
                self.close_connection = True
            case "/cookies":
                self.send_response(204)
                self.send_header("Set-Cookie", "a=1")
                self.send_header("Set-Cookie", "b=2")
                self.end_headers()
            case "/events":
                # The next event is sent when the client says that it has the last one.
                self.begin_chunks("text/event-stream")
                for number in range(1, 4):
                    self.chunk(b"data: %d\n\n" % number)
                    if not semaphores["ack", name].acquire(timeout=PATIENCE):
                        self.close_connection = True
                        return
                self.chunk(b"")
            case "/ack":
                semaphores["ack", name].release()
                self.answer(200, b"")
            case "/poll":
                semaphores["waiting", name].release()
                released = semaphores["released", name].acquire(timeout=PATIENCE)
                self.answer(200 if released else 504, b"released")
            case "/release":
                waiting = semaphores["waiting", name].acquire(timeout=PATIENCE)
                semaphores["released", name].release()
                self.answer(200 if waiting else 504, b"")
            case "/hang":
                # Until the client goes away, which `/gone` then tells.
                self.connection.settimeout(PATIENCE)
                semaphores["waiting", name].release()
                try:
                    gone = self.rfile.read(1) == b""
                except ConnectionResetError:
                    gone = True
                except TimeoutError:
                    gone = False
                if gone:
                    semaphores["gone", name].release()
                self.close_connection = True
            case "/gone":
                gone = semaphores["gone", name].acquire(timeout=PATIENCE)
                self.answer(200 if gone else 504, b"")
            case "/waiting":
                waiting = semaphores["waiting", name].acquire(timeout=PATIENCE)
                self.answer(200 if waiting else 504, b"")
            case _:
                self.answer(404, b"no such path")

    do_GET = do_HEAD = do_POST = do_PUT = do_OPTIONS = do_DELETE = serve


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # The library's 5 make the kernel turn connections away when a test opens many at once.
    request_queue_size = 128


server = Server(("127.0.0.1", 0), App)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()
