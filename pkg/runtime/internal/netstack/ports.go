package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

// Port is a port of the host that leads to one of the guest.
type Port struct {
	Protocol egress.Protocol // TCP or UDP
	Host     netip.AddrPort  // port 0: any that is free
	Guest    uint16
}

func (p Port) String() string { return fmt.Sprintf("%v -> %d/%v", p.Host, p.Guest, p.Protocol) }

// ErrNoPort says that no such port is forwarded.
var ErrNoPort = errors.New("netstack: no such port is forwarded")

const (
	maxPorts = 1024
	// guestDial is how long the guest may take to answer a connection.
	guestDial = 10 * time.Second
	// maxPeers bounds the senders that forwarded UDP ports answer to at a time.
	maxPeers  = 4096
	firstPeer = 1024 // the gateway's ports that stand for them
)

// portTable are the forwarded ports.
type portTable struct {
	net *Network

	mu     sync.Mutex
	closed bool
	open   []*openPort
	peers  map[uint16]*udpPeer  // by the gateway's port
	byAddr map[peerKey]*udpPeer //
	next   uint16               // where the search for a free port goes on
}

// openPort is one of them, with the socket that listens on the host.
type openPort struct {
	Port
	listener *net.TCPListener
	conn     *net.UDPConn
}

type peerKey struct {
	port *openPort
	from netip.AddrPort
}

// udpPeer is who wrote to a forwarded UDP port.
type udpPeer struct {
	key  peerKey
	port uint16
	used atomic.Int64
}

func newPortTable(n *Network) *portTable {
	return &portTable{net: n, peers: make(map[uint16]*udpPeer), byAddr: make(map[peerKey]*udpPeer), next: firstPeer}
}

// AddPort opens a port of the host and returns it as it is, with the number that
// was chosen where none was given.
func (n *Network) AddPort(p Port) (Port, error) { return n.ports.add(p) }

// RemovePort closes one. Connections that came in by it stay.
func (n *Network) RemovePort(p Port) error { return n.ports.remove(p) }

// Ports returns the forwarded ports in the order in which they were added.
func (n *Network) Ports() []Port {
	t := n.ports
	t.mu.Lock()
	defer t.mu.Unlock()
	ports := make([]Port, len(t.open))
	for i, p := range t.open {
		ports[i] = p.Port
	}
	return ports
}

func (t *portTable) add(p Port) (Port, error) {
	o := &openPort{Port: p}
	if p.Guest == 0 {
		return p, errors.New("netstack: port 0 of the guest")
	}
	var err error
	switch p.Protocol {
	case egress.TCP:
		if o.listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(p.Host)); err == nil {
			o.Host = netip.AddrPortFrom(p.Host.Addr(), uint16(o.listener.Addr().(*net.TCPAddr).Port))
		}
	case egress.UDP:
		if o.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(p.Host)); err == nil {
			o.Host = netip.AddrPortFrom(p.Host.Addr(), uint16(o.conn.LocalAddr().(*net.UDPAddr).Port))
		}
	default:
		err = fmt.Errorf("netstack: no ports of %v", p.Protocol)
	}
	if err != nil {
		return p, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || len(t.open) >= maxPorts {
		o.close()
		return p, fmt.Errorf("netstack: more than %d ports, or the box ended", maxPorts)
	}
	serve := t.acceptTCP
	if o.conn != nil {
		serve = t.receiveUDP
	}
	if !t.net.spawn(func() { serve(o) }) {
		o.close()
		return p, errClosed
	}
	t.open = append(t.open, o)
	return o.Port, nil
}

func (t *portTable) remove(p Port) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.open, func(o *openPort) bool { return o.Port == p })
	if i < 0 {
		return ErrNoPort
	}
	t.open[i].close()
	for n, peer := range t.peers {
		if peer.key.port == t.open[i] {
			delete(t.peers, n)
			delete(t.byAddr, peer.key)
		}
	}
	t.open = slices.Delete(t.open, i, i+1)
	return nil
}

