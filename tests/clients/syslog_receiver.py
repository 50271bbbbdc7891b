"""Receives what a log driver sends to a syslog, until it was silent for a moment.

    syslog_receiver.py udp|tcp|unixgram SOCKET ADDRESS RECEIVED

Writes its address to a file, then what comes to another. It is no syslog: what is looked at are the bytes.
"""

import os
import socket
import sys

SILENCE_S = 0.3
PATIENCE_S = 10

kind, path, address_file, received_file = sys.argv[1:]
if kind == "unixgram":
    if os.path.exists(path):
        os.unlink(path)
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(path)
    address = f"unixgram://{path}"
else:
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    receiver.bind(("127.0.0.1", 0))
    address = f"{kind}://127.0.0.1:{receiver.getsockname()[1]}"
if kind == "tcp":
    receiver.listen()
with open(address_file, "w") as file:
    file.write(address)
receiver.settimeout(PATIENCE_S)
if kind == "tcp":
    receiver, _ = receiver.accept()
    receiver.settimeout(PATIENCE_S)
with open(received_file, "wb") as file:
    try:
        while data := receiver.recv(65536):
            file.write(data)
            receiver.settimeout(SILENCE_S)
    except TimeoutError:
        pass
