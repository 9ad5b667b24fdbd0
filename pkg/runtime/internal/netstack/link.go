package netstack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/virtio"
	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	ethernetHeader = header.EthernetMinimumSize
	// backlogBytes bounds the packets that wait for a guest that has no room in its receive
	// ring, for each queue pair.
	backlogBytes = 4 << 20
	// packetOverhead is what a packet that waits takes besides its bytes.
	packetOverhead = 512
	// gsoMax is the largest TCP segment that goes to the guest in one frame; with
	// headers it fits an IP packet.
	gsoMax = 65535 - header.IPv6MinimumSize - header.TCPHeaderMaximumSize
)

// link is the stack's interface: packets go from here to the network card and
// come in from it, with segmentation and checksums left undone either way
// (virtio 1.3 §5.1.6).
type link struct {
	net        *Network
	nic        NIC
	mtu        uint32
	dispatcher stack.NetworkDispatcher
	queues     []sendQueue
	capture    *recorder // nil for none
}

// sendQueue is the way to one receive ring of the guest.
type sendQueue struct {
	mu      sync.Mutex
	header  vnet.Header
	head    [directHead]byte      // of the datagram or segment under way
	pieces  [][]byte              // of the packet under way
	backlog []*stack.PacketBuffer // waiting for room, oldest first
	waiting int                   // bytes of it
	blocked []*tcpFlow            // to be told when there is room
}

func newLink(n *Network) *link {
	l := &link{net: n, mtu: uint32(n.cfg.MTU), queues: make([]sendQueue, n.cfg.Queues)}
	for i := range l.queues {
		l.queues[i].pieces = make([][]byte, 0, 64)
	}
	if n.cfg.Capture != nil {
		l.capture = newRecorder(n.cfg.Capture)
	}
	return l
}

func (l *link) attach(nic NIC) { l.nic = nic }

// WritePackets implements [stack.LinkWriter]. It never waits for the guest.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	if l.nic == nil {
		return 0, &tcpip.ErrClosedForSend{}
	}
	sent, last := 0, -1
	for _, pkt := range pkts.AsSlice() {
		if len(pkt.LinkHeader().Slice()) == 0 {
			l.AddHeader(pkt)
		}
		q := l.queueOf(pkt)
		if last >= 0 && q != last {
			l.nic.Flush(last)
		}
		last = q
		if l.queues[q].write(l, q, pkt) {
			sent++
		}
	}
	if last >= 0 {
		l.nic.Flush(last)
	}
	return sent, nil
}

// flush has the guest hear of what was sent to a flow.
func (l *link) flush(key *flowKey) { l.flushQueue(l.pairOf(key.src.Port(), key.dst.Port())) }

func (l *link) flushQueue(q int) {
	if l.nic != nil {
		l.nic.Flush(q)
	}
}

// queueOf spreads flows over the queue pairs: packets of one stay in order.
func (l *link) queueOf(pkt *stack.PacketBuffer) int {
	if len(l.queues) == 1 {
		return 0
	}
	h := pkt.TransportHeader().Slice()
	if len(h) < 4 {
		return 0
	}
	return l.pairOf(binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:]))
}

// pairOf is the queue pair for packets between two ports.
func (l *link) pairOf(a, b uint16) int {
	pairs := len(l.queues)
	if l.nic != nil {
		pairs = min(pairs, max(l.nic.Pairs(), 1))
	}
	return int(a^b) % pairs
}

// write sends a packet or keeps it for later; it reports false when there is no
// room for that either.
func (s *sendQueue) write(l *link, q int, pkt *stack.PacketBuffer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.backlog) == 0 {
		switch s.send(l, q, pkt) {
		case vnet.Sent:
			return true
		case vnet.Down:
			l.net.count.lost.Add(1)
			return false
		}
	}
	return s.keep(l, pkt)
}

