"""many.py ADDRESS PORT COUNT: so many connections at once to a server that sends
back what it gets; all of them work before the first is closed."""
import resource, selectors, socket, struct, sys

addr, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, count + 100))
every, sel, opening = [], selectors.EpollSelector(), 0


def word(i):
    return struct.pack("!Q", i * 0x9E3779B97F4A7C15 & (1 << 64) - 1)


# No more than 500 are being opened at a time.
waiting, done = iter(range(count)), 0
while done < count:
    while opening < 500 and (i := next(waiting, None)) is not None:
        s = socket.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET)
        s.setblocking(False)
        s.connect_ex((addr, port))
        every.append(s)
        sel.register(s, selectors.EVENT_WRITE, i)
        opening += 1
    for key, events in sel.select():
        s, i = key.fileobj, key.data
        if events & selectors.EVENT_WRITE:
            s.send(word(i))
            sel.modify(s, selectors.EVENT_READ, i)
        else:
            assert s.recv(100) == word(i), i
            sel.unregister(s)
            opening -= 1
            done += 1
print("all", flush=True)
sys.stdin.readline()
for i, s in enumerate(every):
    if i % 2:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
print("closed")
