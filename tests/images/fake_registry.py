"""A registry that says what a test wants it to say, and remembers what it was asked."""
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeRegistry:
    """`answers` maps `METHOD path`, or a path's beginning with a `*`, to (status, headers, body) or to a
    function of the request that returns that. What it does not know is 404."""

    def __init__(self, port, host="127.0.0.1"):
        self.answers, self.seen = {"GET /v2/": (200, {}, b"{}")}, []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def any(self):
                try:
                    fake.answer(self)
                except OSError:
                    # The client had enough.
                    self.close_connection = True

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = any

        self.server = ThreadingHTTPServer((host, port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def find(self, line):
        path = line.split("?")[0]
        if path in self.answers:
            return self.answers[path]
        fits = [known for known in self.answers if known.endswith("*") and path.startswith(known[:-1])]
        return self.answers[max(fits, key=len)] if fits else (404, {}, b"{}")

    def answer(self, request):
        line = f"{request.command} {request.path}"
        self.seen.append((line, dict(request.headers)))
        found = self.find(line)
        status, headers, body = found(request) if callable(found) else found
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    def asked(self, beginning):
        return [headers for line, headers in self.seen if line.startswith(beginning)]

    def close(self):
        self.server.shutdown()
        self.server.server_close()