// keep has a packet wait for room, if there is some to wait in. Preconditions: mu.
func (s *sendQueue) keep(l *link, pkt *stack.PacketBuffer) bool {
	if !s.roomFor(pkt.Size()) {
		l.net.count.lost.Add(1)
		return false
	}
	s.backlog = append(s.backlog, pkt.IncRef())
	s.waiting += pkt.Size() + packetOverhead
	return true
}

// roomFor reports whether a packet may wait. Preconditions: mu.
func (s *sendQueue) roomFor(size int) bool { return s.waiting+size+packetOverhead <= backlogBytes }

// send hands one packet to the card.
func (s *sendQueue) send(l *link, q int, pkt *stack.PacketBuffer) vnet.Status {
	s.pieces = s.pieces[:0]
	views, offset := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if offset > 0 {
			skip := min(offset, len(b))
			b, offset = b[skip:], offset-skip
		}
		if len(b) > 0 {
			s.pieces = append(s.pieces, b)
		}
	}
	s.header = offloads(pkt)
	return s.transmit(l, q)
}

// transmit hands the frame in s.header and s.pieces to the card.
func (s *sendQueue) transmit(l *link, q int) vnet.Status {
	status := l.nic.Send(q, &s.header, s.pieces)
	if status == vnet.Sent {
		l.net.count.recvFrames.Add(1)
		l.net.count.recvBytes.Add(uint64(queue.Len(s.pieces)))
		if l.capture != nil {
			l.capture.frame(time.Now(), s.pieces)
		}
	}
	clear(s.pieces) // what a guest was sent must not live on here
	return status
}

// offloads says what the guest's kernel may leave undone, or do, on this packet.
func offloads(pkt *stack.PacketBuffer) (h vnet.Header) {
	gso := &pkt.GSOOptions
	headers := uint16(ethernetHeader) + gso.L3HdrLen
	if gso.NeedsCsum {
		h.Flags, h.CsumStart, h.CsumOffset = vnet.NeedsCsum, headers, gso.CsumOffset
	}
	if gso.Type == stack.GSONone || gso.Type == stack.GSOGvisor || pkt.Data().Size() <= int(gso.MSS) {
		return h
	}
	h.GSOType = vnet.GSOTCP4
	if gso.Type == stack.GSOTCPv6 {
		h.GSOType = vnet.GSOTCP6
	}
	h.GSOSize, h.HdrLen = gso.MSS, headers+uint16(len(pkt.TransportHeader().Slice()))
	return h
}

// Ready implements [vnet.Host]: the guest has room again. What waits for a pair that its
// driver does not listen on any more goes elsewhere.
func (l *link) Ready(q int) {
	l.release(q)
	for i := max(l.nic.Pairs(), 1); i < len(l.queues); i++ {
		l.release(i)
	}
}

// release gives the room in a ring to one flow after the other, until there is none left.
func (l *link) release(q int) {
	s := &l.queues[q]
	s.drain(l, q)
	for f := s.next(); f != nil; f = s.next() {
		if on, blocked := f.resume(); blocked && on == q {
			return
		}
	}
}

// drain sends what waits, as far as there is room.
func (s *sendQueue) drain(l *link, q int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for n < len(s.backlog) {
		pkt := s.backlog[n]
		status := s.send(l, q, pkt)
		if status == vnet.Full {
			break
		}
		if status == vnet.Down {
			l.net.count.lost.Add(1)
		}
		s.waiting -= pkt.Size() + packetOverhead
		pkt.DecRef()
		s.backlog[n] = nil
		n++
	}
	if n > 0 {
		s.backlog = s.backlog[:copy(s.backlog, s.backlog[n:])]
		l.nic.Flush(q)
	}
}

// block has a connection be told of room. Those that ended meanwhile go when there are
// more than there can be. Preconditions: mu.
func (s *sendQueue) block(f *tcpFlow) {
	if len(s.blocked) >= 2*(maxTCP+maxOpening) {
		s.blocked = slices.DeleteFunc(s.blocked, func(f *tcpFlow) bool { return f.over.Load() })
	}
	s.blocked = append(s.blocked, f)
}

