package netstack

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxUDP bounds flows of datagrams; when there are more, one that was silent
	// for long makes room.
	maxUDP = 4096
	// udpIdle ends a flow: longer than QUIC's and WireGuard's keep-alives.
	udpIdle = 2 * time.Minute
	// While a flow is judged, udpOpening of its datagrams wait, as many as a guest sends
	// in one frame, and flowWaiting bytes; of all flows together waitingBytes.
	udpOpening   = 128
	flowWaiting  = 256 << 10
	waitingBytes = 16 << 20

	maxDatagram = 65507

	udpChecksumOffset = 6 // in the header, RFC 768
)

// udpKey names a flow of the guest.
type udpKey struct{ src, dst netip.AddrPort }

// udpTable turns the guest's datagrams into the host's: one connected socket for
// each pair of ends, so that only who was written to can answer.
type udpTable struct {
	net     *Network
	waiting atomic.Int64 // bytes of datagrams for flows that are being judged

	mu      sync.Mutex
	flows   map[udpKey]*udpFlow // nil when closed
	opening int                 // flows that are being judged and opened: maxOpening at most
}

// udpFlow is one of them.
type udpFlow struct {
	key      udpKey
	conn     *net.UDPConn // nil while it is being opened; see ready
	to       *sender      // into conn
	used     atomic.Int64 // when the last datagram went, either way: Unix ns
	refused  atomic.Int64 // when it may be tried again: Unix ns; 0 for a flow that may be
	sent     atomic.Uint64
	received atomic.Uint64

	mu      sync.Mutex
	ready   bool
	dead    bool
	waiting [][]byte // datagrams that came before it was ready
	held    int64    // bytes of them
}

func newUDPTable(n *Network) *udpTable {
	return &udpTable{net: n, flows: make(map[udpKey]*udpFlow)}
}

// handle takes a datagram of the guest. It reports false for one that nobody takes,
// which the stack answers with ICMP.
func (t *udpTable) handle(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	src := netip.AddrPortFrom(fromTCPIP(id.RemoteAddress), id.RemotePort)
	dst := netip.AddrPortFrom(fromTCPIP(id.LocalAddress), id.LocalPort)
	if h := header.UDP(pkt.TransportHeader().Slice()); len(h) < header.UDPMinimumSize || int(h.Length()) < header.UDPMinimumSize ||
		int(h.Length())-header.UDPMinimumSize > pkt.Data().Size() {
		t.net.count.dropped.Add(1)
		return true
	}
	data := pkt.Data()
	switch gateway := dst.Addr() == Gateway4 || dst.Addr() == Gateway6; {
	case dst.Port() == dhcpServerPort && dst.Addr().Is4():
		t.net.dhcp(data.AsRange().ToSlice())
		return true
	case gateway && dst.Port() == dnsPort && t.net.cfg.DNS != nil:
		t.net.query(src, dst, data.AsRange().ToSlice())
		return true
	case gateway:
		return t.net.ports.reply(src, dst, data)
	case src.Addr() != guestOf(dst.Addr()): // the stack hears our own broadcasts, too
		return true
	}
	if f := t.flow(udpKey{src, dst}); f != nil {
		f.send(t, data)
	}
	return true
}

// flow finds a flow or opens it. nil is for one that may not be, or not now.
func (t *udpTable) flow(key udpKey) *udpFlow {
	now := time.Now().UnixNano()
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.flows[key]
	if f != nil {
		again := f.refused.Load()
		if again == 0 {
			return f
		} else if now < again {
			return nil
		}
		delete(t.flows, key)
	}
	if t.flows == nil || t.opening >= t.net.limit.opening {
		return nil
	}
	f = &udpFlow{key: key}
	f.used.Store(now)
	if len(t.flows) >= t.net.limit.udp {
		t.evict()
	}
	if !t.net.spawn(func() { t.serve(f) }) {
		return nil
	}
	t.flows[key] = f
	t.opening++
	return f
}

