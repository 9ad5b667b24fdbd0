package netstack

import (
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	// While a flow is judged, udpOpening of its datagrams wait, as many as a guest sends
	// in one frame, and flowWaiting bytes; of all flows together waitingBytes.
	udpOpening   = 128
	flowWaiting  = 256 << 10
	waitingBytes = 16 << 20

	// refusalTime is how long a flow that may not be is remembered, so that each of its
	// datagrams does not ask again.
	refusalTime = 5 * time.Second
)

// udpFlow is what goes between two ends.
type udpFlow struct {
	table    *udpTable
	key      flowKey
	used     atomic.Int64 // when the last datagram went, either way: Unix ns
	refused  atomic.Int64 // when it may be tried again: Unix ns; 0 for a flow that may be
	sent     atomic.Uint64
	received atomic.Uint64

	// mu comes before sockets.mu and the stack's locks, and is not held together
	// with udpTable.mu.
	mu      sync.Mutex
	fd      int      // a connected socket that never blocks; -1 before it is open, and after
	each    int      // bytes of a datagram that the socket makes of what is written; 0 for all
	single  bool     // it cannot make many
	dead    bool     // ended or refused, maybe before it was open
	waiting [][]byte // datagrams that came before it was open
	held    int64    // bytes of them
	begun   *Flow    // what is to be reported at the end; nil before it is open, and after
	release func()   // ends the hold of the destination's name
}

// open judges a flow and makes it ready.
func (f *udpFlow) open() {
	t := f.table
	defer t.opened()
	flow := &Flow{Time: time.Now(), Protocol: egress.UDP, Src: f.key.src, Dst: f.key.dst}
	if err := f.connect(flow); err != nil {
		flow.Err = err.Error()
		f.refuse(err)
		t.net.report(flow)
	}
}

func (f *udpFlow) connect(flow *Flow) error {
	t := f.table
	flow.Verdict = t.net.cfg.Policy.Check(t.net.ctx, egress.Flow{Protocol: egress.UDP, Dst: f.key.dst})
	if !flow.Verdict.Allow {
		t.net.count.denied.Add(1)
		return errDenied
	}
	// The destination's name stays that of the address while somebody uses it.
	release := t.net.cfg.Policy.Hold(f.key.dst.Addr())
	fd, err := connectUDP(hostSide(f.key.dst))
	if err != nil {
		release()
		return err
	}
	t.net.count.udpActive.Add(1)
	t.net.count.udpTotal.Add(1)
	if err := f.begin(fd, flow, release); err != nil {
		f.end(err.Error())
	} else if f.over() { // ended before it began
		f.end("")
	}
	return nil
}

// begin makes a flow ready and sends what waited.
func (f *udpFlow) begin(fd int, flow *Flow, release func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fd, f.begun, f.release = fd, flow, release
	if f.dead {
		return nil
	}
	for _, p := range f.waiting {
		f.write([][]byte{p}, len(p))
	}
	f.forget()
	err := f.table.net.sockets.add(fd, f, readable)
	if err != nil {
		f.fd = -1
	}
	return err
}

func (f *udpFlow) over() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// connectUDP opens a socket that writes to an address and hears from it alone.
func connectUDP(to netip.AddrPort) (int, error) {
	family, addr := sockaddr(to)
	fd, err := newSocket(family, unix.SOCK_DGRAM)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if to.Addr().Is4() { // a rule may allow the broadcast address of a network, to wake a machine, say
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
	}
	if err := unix.Connect(fd, addr); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// refuse notes that a flow may not be, and tells the guest why.
func (f *udpFlow) refuse(err error) {
	f.refused.Store(time.Now().Add(refusalTime).UnixNano())
	f.mu.Lock()
	f.dead = true
	f.forget()
	f.mu.Unlock()
	f.table.net.unreachable(f.key, err)
}

// end closes a flow and tells of it, once. Why it was cut is empty for an orderly end.
func (f *udpFlow) end(why string) {
	t := f.table
	t.forget(f)
	f.mu.Lock()
	f.dead = true
	f.forget()
	flow, release := f.begun, f.release
	f.begun, f.release = nil, nil
	if f.fd >= 0 {
		t.net.sockets.remove(f.fd)
		f.fd = -1
	}
	f.mu.Unlock()
	if flow == nil {
		return
	}
	release()
	t.net.count.udpActive.Add(-1)
	flow.Sent, flow.Received, flow.Err = f.sent.Load(), f.received.Load(), why
	t.net.report(flow)
}

// send passes a datagram on to the host. A socket that takes none just now loses it,
// as networks do: the caller is the network card's goroutine, which waits for nobody.
func (f *udpFlow) send(v [][]byte) {
	n := queue.Len(v)
	f.used.Store(time.Now().UnixNano())
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.fd >= 0:
		f.write(v, n)
	case !f.dead:
		f.wait(v, n)
	}
}

