"""Sends requests over keep-alive connections to the unix socket argv[1] until the server goes away; prints how many were answered.

With a number as argv[2], stops after so many. Without, it goes no faster than a slow machine can read the log: an overrun
is told on the child's standard error, and varnishd's manager (7.1.1) goes round in VEV_Once for ever when it finds such
output and the CLI's "stop" in the same round.
"""

import socket
import sys
import threading
import time

CONNECTIONS = 8
PAUSE = 0.002
REQUEST = b"GET / HTTP/1.1\r\nHost: load\r\n\r\n"

limit = int(sys.argv[2]) // CONNECTIONS if len(sys.argv) > 2 else None
answered = [0] * CONNECTIONS


def connection(number):
    """One request after the other, until the connection breaks."""
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(sys.argv[1])
            data = b""
            while answered[number] != limit:
                server.sendall(REQUEST)
                # The answers have no body.
                while b"\r\n\r\n" not in data:
                    received = server.recv(65536)
                    if not received:
                        return
                    data += received
                assert data.startswith(b"HTTP/1.1 200 "), data
                data = data.split(b"\r\n\r\n", 1)[1]
                answered[number] += 1
                if limit is None:
                    time.sleep(PAUSE)
    except OSError:
        pass


threads = [threading.Thread(target=connection, args=(number,)) for number in range(CONNECTIONS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("answered:", sum(answered))
