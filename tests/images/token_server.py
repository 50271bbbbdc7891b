#!/usr/bin/env python3
"""A token server for docker-registry: gives RS256 tokens, signed with openssl, to those who know the
password, and pull tokens for `public/*` to everybody.

    token_server.py PORT KEY CERTIFICATE USER PASSWORD LOG
"""
import base64
import json
import subprocess
import sys
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, KEY, CERTIFICATE, USER, PASSWORD, LOG = sys.argv[1:]
ISSUER, SERVICE, LIFE_S = "tests", "registry", 300


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def certificate():
    with open(CERTIFICATE) as file:
        lines = [line.strip() for line in file if "CERTIFICATE" not in line]
    return "".join(lines)


def token(user, access):
    now = int(time.time())
    header = {"typ": "JWT", "alg": "RS256", "x5c": [certificate()]}
    claims = {"iss": ISSUER, "sub": user, "aud": SERVICE, "exp": now + LIFE_S, "nbf": now - 10, "iat": now,
              "jti": str(time.monotonic_ns()), "access": access}
    text = b64(json.dumps(header).encode()) + "." + b64(json.dumps(claims).encode())
    signed = subprocess.run(["openssl", "dgst", "-sha256", "-sign", KEY], input=text.encode(),
                            stdout=subprocess.PIPE, check=True)
    return text + "." + b64(signed.stdout)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        given = self.headers.get("Authorization", "")
        with open(LOG, "a") as log:
            print(json.dumps({"scope": query.get("scope", []), "authorization": given}), file=log)
        known = given == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if given and not known:
            return self.answer(401, {"details": "incorrect username or password"})
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":", 2)
            actions = actions.split(",") if known else [a for a in actions.split(",") if a == "pull"]
            if known or name.startswith("public/"):
                access.append({"type": kind, "name": name, "actions": actions})
        self.answer(200, {"token": token(USER if known else "", access), "expires_in": LIFE_S})

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", int(PORT)), Handler).serve_forever()
