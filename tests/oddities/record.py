"""Records traffic with everything in it that a log program may stumble over, into argv[1]/oddities.vsl; and into
argv[1]/long-users.vsl what varnishncsa does not show.

A varnishd of its own, on free ports; it is gone when this ends.
"""

import base64
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

DIRECTORY = sys.argv[1]
SOURCES = os.path.dirname(os.path.abspath(__file__))
PLAIN, PROXY = (os.path.join(DIRECTORY, name) for name in ("plain.sock", "proxy.sock"))

ESI = {
    b"/esi": b'<html><esi:include src="/esi/2"/><esi:include src="/missing"/> x</html>',
    b"/esi/2": b'<p><esi:include src="/leaf"/></p>',
}


def serve(client):
    """Answers the requests of one connection by their URLs."""
    lines = client.makefile("rb")
    while request := lines.readline():
        method, url = request.split()[:2]
        length = 0
        while (header := lines.readline()) not in (b"\r\n", b""):
            if header.lower().startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        lines.read(length)
        if b"close" in url:
            break
        if b"chunked" in url:
            client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            if b"broken" in url:
                break
            client.sendall(b"0\r\n\r\n")
            continue
        status = b"404 Not \xfc found" if b"missing" in url else b"200 OK"
        body = ESI.get(url, b"hello")
        head = b"HTTP/1.1 %s\r\nX-R: a\r\nX-R: b\r\nEmpty:\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n"
        client.sendall(head % (status, len(body)) + (b"" if method == b"HEAD" else body))
    client.close()


def accept(server):
    """Serves every connection in a thread of its own."""
    while True:
        client, _ = server.accept()
        threading.Thread(target=serve, args=(client,), daemon=True).start()


def until(what, condition):
    """Waits for a condition, a minute at the most."""
    for _ in range(600):
        if result := condition():
            return result
        time.sleep(0.1)
    raise TimeoutError(what)


def admin(command):
    """What varnishd's CLI answers; nothing while it does not."""
    run = subprocess.run(["varnishadm", "-n", DIRECTORY + "/varnish", command], capture_output=True, check=False)
    return run.stdout.decode() if run.returncode == 0 else ""


def send(data, to=PLAIN, wait=0.05):
    """Sends bytes, and reads until nothing more comes."""
    with socket.socket(socket.AF_UNIX if isinstance(to, str) else socket.AF_INET) as server:
        server.connect(to)
        server.settimeout(wait)
        with contextlib.suppress(OSError):
            server.sendall(data)
            while server.recv(65536):
                pass


def get(url, headers=b"", method=b"GET", body=b"", protocol=b"HTTP/1.1", to=PLAIN, wait=0.05):
    """One request."""
    if body:
        headers += b"Content-Length: %d\r\n" % len(body)
    send(b"%s %s %s\r\nHost: a.example\r\n%s\r\n%s" % (method, url, protocol, headers, body), to, wait)


def frame(kind, flags, stream, payload):
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def http2(path):
    """A header block without compression (RFC 7541, section 6.2.2)."""
    fields = [(b":method", b"GET"), (b":path", path), (b":scheme", b"http"), (b":authority", b"h2.example"), (b"x-h2", b"yes")]
    return b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields)


def basic(user):
    """The credentials of Basic authorization."""
    return b"Basic " + base64.b64encode(user)


