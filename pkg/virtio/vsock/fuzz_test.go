package vsock

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// FuzzGuest lets guest and host do what the input says, in turn, and then checks
// that all bounds hold, that the device works, and that nothing is left behind.
func FuzzGuest(f *testing.F) {
	f.Add([]byte{0, 1, 1, 1, 0, 0, 1, 0, 0, 5, 1, 1, 9, 0, 2, 3, 0, 0, 4, 1, 1, 3, 0})
	f.Add([]byte{0, 1, 1, 1, 0, 0, 1, 0, 0, 5, 1, 1, 9, 0, 6, 0, 5, 1, 1, 200, 0, 0, 4, 1, 1, 0, 2})
	f.Add([]byte{0, 1, 1, 1, 0, 0, 1, 3, 1, 4, 5, 0, 0, 1, 2, 2, 0, 0, 7})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 512 {
			in = in[:512]
		}
		d, err := New(Config{MaxConns: 6, Buffer: 4096, CloseTimeout: time.Hour})
		require.NoError(t, err)
		defer d.Close()
		z := &fuzzer{t: t, in: in, guest: boot(t, d, allRing), l: listen(t, d, 1)}
		for len(z.in) > 0 {
			z.step()
			z.check()
		}
		z.finish()
	})
}

type fuzzer struct {
	*guest
	t     *testing.T
	in    []byte
	l     *Listener
	conns []*Conn
	socks []*net.UnixConn
	done  []chan error
}

func (z *fuzzer) byte() (b byte) {
	if len(z.in) > 0 {
		b, z.in = z.in[0], z.in[1:]
	}
	return b
}

// pick returns one of the values, most often a likely one.
func pick[T any](z *fuzzer, likely T, others ...T) T {
	if i := int(z.byte()); i >= 64 && i-64 < len(others) {
		return others[i-64]
	}
	return likely
}

func (z *fuzzer) step() {
	switch z.byte() % 8 {
	case 0, 1, 2: // the guest sends a packet
		o, from, flags := op(z.byte()%10), uint32(z.byte()%4), uint32(z.byte()%5)
		n := int(z.byte()) * 16
		h := z.packet(o, from, 1, flags, n)
		h.setCredit(pick[uint32](z, 4096, 0, 1, 1<<32-1), pick[uint32](z, 0, 1, 16, 1<<31, 1<<32-1))
		h.setAddrs(pick[uint64](z, DefaultGuestCID, 0, 2, 4, 1<<32|3), pick[uint64](z, HostCID, 0, 3), from, pick[uint32](z, 1, 2))
		h.setOp(pick[uint16](z, typeStream, 0, 2), o, flags, pick(z, uint32(n), uint32(n+1), 1<<32-1, 0))
		z.send(h, make([]byte, n))
	case 3: // the host accepts
		select {
		case c := <-z.l.backlog:
			z.conns = append(z.conns, c)
		default:
		}
	case 4: // the host uses a connection
		if len(z.conns) == 0 {
			return
		}
		c := z.conns[int(z.byte())%len(z.conns)]
		switch z.byte() % 6 {
		case 0:
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, _ = c.Read(make([]byte, 1000))
		case 1:
			_ = c.SetWriteDeadline(time.Now().Add(time.Millisecond))
			_, _ = c.Write(make([]byte, int(z.byte())*100))
		case 2:
			_ = c.CloseRead()
		case 3:
			_ = c.CloseWrite()
		case 4:
			_ = c.Close()
		case 5:
			c.Abort()
		}
	case 5: // the guest takes what there is
		for {
			if _, ok := z.take(); !ok {
				return
			}
		}
	case 6: // the host splices a connection; its client writes, or goes
		if len(z.conns) == 0 || len(z.socks) > 8 {
			return
		}
		c := z.conns[int(z.byte())%len(z.conns)]
		near, far := unixPair(z.t)
		z.socks = append(z.socks, near)
		done := make(chan error, 1)
		z.done = append(z.done, done)
		go func() { err := c.Splice(far); far.Close(); done <- err }()
		switch z.byte() % 4 {
		case 0:
			_, _ = near.Write(make([]byte, int(z.byte())*64))
		case 1:
			_ = near.CloseWrite()
		case 2:
			_ = near.Close()
		}
	case 7:
		if z.byte() == 255 {
			z.d.ResetConnections()
		}
	}
}

// check holds the device to its bounds.
func (z *fuzzer) check() {
	z.d.mu.Lock()
	defer z.d.mu.Unlock()
	require.LessOrEqual(z.t, z.d.open, 6)
	require.LessOrEqual(z.t, len(z.d.conns), z.d.open)
	require.LessOrEqual(z.t, z.d.strays.n, maxStrays)
	for _, c := range z.d.conns {
		require.LessOrEqual(z.t, len(c.in.buf), 4096)
		require.LessOrEqual(z.t, c.in.n, 4096)
	}
}

func (z *fuzzer) finish() {
	// The device answers still.
	z.op(opRequest, 77, 77, 0)
	for {
		if p := z.recv(); p.h.op() == opReset && p.h.dstPort() == 77 {
			break
		}
	}
	require.False(z.t, z.drv.NeedsReset())
	for _, c := range z.conns {
		c.Abort()
	}
	for _, s := range z.socks {
		_ = s.Close()
	}
	for _, done := range z.done {
		<-done
	}
	require.NoError(z.t, z.l.Close())
	require.True(z.t, virtiotest.Poll(func() bool { return z.d.Stats().Open == 0 }))
	_, err := z.l.Accept()
	require.Error(z.t, err)
	require.NotErrorIs(z.t, err, io.EOF)
}

// FuzzPacket hands the device a chain of any bytes, cut in two anywhere.
func FuzzPacket(f *testing.F) {
	var h header
	h.setAddrs(DefaultGuestCID, HostCID, 1, 1)
	h.setOp(typeStream, opRequest, 0, 0)
	f.Add(h[:], uint8(20))
	h.setOp(typeStream, opData, 0, 4)
	f.Add(append(h[:], "data"...), uint8(44))
	f.Fuzz(func(t *testing.T, packet []byte, cut uint8) {
		if len(packet) == 0 || len(packet) > 4096 {
			return
		}
		d, err := New(Config{})
		require.NoError(t, err)
		defer d.Close()
		g := boot(t, d, allRing)
		c := g.connect(listen(t, d, 1), 1)
		at := g.drv.Put(packet)
		n := min(uint32(cut), uint32(len(packet))-1)
		g.drv.Rings[queueTX].Add(virtiotest.Buf{Addr: at, Len: n}, virtiotest.Buf{Addr: at, Len: 0},
			virtiotest.Buf{Addr: at + guestmem.GPA(n), Len: uint32(len(packet)) - n})
		g.drv.Kick(queueTX)
		g.slot() // the chain comes back
		require.LessOrEqual(t, d.Stats().Open, 2)
		c.Abort()
	})
}
