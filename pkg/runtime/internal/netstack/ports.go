package netstack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"golang.org/x/sys/unix"
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
	net  *Network
	conn *net.UDPConn // nil for TCP

	mu      sync.Mutex
	fd      int  // of the listening socket; -1 for none
	waiting bool // for descriptors
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
	o := &openPort{Port: p, net: t.net, fd: -1}
	if p.Guest == 0 {
		return p, errors.New("netstack: port 0 of the guest")
	}
	var err error
	switch p.Protocol {
	case egress.TCP:
		err = o.listen()
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
		err = fmt.Errorf("netstack: more than %d ports, or the box ended", maxPorts)
	} else if o.conn != nil {
		if !t.net.spawn(func() { t.receiveUDP(o) }) {
			err = errClosed
		}
	} else {
		err = o.watch()
	}
	if err != nil {
		o.close()
		return p, err
	}
	t.open = append(t.open, o)
	return o.Port, nil
}

// watch has serve called when somebody connects.
func (o *openPort) watch() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	err := o.net.sockets.add(o.fd, o, readable)
	if err != nil {
		o.fd = -1
	}
	return err
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
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fd >= 0 {
		o.net.sockets.remove(o.fd)
		o.fd = -1
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

// listen opens the socket of a TCP port.
func (o *openPort) listen() error {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(o.Host))
	if err != nil {
		return err
	}
	defer l.Close() // what is kept is another descriptor of the socket
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { o.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(cerr, os.NewSyscallError("dup", err)); err != nil {
		return err
	}
	o.Host = netip.AddrPortFrom(o.Host.Addr(), uint16(l.Addr().(*net.TCPAddr).Port))
	return nil
}

// serve implements [socketOwner]: it joins each connection to a TCP port of the host to
// one of the guest.
func (o *openPort) serve(uint32) (count int, done bool) {
	for ; count < burst; count++ {
		fd, from, err := o.accept()
		switch err {
		case nil:
			o.net.tcp.call(o.Guest, fd, addrPort(from))
		case unix.EINTR, unix.ECONNABORTED:
		case unix.EAGAIN, unix.EBADF: // it was closed
			return count, true
		default: // out of descriptors: those in use have to go first
			o.later()
			return count, true
		}
	}
	return count, false
}

func (o *openPort) accept() (int, unix.Sockaddr, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fd < 0 {
		return -1, nil, unix.EBADF
	}
	return acceptSocket(o.fd)
}

// later tries again in a moment.
func (o *openPort) later() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting {
		return
	}
	o.waiting = true
	time.AfterFunc(100*time.Millisecond, func() {
		o.net.spawn(func() {
			o.mu.Lock()
			o.waiting = false
			o.mu.Unlock()
			for done := false; !done; {
				_, done = o.serve(readable)
			}
		})
	})
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
