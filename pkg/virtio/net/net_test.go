package net_test

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

const ( // §5.1.3
	fCsum          virtio.Features = 1 << 0
	fGuestCsum     virtio.Features = 1 << 1
	fGuestOffloads virtio.Features = 1 << 2
	fGuestTSO4     virtio.Features = 1 << 7
	fGuestTSO6     virtio.Features = 1 << 8
	fHostTSO4      virtio.Features = 1 << 11
	fMrg           virtio.Features = 1 << 15
	fCtrl          virtio.Features = 1 << 17
	fCtrlRX        virtio.Features = 1 << 18
	fMQ            virtio.Features = 1 << 22
	fCtrlMAC       virtio.Features = 1 << 23
	fGuestUSO4     virtio.Features = 1 << 54
	fGuestUSO6     virtio.Features = 1 << 55

	ring = virtio.FeatureIndirectDesc | virtio.FeatureEventIdx

	hdrSize = 12
	ethSize = 14
)

var (
	guestMAC = [6]byte{0x02, 0xb0, 0, 0, 0, 1}
	hostMAC  = [6]byte{0x02, 0xb0, 0, 0, 0, 2}
)

// got is a frame that a host received.
type got struct {
	pair  int
	h     net.Header
	frame []byte
}

// testHost keeps what it receives, and counts calls of Ready.
type testHost struct {
	mu     sync.Mutex
	frames []got
	ready  map[int]int

	onReceive func(q int, h *net.Header, v [][]byte) // instead of keeping frames
	onReady   func(q int)
}

func (t *testHost) Receive(q int, h *net.Header, v [][]byte) {
	if t.onReceive != nil {
		t.onReceive(q, h, v)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.frames = append(t.frames, got{q, *h, slices.Concat(v...)})
}

func (t *testHost) Ready(q int) {
	t.mu.Lock()
	if t.ready == nil {
		t.ready = make(map[int]int)
	}
	t.ready[q]++
	t.mu.Unlock()
	if t.onReady != nil {
		t.onReady(q)
	}
}

// taken returns what was received since the last call.
func (t *testHost) taken() []got {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.frames
	t.frames = nil
	return f
}

func (t *testHost) readies(q int) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ready[q]
}

// awaitReady waits until Ready(q) was called more than n times.
func (t *testHost) awaitReady(tb testing.TB, q, n int) {
	tb.Helper()
	require.True(tb, virtiotest.Poll(func() bool { return t.readies(q) > n }), "no call of Ready")
}

func config(h net.Host) net.Config {
	return net.Config{MAC: guestMAC, FromGuest: net.AllOffloads, ToGuest: net.AllOffloads, Host: h}
}

