package proof

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestGuestNetProofTCP has the guest's TCP and the host's end, break and hold up
// connections in all ways.
func TestGuestNetProofTCP(t *testing.T) {
	w := theInternet(t)
	b := box(t, "debian-programs", nil)
	const size = 1 << 20
	for _, a := range []string{serverAddr4, serverAddr6} {
		t.Run(a, func(t *testing.T) {
			t.Run("refused", func(t *testing.T) {
				require.Equal(t, "refused\n", output(t, b, python(t, "tcp.py", "refused", a, 9)))
			})
			t.Run("guest ends first", func(t *testing.T) {
				port := w.listen(t, func(c *net.TCPConn) {
					h := sha256.New()
					io.Copy(h, c)
					fmt.Fprintf(c, "%x", h.Sum(nil))
				})
				require.Equal(t, "ok\n", output(t, b, python(t, "tcp.py", "client_first", a, port, size)))
				require.Equal(t, "ok\n", output(t, b, python(t, "tcp.py", "client_first", a, port, 0)))
			})
			t.Run("server ends first", func(t *testing.T) {
				type result struct {
					same bool
					n    int64
					err  error
				}
				results := make(chan result, 1)
				port := w.listen(t, func(c *net.TCPConn) {
					want := noise(t, c, size)
					c.CloseWrite()
					in := bufio.NewReader(c)
					line, _ := in.ReadString('\n')
					n, err := io.Copy(io.Discard, in)
					results <- result{line == want+"\n", n, err}
				})
				require.Equal(t, fmt.Sprintln(size), output(t, b, python(t, "tcp.py", "server_first", a, port, size)))
				require.Equal(t, result{true, size, nil}, <-results)
			})
			t.Run("server resets", func(t *testing.T) {
				port := w.listen(t, func(c *net.TCPConn) {
					c.Read(make([]byte, 1))
					c.SetLinger(0)
				})
				require.Equal(t, "reset\n", output(t, b, python(t, "tcp.py", "reset_by_server", a, port)))
			})
			t.Run("guest resets", func(t *testing.T) {
				ends := make(chan error, 1)
				port := w.listen(t, func(c *net.TCPConn) {
					c.Write([]byte("x"))
					_, err := c.Read(make([]byte, 1))
					ends <- err
				})
				require.Equal(t, "ok\n", output(t, b, python(t, "tcp.py", "reset_by_client", a, port)))
				require.ErrorIs(t, <-ends, unix.ECONNRESET)
			})
			t.Run("byte by byte", func(t *testing.T) {
				port := w.listen(t, func(c *net.TCPConn) { io.Copy(c, c) })
				require.Equal(t, "ok\n", output(t, b, python(t, "tcp.py", "trickle", a, port, 100)))
			})
		})
	}
	t.Run("slow server", func(t *testing.T) { slowServer(t, w, b) })
	t.Run("slow guest", func(t *testing.T) { slowGuest(t, w, b) })
	t.Run("many", func(t *testing.T) { manyConnections(t, w, b) })
	// A connection is held until the guest has acknowledged its end.
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		open := output(t, b, sh(`awk 'FNR > 1 && $4 != "06" && $4 != "0A"' /proc/net/tcp /proc/net/tcp6`)) // not TIME_WAIT, nor LISTEN
		if open == "" {
			break
		}
		require.True(t, time.Now().Before(end), "%s", open)
	}
	var left []string
	require.Eventually(t, func() bool { // the last acknowledgements may have to be asked for again
		left = vmmConnections(t, b)
		return left == nil
	}, time.Minute, 100*time.Millisecond, "%v", &left)
}

// Bounds on what may wait on the way to somebody who reads nothing, for each
// connection: the buffers of two kernels and of the network between them. Only the
// network's are the VMM's memory.
const (
	slowTransfer = 10 << 20 // more than all buffers on the way
	maxWaiting   = slowTransfer
	maxStackMiB  = 12
	edgeBuffer   = 128 << 10 // of the two ends, which are not what is looked at
)

// slowTransfers is how many are held up at a time.
func slowTransfers() int {
	if soak() {
		return 8
	}
	return 1
}

// slowServer holds up what guests send, and then takes it.
func slowServer(t *testing.T, w *internet, b *runtime.LiteBox) {
	before := ownMemory(t, b)
	read := make(chan struct{})
	port := w.listen(t, func(c *net.TCPConn) {
		c.SetReadBuffer(edgeBuffer)
		<-read
		h := sha256.New()
		io.Copy(h, c)
		fmt.Fprintf(c, "%x", h.Sum(nil))
	})
	var list []*talk
	for range slowTransfers() {
		list = append(list, start(t, b, python(t, "tcp.py", "slow_server", serverAddr4, port, slowTransfer, edgeBuffer)))
	}
	for _, k := range list {
		require.Equal(t, "connected", k.line(t))
		n, err := strconv.Atoi(k.line(t))
		require.NoError(t, err)
		require.Less(t, n, maxWaiting)
		t.Logf("%.1f MiB go to a server that does not read", float64(n)/(1<<20))
	}
	held := ownMemory(t, b) - before
	t.Logf("the VMM holds %d MiB for %d of them", held, slowTransfers())
	require.Less(t, held, maxStackMiB*slowTransfers())
	close(read)
	for _, k := range list {
		require.Equal(t, "ok", k.line(t))
		k.end(t)
	}
}

