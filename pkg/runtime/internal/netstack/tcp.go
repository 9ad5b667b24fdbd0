package netstack

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

const (
	// maxOpening bounds connections on their way to being open; further ones are asked
	// for again by the guest's kernel.
	maxOpening = 1024
	// maxTCP bounds open connections; further ones are reset.
	maxTCP = 16384
)

// tcpTable turns the guest's connections into the host's. The guest's end of one is ours:
// what comes in a segment goes into the host's socket, and what comes from that into
// segments, on the thread that hears of it. Nothing is lost on the way to a guest's
// kernel, and nobody else sends there: so there is no congestion to control, and what a
// TCP needs beside that is in the files tcp*.go. The stack's own TCP serves the gateway.
type tcpTable struct {
	net     *Network
	gateway *tcp.Forwarder
	memory  ringMemory
	timers  tcpTimers
	seed    maphash.Seed
	start   time.Time // of the clock
	open    atomic.Int64
	opening atomic.Int64 // of the guest's, and those that were given up while somebody was asked
	calling atomic.Int64 // of forwarded ports

	first  func(flowKey) uint32                // firstSequence, but for tests
	where  func(netip.AddrPort) netip.AddrPort // hostSide, but for tests
	idle   time.Duration                       // keepIdle, but for tests
	orphan time.Duration                       // orphanTime, but for tests
	repeat time.Duration                       // firstRepeat, but for tests
	delay  time.Duration                       // ackDelay, but for tests

	acks []ackList // by queue pair

	mu    sync.Mutex
	flows map[flowKey]*tcpFlow // nil when closed
	next  uint16               // where the search for a free port of the gateway goes on
}

func newTCPTable(n *Network) *tcpTable {
	t := &tcpTable{
		net: n, gateway: newGateway(n), seed: maphash.MakeSeed(), start: time.Now(),
		where: hostSide, idle: keepIdle, orphan: orphanTime, repeat: firstRepeat, delay: ackDelay,
		acks: make([]ackList, n.cfg.Queues), flows: make(map[flowKey]*tcpFlow), next: firstCaller,
	}
	t.first = t.firstSequence
	t.timers.init(t)
	return t
}

// now is the time since the table was made, which does not jump.
func (t *tcpTable) now() time.Duration { return time.Since(t.start) }

// handle takes a segment of the guest that came through the stack.
func (t *tcpTable) handle(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	key := flowKey{
		netip.AddrPortFrom(fromTCPIP(id.RemoteAddress), id.RemotePort),
		netip.AddrPortFrom(fromTCPIP(id.LocalAddress), id.LocalPort),
	}
	if key.src.Addr() != guestOf(key.dst.Addr()) { // the stack hears our own broadcasts, too
		return true
	}
	h := header.TCP(pkt.TransportHeader().Slice())
	if len(h) < header.TCPMinimumSize || int(h.DataOffset()) != len(h) {
		t.net.count.dropped.Add(1)
		return true
	}
	var s segment
	s.decode(h)
	if t.take(anyPair, key, &s, [][]byte{pkt.Data().AsRange().ToSlice()}) {
		return true
	}
	return t.gateway.HandlePacket(id, pkt)
}

// anyPair is for segments that come from no queue.
const anyPair = -1

// take passes a segment of the guest on to its connection, or begins one. What v holds
// may change at any time, and is not kept. It reports false for a segment to the gateway
// itself.
func (t *tcpTable) take(q int, key flowKey, s *segment, v [][]byte) bool {
	f := t.find(key)
	switch {
	case f != nil:
		f.take(q, s, v)
	case key.dst.Addr() == Gateway4 || key.dst.Addr() == Gateway6:
		return false
	case s.flags&(flagSyn|flagAck|flagRst|flagFin) == flagSyn:
		t.begin(key, s)
	default:
		t.refuse(&key, s, queue.Len(v))
	}
	return true
}

func (t *tcpTable) find(key flowKey) *tcpFlow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flows[key]
}

// begin opens a connection of the guest's.
func (t *tcpTable) begin(key flowKey, s *segment) {
	if t.opening.Load() >= int64(t.net.limit.opening) {
		return // it asks again
	}
	f := newTCPFlow(t, key)
	f.greeted(s)
	asks := t.net.cfg.Policy.Asks()
	f.asking = asks
	switch {
	case !t.add(f):
	case t.open.Load() > t.net.limit.tcp:
		f.notAsked(errTooMany)
	case !asks:
		f.dial()
	case !t.net.spawn(f.dial):
		f.notAsked(errClosed)
	}
}

// add makes an entry of a connection that is to be opened, unless there is one with its
// ends or the table is closed. Others see it from then on.
func (t *tcpTable) add(f *tcpFlow) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flows == nil || t.flows[f.key] != nil {
		return false
	}
	t.flows[f.key] = f
	t.open.Add(1)
	f.opening().Add(1)
	return true
}

func (t *tcpTable) forget(f *tcpFlow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flows[f.key] == f {
		delete(t.flows, f.key)
	}
	t.open.Add(-1)
}

// refuse answers a segment of no connection (RFC 9293 §3.5.2).
func (t *tcpTable) refuse(key *flowKey, s *segment, n int) {
	if s.flags&flagRst != 0 {
		return
	}
	r := segment{flags: flagRst, shift: noScale}
	if s.flags&flagAck != 0 {
		r.seq = s.ack
	} else {
		r.flags, r.ack = flagRst|flagAck, s.seq+s.length(n)
	}
	t.net.link.say(key, &r)
}

// firstSequence is where a connection begins to count: later for the same ends each time,
// and for others elsewhere (RFC 9293 §3.4.1).
func (t *tcpTable) firstSequence(key flowKey) uint32 {
	return uint32(maphash.Comparable(t.seed, key)) + uint32(t.now()/(4*time.Microsecond))
}

// close cuts all connections, and begins none any more.
func (t *tcpTable) close() {
	t.mu.Lock()
	flows := t.flows
	t.flows = nil
	t.mu.Unlock()
	for _, f := range flows {
		f.fail(errClosed)
	}
	t.timers.close()
}