def drive(tcp):
    """All the traffic."""
    urls = b"/ /pass /synth /synth-restart /restart /for-ever /esi /retry /hit-for-pass /hit-for-miss /down /close /chunked " \
        b"/chunked-broken /missing? /a?b?c=1&d /q\"uo\\te /\xc3\xbc\xff\x80".split(b" ")
    for _ in range(3):
        for url in urls:
            get(url)
        time.sleep(0.4)
    get(b"/pipe", b"Connection: close\r\n", wait=0.2)
    get(b"/post", method=b"POST", body=b"x" * 1000)
    get(b"/x", method=b"PURGE")
    get(b"/head", method=b"HEAD")
    get(b"*", method=b"OPTIONS")
    get(b"/10", protocol=b"HTTP/1.0")
    get(b"/expect", b"Expect: 100-continue\r\n", method=b"POST", body=b"x")
    get(b"/range", b"Range: bytes=1-2\r\n")
    get(b"/tcp", to=tcp)
    send(b"GET /no-host HTTP/1.0\r\n\r\n")
    send(b"GET http://absolute.example/x?y HTTP/1.1\r\nHost: z\r\n\r\n")
    get(b"/h", b"Host2:\r\nX-Empty:\r\nX-Multi: one\r\nx-multi: two\r\nX-MULTI:   three  \r\nX-Gone: 1\r\n")
    get(b"/h", b'Referer: r"\\\xff\r\nUser-agent: \xff\xfe\xc3\xbc\r\n')
    get(b"/h", b"Referer:\ttab\tin\t\r\nUser-Agent: " + b"u" * 3000 + b"\r\n")
    for credentials in [
        basic(b"user:password"), b"basic dXNlcjpw",
        b"BASIC   bm9wdw==", basic(b":x"), b"Basic !!!", b"Basic", b"Basic ", b"Bearer abc", b"Basic YWI6Yw", basic(b"u\xff\0z:c"),
        b"Basic dXNlcg", b"Basic dXNlcjpw x", b"Basic dXN=lcjp",
    ]:
        get(b"/authorization", b"Authorization: " + credentials + b"\r\n")
    get(b"/authorization", b"Authorization: Bearer x\r\nAuthorization: " + basic(b"second:pw") + b"\r\n")
    many = b"".join(b"H%d: v\r\n" % number for number in range(200))
    for garbage in [
        b"\x16\x03\x01garbage\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nBad header\r\n\r\n",
        b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + many + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n", b"GET / HTTP/1.1\r\nX: \x01\r\n\r\n",
    ]:
        send(garbage)
    send(b"".join(b"GET /pipelined/%d HTTP/1.1\r\nHost: k\r\n\r\n" % number for number in range(3)))
    send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\nGET /proxy HTTP/1.1\r\nHost: p\r\n\r\n", PROXY)
    send(b"PROXY TCP6 2001:db8::1 2001:db8::2 1234 80\r\nGET /proxy HTTP/1.1\r\nHost: p\r\n\r\n", PROXY)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
    send(preface + frame(1, 5, 1, http2(b"/h2")) + frame(1, 5, 3, http2(b"/h2/b")), wait=0.5)
    send(preface + frame(1, 5, 2, http2(b"/h2/bad")), wait=0.3)
    together = [
        threading.Thread(target=lambda i=i: [get(b"/together/%d/%d" % (i, j)) for j in range(10)]) for i in range(4)
    ]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()


def drive_long_users():
    """Credentials that decode to more than 127 bytes."""
    for length in (127, 200, 300):
        get(b"/", b"Authorization: " + basic(b"u" * length + b":p") + b"\r\n")


def record(name, traffic):
    """Records some traffic."""
    recording = f"{DIRECTORY}/{name}.vsl"
    varnishlog = subprocess.Popen(["varnishlog", "-n", DIRECTORY + "/varnish", "-w", recording, "-g", "raw"])
    try:
        # Until the log, which is not read from its beginning, is being read.
        until("varnishlog", lambda: get(b"/first") or os.path.exists(recording) and os.path.getsize(recording) > 4)
        traffic()
        # Sessions end by themselves.
        time.sleep(1.5)
        get(b"/last")
    finally:
        varnishlog.terminate()
        varnishlog.wait(20)


def main():
    """Starts, records, stops."""
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, args=(server,), daemon=True).start()
    with open(SOURCES + "/oddities.vcl", encoding="ascii") as source, open(DIRECTORY + "/vcl", "w", encoding="ascii") as vcl:
        vcl.write(source.read().replace("@PORT@", str(server.getsockname()[1])))
    varnishd = subprocess.Popen(
        ["varnishd", "-F", "-j", "none", "-n", DIRECTORY + "/varnish", "-f", DIRECTORY + "/vcl", "-s", "malloc,20m",
         "-a", PLAIN, "-a", PROXY + ",PROXY", "-a", "127.0.0.1:0", "-p", "feature=+http2", "-p", "vsl_reclen=2000", "-p", "timeout_idle=1",
         "-p", "vsl_mask=+Hash,+H2RxHdr,+H2RxBody,+H2TxHdr,+H2TxBody,+Debug"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        addresses = until("varnishd", lambda: admin("debug.listen_address")).split()
        record("oddities", lambda: drive((addresses[-2], int(addresses[-1]))))
        record("long-users", drive_long_users)
    finally:
        varnishd.terminate()
        varnishd.wait(20)


main()