// device makes a device that is closed after its transport.
func device(t testing.TB, c net.Config) *net.Device {
	t.Helper()
	d, err := net.New(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// guest is a driver with room in RAM for frames both ways.
type guest struct {
	*virtiotest.Driver
	dev  *net.Device
	host *testHost
	out  guestmem.GPA // header and frame to send
	in   guestmem.GPA // receive buffers
	cmd  guestmem.GPA // control commands

	at map[[2]int]guestmem.GPA // receive buffers by queue pair and head
}

func attach(t testing.TB, c net.Config) *guest {
	t.Helper()
	h, _ := c.Host.(*testHost)
	dev := device(t, c)
	return &guest{Driver: virtiotest.Attach(t, dev), dev: dev, host: h, at: make(map[[2]int]guestmem.GPA)}
}

// start brings the device up with these features.
func (g *guest) start(f virtio.Features) {
	g.T.Helper()
	n := 0
	if g.host != nil {
		n = g.host.readies(0)
	}
	g.Up(f)
	g.alloc()
	if g.host != nil {
		g.host.awaitReady(g.T, 0, n)
	}
}

func (g *guest) alloc() { g.out, g.in, g.cmd = g.Alloc(128<<10), g.Alloc(1<<20), g.Alloc(64<<10) }

// frame is an Ethernet frame of n bytes from one end to the other.
func frame(dst, src [6]byte, n int) []byte {
	f := make([]byte, max(n, ethSize))
	copy(f[0:], dst[:])
	copy(f[6:], src[:])
	binary.BigEndian.PutUint16(f[12:], 0x0800)
	for i := ethSize; i < len(f); i++ {
		f[i] = byte(i * 7)
	}
	return f[:n]
}

func fromGuest(n int) []byte { return frame(hostMAC, guestMAC, n) }
func toGuest(n int) []byte   { return frame(guestMAC, hostMAC, n) }

func encode(h net.Header, buffers uint16) []byte {
	le := binary.LittleEndian
	p := []byte{h.Flags, h.GSOType}
	for _, v := range []uint16{h.HdrLen, h.GSOSize, h.CsumStart, h.CsumOffset, buffers} {
		p = le.AppendUint16(p, v)
	}
	return p
}

func decode(p []byte) (h net.Header, buffers int) {
	le := binary.LittleEndian
	return net.Header{
		Flags: p[0], GSOType: p[1], HdrLen: le.Uint16(p[2:]), GSOSize: le.Uint16(p[4:]),
		CsumStart: le.Uint16(p[6:]), CsumOffset: le.Uint16(p[8:]),
	}, int(le.Uint16(p[10:]))
}

// send sends a frame in one buffer and waits until it was taken.
func (g *guest) send(pair int, h net.Header, f []byte) {
	g.T.Helper()
	g.sendRaw(pair, append(encode(h, 0), f...))
}

func (g *guest) sendRaw(pair int, p []byte) {
	g.T.Helper()
	copy(g.Bytes(g.out, len(p)), p)
	g.Do(2*pair+1, virtiotest.Buf{Addr: g.out, Len: uint32(len(p))})
}

// post gives the device n receive buffers of this size.
func (g *guest) post(pair, n, size int) {
	g.T.Helper()
	for i := range n {
		at := g.in + guestmem.GPA(i*size)
		head := g.Rings[2*pair].Add(virtiotest.Buf{Addr: at, Len: uint32(size), Write: true})
		g.at[[2]int{pair, int(head)}] = at
	}
	g.Kick(2 * pair)
}

// receive waits for one frame, whatever number of buffers it took.
func (g *guest) receive(pair int) (h net.Header, f []byte, buffers int) {
	g.T.Helper()
	for n := 1; n > 0; n-- {
		u, ok := g.WaitUsed(2 * pair)
		require.True(g.T, ok, "device wants a reset: %q", g.Logged())
		p := g.Bytes(g.at[[2]int{pair, int(u.Head)}], int(u.Len))
		if buffers == 0 {
			h, n = decode(p)
			buffers = n
			p = p[hdrSize:]
		}
		f = append(f, p...)
	}
	return h, f, buffers
}

// all are all features that the device offers.
func (g *guest) all() virtio.Features { return ring | g.dev.Features() }

func TestFramesBothWays(t *testing.T) {
	h := &testHost{}
	g := attach(t, config(h))
	for _, f := range []virtio.Features{0, fMrg, ring, g.all()} {
		g.start(f)
		for _, n := range []int{14, 60, 1514} {
			g.send(0, net.Header{}, fromGuest(n))
			require.Equal(t, []got{{0, net.Header{}, fromGuest(n)}}, h.taken())

			g.post(0, 1, 2048)
			require.Equal(t, net.Sent, g.dev.Send(0, &net.Header{}, [][]byte{toGuest(n)[:10], nil, toGuest(n)[10:]}))
			g.dev.Flush(0)
			hdr, p, buffers := g.receive(0)
			require.Equal(t, net.Header{}, hdr)
			require.Equal(t, 1, buffers)
			require.Equal(t, toGuest(n), p)
		}
	}
}

// waitingHost waits for the bell itself.
type waitingHost struct {
	testHost
	calls atomic.Int64
}

func (h *waitingHost) Await(_ int, bell *virtio.Doorbell, block bool) bool {
	h.calls.Add(1)
	return !block || bell.Wait()
}

// TestHostWaits has a host that has other things to do be the one who waits.
func TestHostWaits(t *testing.T) {
	h := &waitingHost{}
	g := attach(t, config(h))
	g.start(g.all())
	g.send(0, net.Header{}, fromGuest(100))
	require.Eventually(t, func() bool { return len(h.taken()) == 1 }, virtiotest.Patience, time.Millisecond)
	require.Eventually(t, func() bool { return h.calls.Load() > 0 }, virtiotest.Patience, time.Millisecond)
}

func TestFullThenReady(t *testing.T) {
	h := &testHost{}
	g := attach(t, config(h))
	g.start(g.all())
	for range 20 {
		n := h.readies(0)
		require.Equal(t, net.Full, g.dev.Send(0, &net.Header{}, [][]byte{toGuest(1000)}))
		require.Equal(t, n, h.readies(0))
		g.post(0, 1, 2048)
		h.awaitReady(t, 0, n)
		require.Equal(t, net.Sent, g.dev.Send(0, &net.Header{}, [][]byte{toGuest(1000)}))
		g.dev.Flush(0)
		_, p, _ := g.receive(0)
		require.Equal(t, toGuest(1000), p)
	}
}
