package vsock

import (
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// alive checks that a connection passes bytes both ways.
func (g *guest) alive(c *Conn, hello string) {
	g.t.Helper()
	g.data(c.guestPort, c.hostPort, hello)
	b := make([]byte, len(hello))
	_, err := io.ReadFull(c, b)
	require.NoError(g.t, err)
	require.Equal(g.t, hello, string(b))
	_, err = c.Write(b)
	require.NoError(g.t, err)
	require.Equal(g.t, hello, string(g.expect(opData).data))
}

func TestHostile38BadPackets(t *testing.T) {
	d := newTestDevice(t, Config{})
	g := boot(t, d, allRing)
	l := listen(t, d, 1)
	c := g.connect(l, 1)
	g.alive(c, "before")
	const cid = DefaultGuestCID
	fields := func(src, dst uint64, typ uint16, o op, n uint32) (h header) {
		h.setAddrs(src, dst, 1, 1) // the ports of the connection that stands
		h.setOp(typ, o, 0, n)
		h.setCredit(math.MaxUint32, 0)
		return h
	}
	for _, c := range []struct {
		name string
		h    header
	}{
		{"spoofed source", fields(4, HostCID, typeStream, opData, 1)},
		{"source is the host", fields(HostCID, HostCID, typeStream, opReset+1, 1)},
		{"source 0", fields(0, HostCID, typeStream, opShutdown, 0)},
		{"source with upper half", fields(cid|1<<32, HostCID, typeStream, opData, 1)},
		{"unknown destination", fields(cid, 1, typeStream, opRequest, 0)},
		{"destination is the guest", fields(cid, cid, typeStream, opRequest, 0)},
		{"destination is anybody", fields(cid, math.MaxUint64, typeStream, opData, 1)},
		{"destination with upper half", fields(cid, HostCID|1<<63, typeStream, opData, 1)},
		{"type 0", fields(cid, HostCID, 0, opData, 1)},
		{"seqpacket", fields(cid, HostCID, 2, opRequest, 0)},
		{"type 65535", fields(cid, HostCID, math.MaxUint16, opRequest, 0)},
	} {
		g.send(c.h, []byte("x"))
		p := g.expect(opReset)
		require.Equal(t, c.h.dstPort(), p.h.srcPort(), c.name)
		require.Equal(t, c.h.dstCID(), p.h.srcCID(), c.name)
		require.EqualValues(t, cid, p.h.dstCID(), c.name)
		require.Equal(t, c.h.typ(), p.h.typ(), c.name)
		require.Equal(t, 1, d.Stats().Open, c.name)
	}
	// Resets are never answered, whatever is wrong with them.
	g.send(fields(4, HostCID, typeStream, opReset, 0), nil)
	g.send(fields(cid, 9, 7, opReset, 0), nil)
	// Strangers' packets of each kind, valid or not.
	for o := range op(12) {
		h := g.packet(o, 99, 98, 0, 0)
		g.send(h, nil)
		if o != opReset {
			require.EqualValues(t, 99, g.expect(opReset).h.dstPort())
		}
	}
	// A header that is not all there, or alone in a longer chain.
	for _, n := range []uint32{1, headerSize - 1} {
		at := g.slot()
		g.sent[g.drv.Rings[queueTX].Add(virtiotest.Buf{Addr: at, Len: n})] = at
		g.drv.Kick(queueTX)
	}
	require.Equal(t, 1, d.Stats().Open)
	g.alive(c, "after")

	// What breaks one connection leaves the others alone.
	for _, bad := range []struct {
		name string
		o    op
		n    uint32
		data int
	}{
		{"len beyond the buffer", opData, 100, 99},
		{"len of 2^32-1", opData, math.MaxUint32, 10},
		{"len beyond the buffer of a control packet", opCreditUpdate, 100, 99},
		{"op 0", 0, 0, 0},
		{"op 9", 9, 0, 0},
		{"request on an open connection", opRequest, 0, 0},
	} {
		victim := g.connect(l, 2)
		h := g.packet(bad.o, 2, 1, 0, 0)
		h.setOp(typeStream, bad.o, 0, bad.n)
		g.send(h, make([]byte, bad.data))
		require.EqualValues(t, 2, g.expect(opReset).h.dstPort(), bad.name)
		_, err := victim.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET, bad.name)
		require.NoError(t, victim.Close())
	}
	// More than the credit.
	victim := g.connect(l, 2)
	for range 5 {
		g.send(g.packet(opData, 2, 1, 0, 64<<10), make([]byte, 64<<10))
	}
	require.EqualValues(t, 2, g.expect(opReset).h.dstPort())
	n, err := io.Copy(io.Discard, victim)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.EqualValues(t, 256<<10, n)
	require.NoError(t, victim.Close())
	require.Equal(t, 1, d.Stats().Open)
	g.alive(c, "still")
	require.False(t, g.drv.NeedsReset())
}

