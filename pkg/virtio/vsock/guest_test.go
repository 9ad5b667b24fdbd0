package vsock

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/mmio"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

const allRing = virtio.FeatureIndirectDesc | virtio.FeatureEventIdx

// Sizes as Linux 6.12 uses them.
const (
	guestRxBuf  = 3776 // a page less the kernel's own
	guestTxBuf  = 64<<10 + headerSize
	guestTxBufs = 32
	guestWindow = 256 << 10
)

// guest is a driver of the device at the level of packets. It belongs to one
// goroutine at a time.
type guest struct {
	t    testing.TB
	d    *Device
	drv  *virtiotest.Driver
	irq  chan struct{}
	rx   map[uint16]guestmem.GPA // buffers with the device
	idle []guestmem.GPA          // buffers that are not
	tx   []guestmem.GPA          // free
	sent map[uint16]guestmem.GPA
	last pkt
	tick *time.Timer
	hold bool // post no receive buffers again
}

// pkt is a packet in either direction.
type pkt struct {
	h    header
	data []byte
}

func (p *pkt) String() string {
	return fmt.Sprintf("%d:%d>%d:%d op %d flags %d len %d alloc %d fwd %d", p.h.srcCID(), p.h.srcPort(), p.h.dstCID(),
		p.h.dstPort(), p.h.op(), p.h.flags(), p.h.len(), p.h.bufAlloc(), p.h.fwdCnt())
}

func newTestDevice(t testing.TB, cfg Config) *Device {
	t.Helper()
	d, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// boot starts the device under a guest that has its queues set up.
func boot(t testing.TB, d *Device, f virtio.Features) *guest {
	t.Helper()
	g := &guest{t: t, d: d, irq: make(chan struct{}, 1), tick: time.NewTimer(virtiotest.Patience)}
	t.Cleanup(func() { g.tick.Stop() })
	mem := virtiotest.NewMemory(t)
	g.drv = virtiotest.New(t, mem, nil)
	tr := mmio.New(d, mem, mmio.Config{Interrupt: func() { poke(g.irq); g.drv.Interrupt() }, Log: g.drv.Log})
	g.drv.Regs, g.drv.Transport = tr, tr
	t.Cleanup(func() { tr.Close() })
	g.up(f)
	return g
}

func (g *guest) up(f virtio.Features) {
	g.drv.Up(f | featureStream)
	g.rx, g.sent = map[uint16]guestmem.GPA{}, map[uint16]guestmem.GPA{}
	g.idle, g.tx = nil, nil
	for range g.drv.Rings[queueRX].Size {
		g.idle = append(g.idle, g.drv.Alloc(guestRxBuf))
	}
	for range guestTxBufs {
		g.tx = append(g.tx, g.drv.Alloc(guestTxBuf))
	}
	g.post()
}

// post gives all receive buffers to the device.
func (g *guest) post() {
	if g.hold || len(g.idle) < len(g.rx) { // refilled by halves, as Linux does
		return
	}
	for _, at := range g.idle {
		g.rx[g.drv.Rings[queueRX].Add(virtiotest.Buf{Addr: at, Len: guestRxBuf, Write: true})] = at
	}
	g.idle = g.idle[:0]
	g.drv.Kick(queueRX)
}

// take returns the next packet of the device if there is one. It is valid
// until the next call.
func (g *guest) take() (p *pkt, ok bool) {
	u, ok := g.drv.Rings[queueRX].Reap()
	if !ok {
		g.post()
		return p, false
	}
	p = &g.last
	at := g.rx[u.Head]
	delete(g.rx, u.Head)
	g.idle = append(g.idle, at)
	b := g.drv.Bytes(at, int(u.Len))
	if copy(p.h[:], b) < headerSize {
		g.t.Errorf("packet of %d bytes", u.Len)
		return p, true
	}
	p.data = b[headerSize:]
	if int(p.h.len()) != len(p.data) || p.h.typ() != typeStream && p.h.op() != opReset || p.h.dstCID() != g.d.cfg.GuestCID {
		g.t.Errorf("bad packet in %d bytes: %v", u.Len, p)
	}
	return p, true
}

// recv waits for the next packet.
func (g *guest) recv() *pkt {
	g.t.Helper()
	for {
		if p, ok := g.take(); ok {
			return p
		}
		if g.drv.Rings[queueRX].WantInterrupt() {
			continue
		}
		g.wait()
	}
}

func (g *guest) wait() {
	g.t.Helper()
	g.tick.Reset(virtiotest.Patience)
	select {
	case <-g.irq:
		g.drv.Write(virtiotest.RegInterruptACK, 3)
	case <-g.tick.C:
		g.t.Fatalf("no interrupt in %v; log %q", virtiotest.Patience, g.drv.Logged())
	}
}

// expect waits for a packet of this kind.
func (g *guest) expect(o op) *pkt {
	g.t.Helper()
	p := g.recv()
	require.Equal(g.t, o, p.h.op(), "%v", p)
	return p
}

// quiet checks that the device sends nothing.
func (g *guest) quiet() {
	g.t.Helper()
	time.Sleep(5 * time.Millisecond)
	if p, ok := g.take(); ok {
		g.t.Fatalf("unexpected %v", p)
	}
}

// slot waits for room in the queue to the device.
func (g *guest) slot() guestmem.GPA {
	for {
		for {
			u, ok := g.drv.Rings[queueTX].Reap()
			if !ok {
				break
			}
			g.tx = append(g.tx, g.sent[u.Head])
			delete(g.sent, u.Head)
		}
		if n := len(g.tx); n > 0 {
			at := g.tx[n-1]
			g.tx = g.tx[:n-1]
			return at
		}
		if !g.drv.Rings[queueTX].WantInterrupt() {
			g.wait() // callers look at the other queue afterwards
		}
	}
}

// send sends a packet as it is: the header in one buffer, data in another.
func (g *guest) send(h header, data []byte) {
	at := g.slot()
	b := g.drv.Bytes(at, guestTxBuf)
	copy(b, h[:])
	n := copy(b[headerSize:], data)
	bufs := [...]virtiotest.Buf{{Addr: at, Len: headerSize}, {Addr: at + headerSize, Len: uint32(n)}}
	g.sent[g.drv.Rings[queueTX].Add(bufs[:1+min(n, 1)]...)] = at
	g.drv.Kick(queueTX)
}

// packet is a well-formed packet from a port of the guest to one of the host.
func (g *guest) packet(o op, from, to uint32, flags uint32, n int) (h header) {
	h.setAddrs(g.d.cfg.GuestCID, HostCID, from, to)
	h.setOp(typeStream, o, flags, uint32(n))
	h.setCredit(guestWindow, 0)
	return h
}

func (g *guest) op(o op, from, to, flags uint32) { g.send(g.packet(o, from, to, flags, 0), nil) }

func (g *guest) data(from, to uint32, data string) {
	g.send(g.packet(opData, from, to, 0, len(data)), []byte(data))
}

// connect opens a connection from the guest to a listener.
func (g *guest) connect(l *Listener, from uint32) *Conn {
	g.t.Helper()
	g.op(opRequest, from, l.port, 0)
	p := g.expect(opResponse)
	require.Equal(g.t, l.port, p.h.srcPort())
	require.Equal(g.t, from, p.h.dstPort())
	c, err := l.AcceptConn()
	require.NoError(g.t, err)
	return c
}

func listen(t testing.TB, d *Device, port uint32) *Listener {
	t.Helper()
	l, err := d.Listen(port)
	require.NoError(t, err)
	return l
}
