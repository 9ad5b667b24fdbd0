package netstack

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	maxPings = 128              // runs of echo requests at a time
	pingIdle = 10 * time.Second // after which one is over
)

// pingKey names a run of echo requests: what one ping(8) sends.
type pingKey struct {
	dst   netip.Addr
	ident uint16
}

// pinger sends the guest's echo requests from the host's own ping sockets, which
// need no privilege where net.ipv4.ping_group_range allows them, and on macOS.
// Elsewhere there is no answer, as if they were filtered.
type pinger struct {
	net    *Network
	pieces pieces
	mu     sync.Mutex
	runs   map[pingKey]*pingRun
}

// pingRun is a socket with its requests.
type pingRun struct {
	key      pingKey
	requests chan echo
}

type echo struct {
	seq  uint16
	ttl  int
	data []byte
}

func newPinger(n *Network) *pinger { return &pinger{net: n, runs: make(map[pingKey]*pingRun)} }

// echo takes an ICMP message of the guest: a request goes on, all else is nothing
// that a host would need to hear. It runs on the network card's goroutine.
func (p *pinger) echo(dst netip.Addr, ttl int, m []byte) {
	kind := byte(header.ICMPv4Echo)
	if dst.Is6() {
		kind = byte(header.ICMPv6EchoRequest)
	}
	if len(m) < header.ICMPv4MinimumSize || m[0] != kind || m[1] != 0 {
		return
	}
	h := header.ICMPv4(m)
	key := pingKey{dst, h.Ident()}
	e := echo{seq: h.Sequence(), ttl: ttl, data: append([]byte(nil), m[header.ICMPv4MinimumSize:]...)}
	p.mu.Lock()
	defer p.mu.Unlock()
	run := p.runs[key]
	if run == nil {
		if p.runs == nil || len(p.runs) >= p.net.limit.pings {
			return
		}
		run = &pingRun{key: key, requests: make(chan echo, 8)}
		if !p.net.spawn(func() { p.serve(run) }) {
			return
		}
		p.runs[key] = run
	}
	select {
	case run.requests <- e:
	default: // a flood
	}
}

// serve sends the requests of a run until there are no more.
func (p *pinger) serve(run *pingRun) {
	flow := Flow{Time: time.Now(), Protocol: egress.ICMP, Src: netip.AddrPortFrom(guestOf(run.key.dst), 0), Dst: netip.AddrPortFrom(run.key.dst, 0)}
	flow.Verdict = p.net.cfg.Policy.Check(p.net.ctx, egress.Flow{Protocol: egress.ICMP, Dst: flow.Dst})
	var conn *net.UDPConn
	if flow.Verdict.Allow {
		var err error
		if conn, err = pingSocket(run.key.dst); err != nil {
			flow.Err = err.Error()
		}
	} else {
		p.net.count.denied.Add(1)
		flow.Err = errDenied.Error()
	}
	if conn == nil { // all that there is to say; the run goes on, so that each request does not ask again
		p.net.report(&flow)
	}
	var answers sync.WaitGroup
	if conn != nil {
		answers.Go(func() { flow.Received = p.answers(run, conn) })
	}
	idle := time.NewTimer(pingIdle)
	defer idle.Stop()
	for more := true; more; {
		select {
		case e := <-run.requests:
			idle.Reset(pingIdle)
			if conn != nil {
				flow.Sent += uint64(len(e.data))
				p.request(run, conn, e)
			}
		case <-idle.C:
			more = false
		case <-p.net.ctx.Done():
			more = false
		}
	}
	p.mu.Lock()
	delete(p.runs, run.key)
	p.mu.Unlock()
	if conn != nil {
		conn.Close()
		answers.Wait()
		p.net.report(&flow)
	}
}