func TestHostile39ConnectFloods(t *testing.T) {
	d := newTestDevice(t, Config{MaxConns: 100})
	g := boot(t, d, allRing)
	// 100,000 connects to ports where nobody listens.
	total := 100_000
	if raceDetector {
		total = 20_000
	}
	resets := 0
	for i := range uint32(total) {
		g.op(opRequest, i, i>>2+2, 0)
		for {
			p, ok := g.take()
			if !ok {
				break
			}
			require.Equal(t, opReset, p.h.op())
			resets++
		}
	}
	for resets+int(d.Stats().ResetsDropped) < total {
		g.expect(opReset)
		resets++
	}
	require.Zero(t, d.Stats().Open)

	// The same with a guest that takes no answers: a bounded number waits.
	g.hold = true
	for i := range uint32(5000) {
		g.op(opRequest, i, 2, 0)
	}
	require.True(t, virtiotest.Poll(func() bool { return d.Stats().Refused == uint64(total+5000) }))
	require.NotZero(t, d.Stats().ResetsDropped)
	d.mu.Lock()
	require.LessOrEqual(t, d.strays.n, maxStrays)
	d.mu.Unlock()
	g.hold = false
	before := d.Stats().ResetsDropped
	for range 5000 - before {
		g.expect(opReset)
	}

	// Connects to a port whose program does not accept; then one that does.
	l := listen(t, d, 1)
	for i := range uint32(1000) {
		g.op(opRequest, i, 1, 0)
		g.recv()
		require.LessOrEqual(t, d.Stats().Open, 100)
	}
	require.Equal(t, 100, d.Stats().Open)
	require.NoError(t, l.Close())
	require.Zero(t, d.Stats().Open)
	for range 100 {
		g.expect(opReset)
	}

	// Random packets on few ports: every race of resets, shutdowns and half-closes.
	l = listen(t, d, 1)
	rnd := rand.New(rand.NewPCG(39, 39))
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			c, err := l.AcceptConn()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(time.Duration(rand.IntN(1000)) * time.Microsecond))
			_, _ = c.Write(make([]byte, 100))
			_, _ = c.Read(make([]byte, 100))
			switch rand.IntN(4) {
			case 0:
				_ = c.CloseWrite()
				_, _ = c.Read(make([]byte, 100))
			case 1:
				_ = c.CloseRead()
			case 2:
				c.Abort()
			}
			_ = c.Close()
		}
	}()
	for range total / 5 {
		o := op(rnd.IntN(9))
		if rnd.IntN(2) == 0 {
			o = opRequest
		}
		n := 0
		if o == opData {
			n = rnd.IntN(200)
		}
		g.send(g.packet(o, rnd.Uint32N(4), 1, rnd.Uint32N(5), n), make([]byte, n))
		for {
			if _, ok := g.take(); !ok {
				break
			}
		}
		require.LessOrEqual(t, d.Stats().Open, 100)
	}
	require.NoError(t, l.Close())
	<-accepted
	for i := range uint32(4) {
		g.op(opReset, i, 1, 0)
	}
	require.True(t, virtiotest.Poll(func() bool { g.take(); return d.Stats().Open == 0 }))
	require.False(t, g.drv.NeedsReset())
}

