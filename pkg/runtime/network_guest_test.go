package runtime

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
	"github.com/stretchr/testify/require"
)

// pythonBox is a box whose image has real network programs.
func pythonBox() BoxOptions {
	return BoxOptions{CPUs: 1, MemoryMiB: 256, Rootfs: Image("oci:" + filepath.Join(os.Getenv("BOXLITE_TEST_IMAGES"), "debian-python"))}
}

// hostServer answers every connection with f on a port of the loopback.
func hostServer(t *testing.T, f func(net.Conn)) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// TestGuestNetwork has a real kernel's TCP, UDP and resolver at the other end.
func TestGuestNetwork(t *testing.T) {
	ctx := testContext(t)
	rt := newGuestRuntime(t)
	const size = 4 << 20
	sum := sha256.New()
	port := hostServer(t, func(c net.Conn) {
		h := sha256.New()
		io.CopyN(h, c, size)
		c.Write(make([]byte, size))
		fmt.Fprintf(c, "%x", h.Sum(nil))
	})
	io.CopyN(sum, zeroes{}, size)
	opts := pythonBox()
	opts.Network.AllowHost = true
	opts.Ports = []PortSpec{{GuestPort: 8080}}
	opts.Network.Capture = filepath.Join(t.TempDir(), "frames.pcap")
	b, err := rt.Create(ctx, opts, "net")
	require.NoError(t, err)
	t.Cleanup(func() { b.Stop(ctx) })

	t.Run("bulk both ways", func(t *testing.T) {
		out, errs, res := output(t, b, Command("python3", "-c", fmt.Sprintf(`
import socket
s = socket.create_connection(("host.boxlite.internal", %d))
s.sendall(bytes(%d))
data = b""
while chunk := s.recv(1 << 20):
    data += chunk
assert data[:%d] == bytes(%d)
print(data[%d:].decode(), end="")`, port, size, size, size, size)))
		require.Zero(t, res.ExitCode, errs)
		require.Equal(t, fmt.Sprintf("%x", sum.Sum(nil)), out)
	})
	t.Run("addresses", func(t *testing.T) {
		out, errs, res := output(t, b, sh(`cat /etc/resolv.conf; cat /proc/net/route | wc -l; cat /sys/class/net/eth0/mtu; grep fd626f78 /proc/net/if_inet6`))
		require.Zero(t, res.ExitCode, errs)
		require.Contains(t, out, "nameserver 192.168.127.1")
		require.Contains(t, out, "fd626f786c6900000000000000000002")
	})
	t.Run("nobody there", func(t *testing.T) { // and a real kernel takes our word for it
		out, errs, res := output(t, b, Command("python3", "-c", fmt.Sprintf(`
import socket
for host in "192.168.127.254", "fd62:6f78:6c69::fe":
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as u:
        u.settimeout(30)
        u.connect((host, %d))
        u.send(b"x")
        try:
            u.recv(1)
        except OSError as e:
            print(type(e).__name__)`, port)))
		require.Zero(t, res.ExitCode, errs)
		require.Equal(t, "ConnectionRefusedError\nConnectionRefusedError\n", out)
	})
	t.Run("segmented datagrams", func(t *testing.T) { // as QUIC sends them (UDP_SEGMENT)
		server, err := net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		defer server.Close()
		_, errs, res := output(t, b, Command("python3", "-c", fmt.Sprintf(`
import socket
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.setsockopt(socket.IPPROTO_UDP, 103, 1200)
u.sendto(b"".join(bytes([i]) * 1200 for i in range(20)) + b"end", ("192.168.127.254", %d))`, server.LocalAddr().(*net.UDPAddr).Port)))
		require.Zero(t, res.ExitCode, errs)
		server.SetReadDeadline(time.Now().Add(time.Minute))
		buf := make([]byte, 65536)
		for i := range 20 {
			n, _, err := server.ReadFrom(buf)
			require.NoError(t, err)
			require.Equal(t, bytes.Repeat([]byte{byte(i)}, 1200), buf[:n])
		}
		n, _, err := server.ReadFrom(buf)
		require.NoError(t, err)
		require.Equal(t, "end", string(buf[:n]))
	})
	t.Run("port", func(t *testing.T) {
		ex, err := b.Run(ctx, Command("python3", "-m", "http.server", "8080"))
		require.NoError(t, err)
		defer ex.Kill(ctx)
		info, err := rt.GetInfo(ctx, "net")
		require.NoError(t, err)
		require.Len(t, info.Ports, 1)
		require.NotZero(t, info.Ports[0].HostPort)
		addr := fmt.Sprintf("127.0.0.1:%d", info.Ports[0].HostPort)
		require.Eventually(t, func() bool { return httpGet(addr) == nil }, time.Minute, 100*time.Millisecond)

		added, err := b.AddPort(ctx, PortSpec{GuestPort: 8080})
		require.NoError(t, err)
		require.NoError(t, httpGet(fmt.Sprintf("127.0.0.1:%d", added.HostPort)))
		info, err = rt.GetInfo(ctx, "net")
		require.NoError(t, err)
		require.Len(t, info.Ports, 2)
		require.NoError(t, b.RemovePort(ctx, added))
		require.Error(t, httpGet(fmt.Sprintf("127.0.0.1:%d", added.HostPort)))
		require.ErrorIs(t, b.RemovePort(ctx, added), ErrNetwork)

		other := pythonBox()
		other.Ports = []PortSpec{{HostPort: info.Ports[0].HostPort, GuestPort: 1}}
		o, err := rt.Create(ctx, other, "")
		require.NoError(t, err)
		err = o.Start(ctx)
		require.ErrorIs(t, err, ErrNetwork)
		require.ErrorContains(t, err, "in use by box net")
		require.NoError(t, rt.Remove(ctx, string(o.ID()), true))
	})
	t.Run("metrics", func(t *testing.T) {
		m, err := b.Metrics(ctx)
		require.NoError(t, err)
		require.Greater(t, *m.NetworkBytesSent, uint64(size))
		require.Greater(t, *m.NetworkBytesReceived, uint64(size))
	})
	t.Run("flows", func(t *testing.T) {
		require.Eventually(t, func() bool {
			for _, e := range flows(t, b) {
				if e.Name == "host.boxlite.internal" && e.Sent == size && e.Action == "allow" {
					return true
				}
			}
			return false
		}, time.Minute, 10*time.Millisecond)
	})
	frames, err := os.ReadFile(opts.Network.Capture)
	require.NoError(t, err)
	require.Greater(t, len(frames), 2*size)
	require.True(t, bytes.Contains(frames, append(bytes.Repeat([]byte{5}, 1200), bytes.Repeat([]byte{6}, 1200)...)), "datagrams in one frame")
}

