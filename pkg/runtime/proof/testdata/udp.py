"""udp.py ADDRESS PORT COUNT FLOWS: datagrams to a server that sends them back."""
import socket, struct, sys

addr, port, count, flows = sys.argv[1], *map(int, sys.argv[2:])
family = socket.AF_INET6 if ":" in addr else socket.AF_INET


def opened():
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(5)
    s.connect((addr, port))
    return s


def exchange(s, data, tries=5):
    for _ in range(tries):
        s.send(data)
        try:
            got = s.recv(1 << 16)
        except TimeoutError:
            continue
        assert got == data, f"{len(data)} bytes came back as {len(got)}"
        return
    raise SystemExit(f"no answer to {len(data)} bytes")


s = opened()
for size in 0, 1, 512, 1200, 1232, 1252, 1350, 1452, 1472, 1473, 4096, 9000, 65000:
    exchange(s, bytes((i * 7 + size) & 255 for i in range(size)))

# As QUIC does: full datagrams, many on their way, those that are lost sent again.
window, again, filler = 32, 0, bytes(range(256)) * 5
todo, out = list(range(count))[::-1], set()
while todo or out:
    while todo and len(out) < window:
        n = todo.pop()
        s.send(struct.pack("!I", n) + filler[: 1200 - 4])
        out.add(n)
    try:
        got = s.recv(1 << 16)
    except TimeoutError:
        again += len(out)
        assert again < count, "most of it is lost"
        todo += out
        out = set()
        continue
    assert got[4:] == filler[: 1200 - 4], "another content"
    out.discard(struct.unpack("!I", got[:4])[0])

# Many flows, each with a socket of its own on the host.
for s in [opened() for _ in range(flows)]:
    exchange(s, b"flow %d" % s.fileno())
print("sent again:", again)