func TestHostile40LyingPeer(t *testing.T) {
	d := newTestDevice(t, Config{})
	g := boot(t, d, allRing)
	l := listen(t, d, 1)
	say := func(c *Conn, alloc, fwd uint32) {
		h := g.packet(opCreditUpdate, c.guestPort, 1, 0, 0)
		h.setCredit(alloc, fwd)
		g.send(h, nil)
		g.op(opRequest, 1000, 1000, 0) // its answer says that it was heard
		for g.recv().h.op() != opReset {
		}
	}
	for i, l := range []struct{ alloc, fwd uint32 }{
		{0, 0}, {0, math.MaxUint32}, {math.MaxUint32, math.MaxUint32}, {math.MaxUint32, 1 << 31}, {1, 7}, {math.MaxUint32, 0},
	} {
		c := g.connect(d.listeners[1], uint32(i))
		say(c, l.alloc, l.fwd)
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
		n, err := c.Write(make([]byte, 8<<20)) // more than all receive buffers take
		require.Error(t, err)
		require.LessOrEqual(t, n, min(int(l.alloc), 256*guestRxBuf))
		// The truth helps even now.
		for {
			if _, ok := g.take(); !ok {
				break
			}
		}
		require.NoError(t, c.SetWriteDeadline(time.Time{}))
		say(c, guestWindow, uint32(n))
		_, err = c.Write([]byte("x"))
		require.NoError(t, err)
		require.Equal(t, "x", string(g.expect(opData).data))
		c.Abort()
		g.expect(opReset)
	}
	// A guest that ignores our credit fills one buffer and is cut off.
	c := g.connect(l, 50)
	for range 20 {
		g.send(g.packet(opData, 50, 1, 0, 60<<10), make([]byte, 60<<10))
	}
	_, err := io.Copy(io.Discard, c)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	d.mu.Lock()
	require.LessOrEqual(t, len(c.in.buf), d.cfg.Buffer)
	d.mu.Unlock()
	require.NoError(t, c.Close())
	require.Zero(t, d.Stats().Open)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestHostile41GuestNeverReads(t *testing.T) {
	d := newTestDevice(t, Config{})
	newStack(t, d, func(c *gconn) { c.slow = c.local < 100 })
	before := heap()
	chunk := make([]byte, 1<<20)
	for i := range uint32(20) {
		near, _ := spliceTest(t, d, i)
		require.NoError(t, near.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
		var n int
		for m, err := 0, error(nil); err == nil; n += m {
			m, err = near.Write(chunk) // whoever offers 100 GB stops here
		}
		require.Less(t, n, 4<<20)

		c := dialTest(t, d, i)
		defer c.Abort()
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(10*time.Millisecond)))
		n, err := c.Write(chunk)
		require.Error(t, err)
		require.LessOrEqual(t, n, guestWindow)
	}
	require.Less(t, int64(heap()-before), int64(8<<20))
	// Others are not held up.
	c := dialTest(t, d, 100)
	roundTrip(t, c, chunk)
	require.NoError(t, c.Close())
}

// A client that does not read, while the guest talks as much as it may.
func TestHostileHostNeverReads(t *testing.T) {
	d := newTestDevice(t, Config{})
	newStack(t, d, func(c *gconn) {
		if c.local < 100 {
			sources(64 << 10)(c)
		}
	})
	var clients []io.Reader
	for i := range uint32(10) {
		near, _ := spliceTest(t, d, i)
		clients = append(clients, near)
	}
	held := func() (n int) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, c := range d.conns {
			require.LessOrEqual(t, len(c.in.buf), d.cfg.Buffer)
			n += c.in.n
		}
		return n
	}
	require.True(t, virtiotest.Poll(func() bool { return held() > 10*d.cfg.Buffer/2 }))
	c := dialTest(t, d, 100)
	roundTrip(t, c, make([]byte, 1<<20))
	require.NoError(t, c.Close())
	for _, near := range clients { // they get all of it when they come back
		_, err := io.CopyN(io.Discard, near, 2<<20)
		require.NoError(t, err)
	}
}

func TestHostileUselessBuffers(t *testing.T) {
	d := newTestDevice(t, Config{})
	g := boot(t, d, allRing)
	c := g.connect(listen(t, d, 1), 1)
	g.hold = true
	for range len(g.rx) { // all good ones are used up
		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
		g.expect(opData)
	}
	// Buffers without room for a header come back empty, those for nothing else carry an empty packet.
	at := g.drv.Alloc(4096)
	r := g.drv.Rings[queueRX]
	for n := range uint32(headerSize + 1) {
		if n > 0 {
			r.Add(virtBuf(at, n))
		}
	}
	g.drv.Kick(queueRX)
	go c.Write([]byte("y"))
	for n := range uint32(headerSize - 1) {
		u, ok := g.drv.WaitUsed(queueRX)
		require.True(t, ok)
		require.Zero(t, u.Len, "buffer of %d", n+1)
	}
	u, ok := g.drv.WaitUsed(queueRX)
	require.True(t, ok)
	require.EqualValues(t, headerSize, u.Len)
	// A header and payload in many pieces.
	at += 2048
	var bufs []virtiotest.Buf
	for i := range 100 {
		bufs = append(bufs, virtBuf(at+guestmem.GPA(i), 1))
	}
	require.EqualValues(t, headerSize+1, g.drv.Do(queueRX, bufs...))
	var h header
	copy(h[:], g.drv.Bytes(at, headerSize))
	require.Equal(t, opData, h.op())
	require.Equal(t, "y", string(g.drv.Bytes(at+headerSize, 1)))
	c.Abort()
}