// slowGuest holds up what servers send, and then takes it.
func slowGuest(t *testing.T, w *internet, b *runtime.LiteBox) {
	before := ownMemory(t, b)
	waiting, sums := make(chan int64, slowTransfers()), make(chan string, slowTransfers())
	port := w.listen(t, func(c *net.TCPConn) {
		c.SetWriteBuffer(edgeBuffer)
		m := &stallMeter{conn: c, stalled: waiting}
		sums <- noise(t, m, slowTransfer)
	})
	var list []*talk
	for range slowTransfers() {
		k := start(t, b, python(t, "tcp.py", "slow_client", serverAddr4, port, 0, edgeBuffer))
		require.Equal(t, "connected", k.line(t))
		list = append(list, k)
	}
	for range slowTransfers() {
		var n int64
		select {
		case n = <-waiting:
		case <-sums:
			t.Fatal("all of it went to a guest that reads nothing")
		}
		require.Less(t, n, int64(maxWaiting))
		t.Logf("%.1f MiB go to a guest that does not read", float64(n)/(1<<20))
	}
	held := ownMemory(t, b) - before
	t.Logf("the VMM holds %d MiB for %d of them", held, slowTransfers())
	require.Less(t, held, maxStackMiB*slowTransfers())
	for _, k := range list {
		_, err := k.stdin.Write([]byte("read\n"))
		require.NoError(t, err)
		got := k.line(t)
		k.end(t)
		require.Equal(t, fmt.Sprintf("%d %s", slowTransfer, <-sums), got)
	}
}

// stallMeter writes on, and tells once how far it came before nothing went any more
// for five seconds.
type stallMeter struct {
	conn    *net.TCPConn
	sent    int64
	stalled chan<- int64
}

func (m *stallMeter) Write(p []byte) (int, error) {
	if m.stalled == nil {
		return m.conn.Write(p)
	}
	m.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	n, err := m.conn.Write(p)
	m.sent += int64(n)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	m.stalled <- m.sent
	m.stalled = nil
	m.conn.SetWriteDeadline(time.Time{})
	rest, err := m.conn.Write(p[n:])
	return n + rest, err
}

// connections is how many are open at once.
const connections = 10_000

// manyConnections opens many at once, has each of them say something, and looks at
// what the VMM keeps of them when they are over.
func manyConnections(t *testing.T, w *internet, b *runtime.LiteBox) {
	port := w.listen(t, func(c *net.TCPConn) { // io.Copy would take two pipes for each
		var p [8]byte
		for {
			if _, err := io.ReadFull(c, p[:]); err != nil {
				return
			}
			c.Write(p[:])
		}
	})
	pid := vmm(t, b)
	idle := func() bool {
		m, err := b.Metrics(guarded(t))
		return err == nil && *m.NetworkTCPConnections == 0
	}
	require.Eventually(t, idle, time.Minute, 100*time.Millisecond, "connections of before are still there")
	files, memory := descriptors(t, pid), ownMemory(t, b)
	const n = connections
	k := start(t, b, python(t, "many.py", serverAddr4, port, n))
	require.Equal(t, "all", k.line(t))
	require.GreaterOrEqual(t, descriptors(t, pid), files+n)
	require.Len(t, vmmConnections(t, b), n)
	t.Logf("%d connections: the VMM holds %d MiB more", n, ownMemory(t, b)-memory)
	_, err := k.stdin.Write([]byte("close\n"))
	require.NoError(t, err)
	require.Equal(t, "closed", k.line(t))
	k.end(t)
	left := 0
	require.Eventually(t, func() bool {
		left = descriptors(t, pid)
		return left <= files && idle()
	}, 5*time.Minute, 100*time.Millisecond, "the VMM had %d descriptors", files)
	t.Logf("the VMM has %d descriptors, %d before", left, files)
}

// vmmConnections are the TCP sockets that a box's VMM has, as the kernel lists them.
func vmmConnections(t *testing.T, b *runtime.LiteBox) (list []string) {
	t.Helper()
	own := map[string]bool{}
	dir := fmt.Sprintf("/proc/%d", vmm(t, b))
	fds, err := os.ReadDir(dir + "/fd")
	require.NoError(t, err)
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(dir, "fd", fd.Name())); err == nil && strings.HasPrefix(to, "socket:[") {
			own[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(filepath.Join(dir, "net", table))
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 9 && own[f[9]] { // proc_net_tcp: the tenth is the inode
				list = append(list, line)
			}
		}
	}
	return list
}