// opened ends what flow began, whatever came of it.
func (t *udpTable) opened() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opening--
}

// evictFrom is how many flows are looked at for one to end. Looking at all would have
// the guest choose how long each of its datagrams takes.
const evictFrom = 32

// evict ends the flow that was silent for longest of some that chance names.
func (t *udpTable) evict() {
	var oldest *udpFlow
	looked := 0
	for _, f := range t.flows {
		if oldest == nil || f.used.Load() < oldest.used.Load() {
			oldest = f
		}
		if looked++; looked == evictFrom {
			break
		}
	}
	delete(t.flows, oldest.key)
	oldest.end(t)
}

// send passes a datagram on to the host. A socket that takes none just now loses
// it, as networks do.
func (f *udpFlow) send(t *udpTable, data stack.PacketData) {
	f.used.Store(time.Now().UnixNano())
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.dead:
	case !f.ready:
		f.wait(t, data)
	default:
		f.write(t, data)
	}
}

// write sends from the stack's own buffer when a datagram lies in one piece, as all
// but reassembled ones do.
func (f *udpFlow) write(t *udpTable, data stack.PacketData) {
	size := data.Size()
	if size == 0 {
		f.pass(t, nil)
	} else if p, ok := data.PullUp(size); ok {
		f.pass(t, p)
	}
}

// pass sends a datagram on, and tells the guest what became of one before.
func (f *udpFlow) pass(t *udpTable, p []byte) {
	sent, err := f.to.send(p)
	if sent {
		f.sent.Add(uint64(len(p)))
	}
	if err != nil {
		t.net.unreachable(f.key, err)
	}
}

// serve opens a flow, carries what comes back, and ends it.
func (t *udpTable) serve(f *udpFlow) {
	flow := Flow{Time: time.Now(), Protocol: egress.UDP, Src: f.key.src, Dst: f.key.dst}
	release, err := t.open(f, &flow)
	t.opened()
	if err != nil {
		flow.Err = err.Error()
		t.refuse(f, err)
		t.net.report(&flow)
		return
	}
	defer release()
	c := &t.net.count
	c.udpActive.Add(1)
	c.udpTotal.Add(1)
	t.receive(f)
	c.udpActive.Add(-1)
	t.drop(f)
	flow.Sent, flow.Received = f.sent.Load(), f.received.Load()
	t.net.report(&flow)
}

// open judges a flow and makes it ready. release ends its hold of the destination's
// name, which stays that of the address while somebody uses it.
func (t *udpTable) open(f *udpFlow, flow *Flow) (release func(), err error) {
	flow.Verdict = t.net.cfg.Policy.Check(t.net.ctx, egress.Flow{Protocol: egress.UDP, Dst: f.key.dst})
	if !flow.Verdict.Allow {
		t.net.count.denied.Add(1)
		return nil, errDenied
	}
	release = t.net.cfg.Policy.Hold(f.key.dst.Addr())
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(hostSide(f.key.dst)))
	if err != nil {
		release()
		return nil, err
	}
	to, err := newSender(conn)
	if err != nil {
		release()
		conn.Close()
		return nil, err
	}
	f.begin(t, conn, to)
	return release, nil
}

// refusalTime is how long a flow that may not be is remembered, so that each of its
// datagrams does not ask again.
const refusalTime = 5 * time.Second

// refuse notes that a flow may not be, and tells the guest why.
func (t *udpTable) refuse(f *udpFlow, err error) {
	f.refused.Store(time.Now().Add(refusalTime).UnixNano())
	f.end(t)
	t.net.unreachable(f.key, err)
}

// begin makes a flow ready and sends what waited, unless it is over already.
func (f *udpFlow) begin(t *udpTable, conn *net.UDPConn, to *sender) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conn, f.to = conn, to
	if f.dead {
		conn.Close()
		return
	}
	f.ready = true
	for _, p := range f.waiting {
		f.pass(t, p)
	}
	f.forget(t)
}

