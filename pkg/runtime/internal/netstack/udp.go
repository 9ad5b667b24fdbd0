package netstack

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxUDP bounds flows of datagrams; when there are more, one that was silent
	// for long makes room.
	maxUDP = 4096
	// udpIdle ends a flow, at most udpSweep later: longer than QUIC's and WireGuard's
	// keep-alives.
	udpIdle  = 2 * time.Minute
	udpSweep = udpIdle / 8

	maxDatagram = 65507
)

// udpTable turns the guest's datagrams into the host's: one connected socket for
// each pair of ends, so that only who was written to can answer.
type udpTable struct {
	net     *Network
	waiting atomic.Int64 // bytes of datagrams for flows that are being judged

	mu      sync.Mutex
	flows   map[flowKey]*udpFlow // nil when closed
	opening int                  // flows that are being judged and opened: maxOpening at most
	sweeper *time.Timer          // nil until there is something to sweep
}

func newUDPTable(n *Network) *udpTable {
	return &udpTable{net: n, flows: make(map[flowKey]*udpFlow)}
}

// handle takes a datagram of the guest that came through the stack. It always reports
// true: take itself tells the guest of what nobody takes.
func (t *udpTable) handle(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	key := flowKey{
		netip.AddrPortFrom(fromTCPIP(id.RemoteAddress), id.RemotePort),
		netip.AddrPortFrom(fromTCPIP(id.LocalAddress), id.LocalPort),
	}
	data := pkt.Data()
	if h := header.UDP(pkt.TransportHeader().Slice()); len(h) < header.UDPMinimumSize || int(h.Length()) < header.UDPMinimumSize ||
		int(h.Length())-header.UDPMinimumSize > data.Size() {
		t.net.count.dropped.Add(1)
		return true
	}
	t.take(key, [][]byte{data.AsRange().ToSlice()})
	return true
}

// take passes a datagram of the guest on to whom it is for. What v holds may change
// at any time, and is not kept.
func (t *udpTable) take(key flowKey, v [][]byte) {
	src, dst := key.src, key.dst
	switch gateway := dst.Addr() == Gateway4 || dst.Addr() == Gateway6; {
	case dst.Port() == dhcpServerPort && dst.Addr().Is4():
		t.net.dhcp(gathered(v))
	case gateway && dst.Port() == dnsPort && t.net.cfg.DNS != nil:
		t.net.query(src, dst, gathered(v))
	case gateway:
		if !t.net.ports.reply(src, dst, v) {
			t.net.unreachable(key, syscall.ECONNREFUSED)
		}
	case src.Addr() != guestOf(dst.Addr()): // the stack hears our own broadcasts, too
	default:
		if f := t.flow(key); f != nil {
			f.send(v)
		}
	}
}

// takeMany is take for datagrams of so many bytes each, n together. It reports false when
// they have to go one by one.
func (t *udpTable) takeMany(key flowKey, v [][]byte, n, each int) bool {
	t.mu.Lock()
	f := t.flows[key]
	t.mu.Unlock()
	return f != nil && f.sendMany(v, n, each)
}

// gathered is a copy of what the pieces hold.
func gathered(v [][]byte) []byte {
	b := make([]byte, queue.Len(v))
	queue.Gather(b, v)
	return b
}

// flow finds a flow or opens it. nil is for one that may not be, or not now.
func (t *udpTable) flow(key flowKey) *udpFlow {
	f, evicted := t.findOrOpen(key)
	if evicted != nil {
		evicted.end("")
	}
	return f
}

func (t *udpTable) findOrOpen(key flowKey) (f, evicted *udpFlow) {
	now := time.Now().UnixNano()
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.flows[key]; f != nil {
		again := f.refused.Load()
		if again == 0 {
			return f, nil
		} else if now < again {
			return nil, nil
		}
		delete(t.flows, key)
	}
	if t.flows == nil || t.opening >= t.net.limit.opening {
		return nil, nil
	}
	f = &udpFlow{table: t, key: key, fd: -1}
	f.used.Store(now)
	if len(t.flows) >= t.net.limit.udp {
		evicted = t.oldest()
		delete(t.flows, evicted.key)
	}
	if !t.net.spawn(f.open) {
		return nil, evicted
	}
	t.flows[key] = f
	t.opening++
	if t.sweeper == nil {
		t.sweeper = time.AfterFunc(udpSweep, func() { t.net.spawn(t.sweep) })
	}
	return f, evicted
}

// evictFrom is how many flows are looked at for one to end. Looking at all would have
// the guest choose how long each of its datagrams takes.
const evictFrom = 32

// oldest is the flow that was silent for longest of some that chance names.
// Preconditions: mu, and there are flows.
func (t *udpTable) oldest() (oldest *udpFlow) {
	looked := 0
	for _, f := range t.flows {
		if oldest == nil || f.used.Load() < oldest.used.Load() {
			oldest = f
		}
		if looked++; looked == evictFrom {
			break
		}
	}
	return oldest
}

// opened ends what findOrOpen began, whatever came of it.
func (t *udpTable) opened() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opening--
}

// sweep ends the flows that are idle, drains sockets that nobody waits for, and comes
// again while there are flows.
func (t *udpTable) sweep() {
	now := time.Now()
	var idle []*udpFlow
	t.mu.Lock()
	for key, f := range t.flows {
		if again := f.refused.Load(); again != 0 {
			if now.UnixNano() >= again {
				delete(t.flows, key)
			}
		} else if now.Sub(time.Unix(0, f.used.Load())) >= udpIdle {
			delete(t.flows, key)
			idle = append(idle, f)
		}
	}
	if len(t.flows) > 0 {
		t.sweeper.Reset(udpSweep)
	} else {
		t.sweeper = nil
	}
	t.mu.Unlock()
	for _, f := range idle {
		f.end("")
	}
	t.net.sockets.drain()
}

// forget takes a flow out of the table.
func (t *udpTable) forget(f *udpFlow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flows[f.key] == f {
		delete(t.flows, f.key)
	}
}

// close ends all flows.
func (t *udpTable) close() {
	t.mu.Lock()
	flows := t.flows
	t.flows = nil
	if t.sweeper != nil {
		t.sweeper.Stop()
	}
	t.mu.Unlock()
	for _, f := range flows {
		f.end("")
	}
}
