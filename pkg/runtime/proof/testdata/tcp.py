"""tcp.py CASE ADDRESS PORT [SIZE [BUFFER]]: one conversation; what was seen is printed."""
import hashlib, random, select, socket, struct, sys

case, addr, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
size, buffer = (*map(int, sys.argv[4:]), 0, 0)[:2]


def sha(data):
    return hashlib.sha256(data).hexdigest()


def rest(s):
    h, n = hashlib.sha256(), 0
    while data := s.recv(1 << 18):
        h.update(data)
        n += len(data)
    return n, h.hexdigest()


def pattern(n):
    return random.Random(n).randbytes(n)


def refused():
    try:
        socket.create_connection((addr, port))
    except ConnectionRefusedError:
        print("refused")


def client_first():
    """We end our half, and hear the digest of what we sent after it."""
    s = socket.create_connection((addr, port))
    data = pattern(size)
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
    assert s.recv(100, socket.MSG_WAITALL).decode() == sha(data)
    assert s.recv(1) == b""
    print("ok")


def server_first():
    """The server ends its half, and hears the digest of what it sent after it."""
    s = socket.create_connection((addr, port))
    n, digest = rest(s)
    s.sendall(digest.encode() + b"\n" + pattern(size))
    s.shutdown(socket.SHUT_WR)
    print(n)


def reset_by_server():
    s = socket.create_connection((addr, port))
    s.sendall(b"x")
    try:
        print("read", s.recv(1))
    except ConnectionResetError:
        print("reset")


def reset_by_client():
    s = socket.create_connection((addr, port))
    assert s.recv(1) == b"x"
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
    print("ok")


def slow_server():
    """Send until nothing goes any more, say so, and then the rest."""
    s = socket.create_connection((addr, port))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    data, at = pattern(size), 0
    print("connected", flush=True)
    s.setblocking(False)
    while at < size:
        if not select.select([], [s], [], 5)[1]:
            break
        at += s.send(data[at : at + (1 << 16)])
    print(at, flush=True)
    s.setblocking(True)
    s.sendall(data[at:])
    s.shutdown(socket.SHUT_WR)
    assert s.recv(100, socket.MSG_WAITALL).decode() == sha(data)
    print("ok")


def slow_client():
    """Read nothing until a line comes in, then all."""
    s = socket.create_connection((addr, port))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    print("connected", flush=True)
    sys.stdin.readline()
    print(*rest(s))


def trickle():
    """One byte at a time, each way, no two on their way at once."""
    s = socket.create_connection((addr, port))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for i in range(size):
        s.sendall(bytes([i & 255]))
        assert s.recv(1) == bytes([i & 255])
    print("ok")


globals()[case]()