// next takes the connection that waits for longest, if it is its turn.
func (s *sendQueue) next() (f *tcpFlow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.backlog) == 0 && len(s.blocked) > 0 {
		f, s.blocked[0] = s.blocked[0], nil
		s.blocked = s.blocked[1:]
	}
	return f
}

// Await implements [vnet.Waiter].
func (l *link) Await(q int, bell *virtio.Doorbell, block bool) bool {
	if q == 0 {
		return l.net.sockets.wait(bell, block, l.pay)
	}
	l.net.tcp.acknowledge(q, true)
	return !block || bell.Wait()
}

// close drops what waits. The card must be at rest.
func (l *link) close() error {
	for i := range l.queues {
		s := &l.queues[i]
		s.mu.Lock()
		for _, pkt := range s.backlog {
			pkt.DecRef()
		}
		s.backlog, s.waiting, s.blocked = nil, 0, nil
		s.mu.Unlock()
	}
	if l.capture != nil {
		return l.capture.close()
	}
	return nil
}

// mss is the most that a segment between the guest and an address holds (RFC 9293 §3.7.1).
func (l *link) mss(a netip.Addr) int { return int(l.mtu) - ipHeaderLen(a) - header.TCPMinimumSize }

// MTU implements [stack.LinkEndpoint].
func (l *link) MTU() uint32 { return l.mtu }

// SetMTU implements [stack.LinkEndpoint]. The guest was told already.
func (l *link) SetMTU(uint32) {}

// MaxHeaderLength implements [stack.LinkEndpoint].
func (l *link) MaxHeaderLength() uint16 { return ethernetHeader }

// LinkAddress implements [stack.LinkEndpoint].
func (l *link) LinkAddress() tcpip.LinkAddress { return gatewayLink }

// SetLinkAddress implements [stack.LinkEndpoint].
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements [stack.LinkEndpoint]. Frames come out of the guest's
// memory, where no wire can have damaged them. Neighbours need no resolving:
// there is one. Checksums towards the guest are left undone per segment, with its
// GSO options, because those of other packets are not.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// pay is tcpTable.acknowledge for the first queue pair, and for those that the driver does
// not listen on any more.
func (l *link) pay(all bool) bool {
	if len(l.queues) > 1 {
		for q := max(l.nic.Pairs(), 1); q < len(l.queues); q++ {
			l.net.tcp.acknowledge(q, true)
		}
	}
	return l.net.tcp.acknowledge(0, all)
}

// GSOMaxSize implements [stack.GSOEndpoint].
func (l *link) GSOMaxSize() uint32 { return gsoMax }

// SupportedGSO implements [stack.GSOEndpoint]. A driver that does not take large
// segments gets plain ones, with their checksums.
func (l *link) SupportedGSO() stack.SupportedGSO {
	if !l.takesSegments() {
		return stack.GSONotSupported
	}
	return stack.HostGSOSupported
}

// Attach implements [stack.LinkEndpoint].
func (l *link) Attach(d stack.NetworkDispatcher) { l.dispatcher = d }

// IsAttached implements [stack.LinkEndpoint].
func (l *link) IsAttached() bool { return l.dispatcher != nil }

// Wait implements [stack.LinkEndpoint].
func (l *link) Wait() {}

// Close implements [stack.LinkEndpoint].
func (l *link) Close() {}

// SetOnCloseAction implements [stack.LinkEndpoint].
func (l *link) SetOnCloseAction(func()) {}

// ARPHardwareType implements [stack.LinkEndpoint].
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements [stack.LinkEndpoint].
func (l *link) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(ethernetHeader)).Encode(&header.EthernetFields{
		SrcAddr: gatewayLink, DstAddr: guestMAC, Type: pkt.NetworkProtocolNumber,
	})
}

// ParseHeader implements [stack.LinkEndpoint].
func (l *link) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(ethernetHeader)
	return ok
}
