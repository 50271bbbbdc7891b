"""A proxy before a registry that does to blobs what networks and servers do: cuts at random bytes,
stalls, drips, 429, 500 and 503, ranges that are not those asked for, web pages. Used by faults.test.

It counts the bytes of each blob that it sent on, so that a test can tell what was fetched twice.
"""
import collections
import http.client
import random
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# By weight. `none` is most of it, so that pulls come to an end.
FAULTS = {"none": 30, "cut": 20, "drip": 3, "429": 6, "500": 4, "503": 6, "wrong range": 3, "no range": 6,
          "short": 4, "web page": 1, "corrupt": 1, "reset": 5}
PIECE = 16 << 10


class FaultProxy:
    def __init__(self, port, backend, seed):
        self.backend = backend
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.sent = collections.Counter()
        self.faults = collections.Counter()
        self.weights = dict(FAULTS)
        # One blob request in so many stalls; 0: none.
        self.stalls_left = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                try:
                    proxy.get(self)
                except OSError:
                    # The client had enough.
                    self.close_connection = True

            do_HEAD = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def choose(self):
        with self.lock:
            if self.stalls_left and self.random.random() < 0.05:
                self.stalls_left -= 1
                return "stall"
            names = list(self.weights)
            return self.random.choices(names, [self.weights[name] for name in names])[0]

    def get(self, request):
        match = re.search(r"/blobs/(sha256:[0-9a-f]{64})$", request.path)
        fault = self.choose() if match and request.command == "GET" else "none"
        self.faults[fault] += 1
        status = {"429": 429, "500": 500, "503": 503}.get(fault)
        if status:
            headers = {"Retry-After": "0"} if status == 429 else {}
            return self.answer(request, status, b"{}", headers)
        if fault == "web page":
            return self.answer(request, 200, b"<html>maintenance</html>", {"Content-Type": "text/html"})
        headers = {name: ", ".join(request.headers.get_all(name)) for name in request.headers if name.lower() != "host"}
        if fault == "no range":
            headers.pop("Range", None)
        if fault == "wrong range" and "Range" in headers:
            headers["Range"] = "bytes=0-99"
        backend = http.client.HTTPConnection(*self.backend)
        try:
            backend.request(request.command, request.path, headers=headers)
            answer = backend.getresponse()
            body = answer.read()
            self.pass_on(request, answer, body, fault, match and match.group(1))
        finally:
            backend.close()

    def answer(self, request, status, body, headers):
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def pass_on(self, request, answer, body, fault, digest):
        request.send_response(answer.status)
        length = int(answer.getheader("Content-Length", len(body)))
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "connection", "date", "server"):
                request.send_header(name, value)
        request.send_header("Content-Length", str(length))
        request.end_headers()
        if request.command == "HEAD":
            return
        if fault == "corrupt" and body:
            at = self.random.randrange(len(body))
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1:]
        end = len(body)
        if fault in ("cut", "short", "reset", "stall") and body:
            end = self.random.randrange(len(body))
        for at in range(0, end, PIECE):
            piece = body[at:min(at + PIECE, end)]
            request.wfile.write(piece)
            if digest:
                with self.lock:
                    self.sent[digest] += len(piece)
            if fault == "drip":
                time.sleep(0.005)
        if fault == "stall":
            # Longer than the client waits.
            request.connection.settimeout(60)
            try:
                request.connection.recv(1)
            except OSError:
                pass
        if fault == "reset":
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            request.close_connection = True
            request.connection.close()
        elif end < len(body):
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_WR)