// sendMany is send for datagrams of so many bytes each, in one call.
func (f *udpFlow) sendMany(v [][]byte, n, each int) bool {
	f.used.Store(time.Now().UnixNano())
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 || f.single || !f.segment(each) {
		return false
	}
	err := writeDatagram(f.fd, v)
	if isRefused(err) && err != unix.EMSGSIZE {
		f.table.net.unreachable(f.key, err)
		err = writeDatagram(f.fd, v)
	}
	switch err {
	case nil:
		f.sent.Add(uint64(n))
	case unix.EAGAIN:
	default: // the way there is too narrow, or cannot do it
		f.single = true
		f.segment(0)
		return false
	}
	return true
}

// segment has the socket divide what is written into datagrams of so many bytes, or not at
// all for 0. Preconditions: mu.
func (f *udpFlow) segment(each int) bool {
	if f.each != each {
		if segmentBy(f.fd, each) != nil {
			f.single = true
			return false
		}
		f.each = each
	}
	return true
}

// write sends a datagram, and tells the guest what became of one before, which the
// socket tells of first. Preconditions: mu, and there is a socket.
func (f *udpFlow) write(v [][]byte, n int) {
	if f.each > 0 && n > f.each && !f.segment(0) {
		return
	}
	err := writeDatagram(f.fd, v)
	if isRefused(err) {
		f.table.net.unreachable(f.key, err)
		err = writeDatagram(f.fd, v)
	}
	if err != nil && err != unix.EAGAIN && f.each > 0 && f.segment(0) { // the way has become too narrow for what was divided
		err = writeDatagram(f.fd, v)
	}
	if err == nil {
		f.sent.Add(uint64(n))
	}
}

func writeDatagram(fd int, v [][]byte) error {
	_, err := writePieces(fd, v)
	return err
}

// wait keeps a datagram until the flow is judged, if there is room. Preconditions: mu.
func (f *udpFlow) wait(v [][]byte, n int) {
	size, t := int64(n), f.table
	if len(f.waiting) == udpOpening || f.held+size > flowWaiting {
		return
	}
	if t.waiting.Add(size) > waitingBytes {
		t.waiting.Add(-size)
		return
	}
	f.held += size
	f.waiting = append(f.waiting, gathered(v))
}

// forget drops what waits. Preconditions: mu.
func (f *udpFlow) forget() {
	f.table.waiting.Add(-f.held)
	f.waiting, f.held = nil, 0
}

// serve implements [socketOwner]: it carries to the guest what there is, a burst of it at
// most. It returns how many datagrams, and whether there was no more.
func (f *udpFlow) serve(uint32) (count int, drained bool) {
	l := f.table.net.link
	j := joining{f: f, buf: joinBuffers.Get().(*[joinedMost + maxDatagram]byte), most: -1, queue: -1}
	if l.joins() {
		j.most = int(l.mtu) - header.IPv6MinimumSize - header.UDPMinimumSize
	}
	defer func() {
		j.send()
		joinBuffers.Put(j.buf)
		if j.queue >= 0 {
			f.used.Store(time.Now().UnixNano())
			l.nic.Flush(j.queue)
		}
	}()
	for ; count < burst; count++ {
		n, err := f.read(j.next())
		switch {
		case err == nil:
			f.received.Add(uint64(n))
			j.add(n)
		case err == unix.EAGAIN, err == unix.EBADF: // it was ended
			return count, true
		case isRefused(err): // the far end said so by ICMP
			f.table.net.unreachable(f.key, err)
		case err == unix.EINTR:
		default:
			f.end(err.Error())
			return count, true
		}
	}
	return count, false
}

// read takes one datagram off the socket, if there is one.
func (f *udpFlow) read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return 0, unix.EBADF
	}
	return unix.Read(f.fd, p)
}