// pingSocket opens a socket for echo requests to an address (ping_group_range of
// ip-sysctl, and icmp(4) of macOS).
func pingSocket(dst netip.Addr) (*net.UDPConn, error) {
	family, addr := sockaddr(hostSide(netip.AddrPortFrom(dst, 0)))
	proto := unix.IPPROTO_ICMP
	if dst.Is6() {
		proto = unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, proto)
	if err != nil {
		return nil, os.NewSyscallError("ping socket", err)
	}
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "ping")
	defer f.Close()
	if err := unix.Connect(fd, addr); err != nil {
		return nil, os.NewSyscallError("connect ping socket", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("ping socket", err)
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := conn.(*net.UDPConn)
	if !ok {
		conn.Close()
		return nil, unix.ENOTSUP
	}
	return u, nil
}

// pingWrite is how long a request may wait for room in its socket; then it is lost, as
// on other networks, and the end of the box does not wait for it.
const pingWrite = 100 * time.Millisecond

// request sends one. The host's kernel fills in identifier and checksum.
func (p *pinger) request(run *pingRun, conn *net.UDPConn, e echo) {
	m := make([]byte, header.ICMPv4MinimumSize+len(e.data))
	h := header.ICMPv4(m)
	h.SetType(header.ICMPv4Echo)
	if run.key.dst.Is6() {
		m[0] = byte(header.ICMPv6EchoRequest)
	}
	h.SetIdent(run.key.ident)
	h.SetSequence(e.seq)
	copy(m[header.ICMPv4MinimumSize:], e.data)
	h.SetChecksum(^checksum.Checksum(m, 0)) // macOS wants it done
	conn.SetWriteDeadline(time.Now().Add(pingWrite))
	if _, err := conn.Write(m); isRefused(err) { // which says what became of one before
		_, _ = conn.Write(m)
	}
}

// answers passes replies on to the guest until the socket is closed.
func (p *pinger) answers(run *pingRun, conn *net.UDPConn) (bytes uint64) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	want := byte(header.ICMPv4EchoReply)
	if run.key.dst.Is6() {
		want = byte(header.ICMPv6EchoReply)
	}
	for {
		err := readDatagram(raw, func(m []byte) {
			if !run.key.dst.Is6() && len(m) > header.IPv4MinimumSize && m[0]>>4 == 4 { // macOS leaves the IP header on
				m = m[min(len(m), int(header.IPv4(m).HeaderLength())):]
			}
			if len(m) >= header.ICMPv4MinimumSize && m[0] == want {
				bytes += uint64(len(m) - header.ICMPv4MinimumSize)
				p.reply(run, m)
			}
		})
		if err != nil && !isRefused(err) {
			return bytes
		}
	}
}

// readDatagram waits for a datagram, and gives it to take, which must not keep it. The
// buffer is taken when there is something to read.
func readDatagram(raw syscall.RawConn, take func(p []byte)) error {
	var rerr error
	err := raw.Read(func(fd uintptr) bool {
		buf := joinBuffers.Get().(*[joinedMost + maxDatagram]byte)
		defer joinBuffers.Put(buf)
		var n int
		switch n, rerr = unix.Read(int(fd), buf[:]); rerr {
		case nil:
			take(buf[:n])
		case unix.EAGAIN, unix.EINTR:
			return false
		}
		return true
	})
	if err == nil {
		err = rerr
	}
	return err
}

// reply sends an echo reply to the guest under the identifier that it chose.
func (p *pinger) reply(run *pingRun, m []byte) {
	dst := guestOf(run.key.dst)
	route, err := p.net.stack.FindRoute(nicID, toTCPIP(run.key.dst), toTCPIP(dst), networkOf(dst), false)
	if err != nil {
		return
	}
	defer route.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: int(route.MaxHeaderLength()) + header.ICMPv4MinimumSize, Payload: payload(m[header.ICMPv4MinimumSize:]),
	})
	defer pkt.DecRef()
	h := header.ICMPv4(pkt.TransportHeader().Push(header.ICMPv4MinimumSize))
	copy(h, m[:header.ICMPv4MinimumSize])
	h.SetIdent(run.key.ident)
	h.SetChecksum(0)
	proto := header.ICMPv4ProtocolNumber
	sum := checksum.Checksum(m[header.ICMPv4MinimumSize:], 0)
	if dst.Is6() {
		proto = header.ICMPv6ProtocolNumber
		sum = checksum.Combine(sum, route.PseudoHeaderChecksum(proto, uint16(len(m))))
	}
	pkt.TransportProtocolNumber = proto
	h.SetChecksum(^checksum.Checksum(h, sum))
	_ = route.WritePacket(stack.NetworkHeaderParams{Protocol: proto, TTL: 64}, pkt)
}

func guestOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return Guest4
	}
	return Guest6
}

// close forgets all runs; their goroutines end with the network's context.
func (p *pinger) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runs = nil
}