func flows(t *testing.T, b *LiteBox) (list []vmm.FlowEntry) {
	t.Helper()
	f, err := os.Open(b.FlowLog())
	require.NoError(t, err)
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var e vmm.FlowEntry
		if json.Unmarshal(s.Bytes(), &e) == nil { // the last line may be half there
			list = append(list, e)
		}
	}
	return list
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func httpGet(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(c, "GET / HTTP/1.0\r\n\r\n")
	b, err := io.ReadAll(c)
	if err == nil && !strings.Contains(string(b), "200 OK") {
		err = fmt.Errorf("answer %q", b)
	}
	return err
}

// TestGuestNetworkDenied tries ways out that a box has not by default, and none at
// all without a network.
func TestGuestNetworkDenied(t *testing.T) {
	ctx := testContext(t)
	rt := newGuestRuntime(t)
	port := hostServer(t, func(c net.Conn) { c.Write([]byte("reached")) })
	b, err := rt.Create(ctx, pythonBox(), "")
	require.NoError(t, err)
	t.Cleanup(func() { b.Stop(ctx) })
	out, errs, res := output(t, b, Command("python3", "-c", fmt.Sprintf(`
import socket
for host in "host.boxlite.internal", "192.168.127.1", "192.168.127.254", "169.254.169.254", "10.0.0.1", "100.64.0.1", "0.0.0.1", "::ffff:127.0.0.1", "fd62:6f78:6c69::fe":
    try:
        with socket.create_connection((host, %d), timeout=10) as s:
            print(host, "REACHED", s.recv(100))
    except OSError as e:
        print(host, "no")
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.settimeout(2)
u.sendto(b"x", ("192.168.127.254", %d))
try:
    print("udp", u.recv(10))
except OSError:
    print("udp no")`, port, port)))
	require.Zero(t, res.ExitCode, errs)
	require.NotContains(t, out, "REACHED")
	require.Equal(t, 10, strings.Count(out, " no"))
	require.Eventually(t, func() bool {
		denied := 0
		for _, e := range flows(t, b) {
			if e.Action == "deny" {
				denied++
			}
		}
		return denied >= 4
	}, time.Minute, 10*time.Millisecond)

	opts := smallBox(t)
	opts.Network.Mode = NetworkNone
	none, err := rt.Create(ctx, opts, "")
	require.NoError(t, err)
	t.Cleanup(func() { none.Stop(ctx) })
	out, errs, res = output(t, none, sh("ls /sys/class/net"))
	require.Zero(t, res.ExitCode, errs)
	require.Equal(t, "lo\n", out)
	m, err := none.Metrics(ctx)
	require.NoError(t, err)
	require.Nil(t, m.NetworkBytesSent)
}
