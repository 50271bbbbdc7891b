"""Counts visits in the cache, reads a greeting from the database, says who answered."""
import http.server
import json
import socket

import psycopg2
import redis


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            return self.answer({"ok": True})
        database = psycopg2.connect(host="db", user="postgres", dbname="stack")
        with database, database.cursor() as cursor:
            cursor.execute("SELECT text FROM greeting")
            greeting = cursor.fetchone()[0]
        database.close()
        visits = redis.Redis("cache").incr("visits")
        self.answer({"greeting": greeting, "visits": visits, "from": socket.gethostname()})

    def answer(self, value):
        body = json.dumps(value).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("", 8000), Answers).serve_forever()