func (o *openPort) close() {
	if o.listener != nil {
		o.listener.Close()
	}
	if o.conn != nil {
		o.conn.Close()
	}
}

func (t *portTable) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, o := range t.open {
		o.close()
	}
	t.open = nil
	clear(t.peers)
	clear(t.byAddr)
}

// acceptTCP joins each connection to a port of the host to one of the guest.
func (t *portTable) acceptTCP(o *openPort) {
	for {
		conn, err := o.listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil { // out of descriptors: those in use have to go first
			if !t.net.pause(100 * time.Millisecond) {
				return
			}
			continue
		}
		if !t.net.spawn(func() { t.forward(o, conn) }) {
			conn.Close()
		}
	}
}

// pause waits, and reports false when the network is closed meanwhile.
func (n *Network) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-n.ctx.Done():
		return false
	}
}

func (t *portTable) forward(o *openPort, conn *net.TCPConn) {
	f := t.net.tcp
	flow := Flow{Time: time.Now(), Protocol: egress.TCP, Inbound: true, Dst: netip.AddrPortFrom(Guest4, o.Guest)}
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		flow.Src = a.AddrPort()
	}
	fail := func(err error) {
		conn.SetLinger(0) // a reset says that nobody is there
		conn.Close()
		t.net.count.tcpErrors.Add(1)
		flow.Err = err.Error()
		t.net.report(&flow)
	}
	defer f.open.Add(-1)
	if f.open.Add(1) > f.net.limit.tcp {
		fail(errors.New("too many connections"))
		return
	}
	ctx, cancel := context.WithTimeout(t.net.ctx, guestDial)
	ep, wq, err := f.connect(ctx, flow.Dst)
	cancel()
	if err != nil {
		fail(err)
		return
	}
	rel := newRelay(t.net, ep, wq, conn)
	rel.buffer = f.prepare(ep)
	f.run(rel, &flow)
}

// receiveUDP passes on what comes to a UDP port. Each sender gets a port of the
// gateway, by which the guest can tell them apart and answer.
func (t *portTable) receiveUDP(o *openPort) {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := o.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			if !isRefused(err) && !t.net.pause(100*time.Millisecond) {
				return
			}
			continue
		}
		peer := t.peer(peerKey{o, from})
		if peer == nil {
			continue
		}
		t.net.sendDatagram(netip.AddrPortFrom(Gateway4, peer.port), netip.AddrPortFrom(Guest4, o.Guest), buf[:n])
	}
}

// peer finds or makes the entry of a sender.
func (t *portTable) peer(key peerKey) *udpPeer {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now().UnixNano()
	if p := t.byAddr[key]; p != nil {
		p.used.Store(now)
		return p
	}
	if t.closed {
		return nil
	}
	if len(t.peers) >= maxPeers {
		var oldest *udpPeer
		for _, p := range t.peers {
			if oldest == nil || p.used.Load() < oldest.used.Load() {
				oldest = p
			}
		}
		delete(t.peers, oldest.port)
		delete(t.byAddr, oldest.key)
	}
	for t.peers[t.next] != nil { // there are more ports than peers
		t.advance()
	}
	p := &udpPeer{key: key, port: t.next}
	t.advance()
	p.used.Store(now)
	t.peers[p.port], t.byAddr[key] = p, p
	return p
}

func (t *portTable) advance() {
	if t.next++; t.next < firstPeer {
		t.next = firstPeer
	}
}

// reply takes a datagram of the guest to the gateway, and reports whether it is an
// answer to somebody.
func (t *portTable) reply(src, dst netip.AddrPort, v [][]byte) bool {
	t.mu.Lock()
	p := t.peers[dst.Port()]
	t.mu.Unlock()
	if p == nil || src.Port() != p.key.port.Guest {
		return false
	}
	p.used.Store(time.Now().UnixNano())
	_, _ = p.key.port.conn.WriteToUDPAddrPort(gathered(v), p.key.from) // UDP sockets of the host do not block for long
	return true
}