// wait keeps a datagram until the flow is judged, if there is room. Preconditions: mu.
func (f *udpFlow) wait(t *udpTable, data stack.PacketData) {
	size := int64(data.Size())
	if len(f.waiting) == udpOpening || f.held+size > flowWaiting {
		return
	}
	if t.waiting.Add(size) > waitingBytes {
		t.waiting.Add(-size)
		return
	}
	f.held += size
	f.waiting = append(f.waiting, data.AsRange().ToSlice())
}

// forget drops what waits. Preconditions: mu.
func (f *udpFlow) forget(t *udpTable) {
	t.waiting.Add(-f.held)
	f.waiting, f.held = nil, 0
}

// end closes a flow; who reads from its socket is woken.
func (f *udpFlow) end(t *udpTable) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead, f.ready = true, false
	f.forget(t)
	if f.conn != nil {
		f.conn.Close()
	}
}

func (t *udpTable) drop(f *udpFlow) {
	f.end(t)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flows[f.key] == f {
		delete(t.flows, f.key)
	}
}

// datagrams are buffers for what comes from the host.
var datagrams = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// receive carries datagrams to the guest until the flow is idle or over. The buffer
// is taken when there is something to read, so that idle flows hold none.
func (t *udpTable) receive(f *udpFlow) {
	for {
		f.conn.SetReadDeadline(time.Unix(0, f.used.Load()).Add(udpIdle))
		n, err := readDatagram(f.to.raw, func(p []byte) {
			f.used.Store(time.Now().UnixNano())
			f.received.Add(uint64(len(p)))
			t.net.datagram(f.key.dst, f.key.src, p)
		})
		if n > 0 || err == nil {
			continue
		}
		if isTimeout(err) {
			if time.Since(time.Unix(0, f.used.Load())) < udpIdle {
				continue // the guest wrote meanwhile
			}
			return
		}
		if isRefused(err) { // the far end said so by ICMP
			t.net.unreachable(f.key, err)
			continue
		}
		return
	}
}

// datagram sends one to the guest.
func (n *Network) datagram(from, to netip.AddrPort, p []byte) {
	proto := networkOf(from.Addr())
	route, err := n.stack.FindRoute(nicID, toTCPIP(from.Addr()), toTCPIP(to.Addr()), proto, false)
	if err != nil {
		n.count.lost.Add(1)
		return
	}
	defer route.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: int(route.MaxHeaderLength()) + header.UDPMinimumSize, Payload: payload(p),
	})
	defer pkt.DecRef()
	u := header.UDP(pkt.TransportHeader().Push(header.UDPMinimumSize))
	pkt.TransportProtocolNumber = header.UDPProtocolNumber
	size := uint16(header.UDPMinimumSize + len(p))
	u.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: size})
	if size <= uint16(route.MTU()-header.IPv6MinimumSize) && n.link.offloadsChecksums() {
		// The guest's kernel knows that nothing can have happened to it on the way.
		u.SetChecksum(route.PseudoHeaderChecksum(header.UDPProtocolNumber, size))
		pkt.GSOOptions = stack.GSO{NeedsCsum: true, CsumOffset: udpChecksumOffset, L3HdrLen: headerLen(proto)}
	} else {
		u.SetChecksum(udpChecksum(route, u, p))
	}
	_ = route.WritePacket(stack.NetworkHeaderParams{Protocol: header.UDPProtocolNumber, TTL: 64, TOS: stack.DefaultTOS}, pkt)
}

func headerLen(proto tcpip.NetworkProtocolNumber) uint16 {
	if proto == header.IPv4ProtocolNumber {
		return header.IPv4MinimumSize
	}
	return header.IPv6MinimumSize
}

// close ends all flows.
func (t *udpTable) close() {
	t.mu.Lock()
	flows := t.flows
	t.flows = nil
	t.mu.Unlock()
	for _, f := range flows {
		f.end(t)
	}
}
