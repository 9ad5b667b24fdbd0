package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// maxOpening bounds connections on their way to being open, each of which is
	// a goroutine; further ones are asked for again by the guest's kernel.
	maxOpening = 1024
	// maxTCP bounds open connections; further ones are reset.
	maxTCP = 16384
	// dialTimeout is how long the host may try to connect.
	dialTimeout = 30 * time.Second

	// A connection's buffers in the stack, one each way, are large while there are
	// few, so that one is fast, and small when there are many: each way all of them
	// have bufferTotal, and minBuffer each on top of that.
	maxBuffer   = 4 << 20
	minBuffer   = 16 << 10
	bufferTotal = 64 << 20
	// openBuffer is the receive buffer that a connection starts with. The stack offers
	// half of it as a window, and Linux sends no segment larger than half a window: with
	// less than 256 KiB the guest would send segments of less than 64 KiB.
	openBuffer = 1 << 20
	// firstWindow is what a SYN is answered with, before it is known how many there
	// will be: what was offered cannot be taken back.
	firstWindow = 64 << 10

	timeWait = 5 * time.Second // the guest is one hop away, and orderly

	// A guest is asked whether it still knows a connection on which nothing has come
	// for so long, and so often before it counts as gone. A network inside the guest
	// can lose its reset, and the host's end would stay open for ever.
	keepIdle   = 2 * time.Minute
	keepProbes = 4
)

// tcpForwarder turns the guest's connections into the host's.
type tcpForwarder struct {
	net     *Network
	forward *tcp.Forwarder
	dialer  net.Dialer
	open    atomic.Int64
	buffers atomic.Int64                        // of bufferTotal, in use
	where   func(netip.AddrPort) netip.AddrPort // hostSide, but for tests
	idle    time.Duration                       // keepIdle, but for tests
	orphan  time.Duration                       // orphanTime, but for tests

	mu     sync.Mutex
	relays map[*relay]struct{}
}

func newTCPForwarder(n *Network) *tcpForwarder {
	f := &tcpForwarder{net: n, relays: make(map[*relay]struct{}), dialer: net.Dialer{Timeout: dialTimeout}, where: hostSide, idle: keepIdle, orphan: orphanTime}
	f.forward = tcp.NewForwarder(n.stack, firstWindow, n.limit.opening, func(r *tcp.ForwarderRequest) {
		if !n.spawn(func() { f.accept(r) }) {
			r.Complete(true)
		}
	})
	return f
}

// tune sets the stack's options.
func (f *tcpForwarder) tune() error {
	s := f.net.stack
	sack, moderate := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true)
	rcv := tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: openBuffer, Max: maxBuffer}
	snd := tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: openBuffer, Max: maxBuffer}
	wait, linger := tcpip.TCPTimeWaitTimeoutOption(timeWait), tcpip.TCPLingerTimeoutOption(30*time.Second)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &rcv, &snd, &wait, &linger} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("netstack: TCP option %T: %v", o, err)
		}
	}
	return nil
}

func (f *tcpForwarder) handle(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	return f.forward.HandlePacket(id, pkt)
}

// accept answers one connection attempt of the guest. The host connects first, so
// that the guest sees a refusal as one.
func (f *tcpForwarder) accept(r *tcp.ForwarderRequest) {
	id := r.ID()
	src := netip.AddrPortFrom(fromTCPIP(id.RemoteAddress), id.RemotePort)
	dst := netip.AddrPortFrom(fromTCPIP(id.LocalAddress), id.LocalPort)
	if dst.Addr() == Gateway4 || dst.Addr() == Gateway6 {
		f.acceptOwn(r, dst)
		return
	}
	flow := Flow{Time: time.Now(), Protocol: egress.TCP, Src: src, Dst: dst}
	fail := func(err error) {
		r.Complete(true)
		flow.Err = err.Error()
		f.net.report(&flow)
	}
	if f.open.Add(1) > f.net.limit.tcp {
		f.open.Add(-1)
		f.net.count.tcpErrors.Add(1)
		fail(errors.New("too many connections"))
		return
	}
	defer f.open.Add(-1)
	flow.Verdict = f.net.cfg.Policy.Check(f.net.ctx, egress.Flow{Protocol: egress.TCP, Dst: dst})
	if !flow.Verdict.Allow {
		f.net.count.denied.Add(1)
		fail(errDenied)
		return
	}
	defer f.net.cfg.Policy.Hold(dst.Addr())() // the name stays that of the address while somebody uses it
	conn, err := f.dial(f.net.ctx, dst)
	if err != nil {
		f.net.count.tcpErrors.Add(1)
		fail(err)
		return
	}
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	if terr != nil {
		conn.Close()
		f.net.count.tcpErrors.Add(1)
		fail(fmt.Errorf("handshake: %v", terr))
		return
	}
	r.Complete(false)
	rel := newRelay(f.net, ep, &wq, conn)
	rel.buffer = f.prepare(ep)
	if flow.Verdict.NeedsName {
		rel.sniff = f.net.cfg.Policy.Sniffer(egress.Flow{Protocol: egress.TCP, Dst: dst}, flow.Verdict)
	}
	f.run(rel, &flow)
}

var errDenied = errors.New("denied by the policy")

// dial connects to where an address of the guest's leads.
func (f *tcpForwarder) dial(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error) {
	// Not Dialer.DialTCP, which binds the socket even so, to a port that nothing else can have then.
	conn, err := f.dialer.DialContext(ctx, "tcp", f.where(dst).String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// prepare sets up an endpoint. The result is what it has of bufferTotal, which the
// caller gives back to buffers in the end.
func (f *tcpForwarder) prepare(ep tcpip.Endpoint) (size int64) {
	o := ep.SocketOptions()
	o.SetDelayOption(false) // what the other side sent at once goes on at once
	idle, interval := tcpip.KeepaliveIdleOption(f.idle), tcpip.KeepaliveIntervalOption(f.idle/4)
	// None of these can fail with a positive time and number.
	_ = ep.SetSockOpt(&idle)
	_ = ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepProbes)
	o.SetKeepAlive(true)
	for {
		used := f.buffers.Load()
		if size = (bufferTotal - used) / 16; used <= bufferTotal/2 {
			size = maxBuffer // at most: the stack finds out how much is of use
		}
		if size = max(size, 0); f.buffers.CompareAndSwap(used, used+size) {
			break
		}
	}
	// A forwarded connection has the buffer of its handshake, and nothing makes it grow.
	o.SetReceiveBufferSize(min(max(size, minBuffer), openBuffer), true)
	if size < maxBuffer {
		o.SetSendBufferSize(max(size, minBuffer), true) // which ends its growth
	}
	return size
}

// run relays until both sides are done, reports the flow, and returns when the stack
// holds nothing more of it.
func (f *tcpForwarder) run(r *relay, flow *Flow) {
	defer f.buffers.Add(-r.buffer)
	defer r.free()
	f.mu.Lock()
	if f.relays == nil { // closed
		f.mu.Unlock()
		r.cut(errClosed)
		r.host.Close()
		return
	}
	f.relays[r] = struct{}{}
	f.mu.Unlock()
	c := &f.net.count
	c.tcpActive.Add(1)
	c.tcpTotal.Add(1)
	err := r.run()
	c.tcpActive.Add(-1)
	f.mu.Lock()
	delete(f.relays, r)
	f.mu.Unlock()
	flow.Sent, flow.Received = r.sent.Load(), r.received.Load()
	if err != nil {
		flow.Err = err.Error()
		if errors.Is(err, errDenied) {
			c.denied.Add(1)
			flow.Verdict = r.refusal
		} else if !errors.Is(err, errClosed) {
			c.tcpErrors.Add(1)
		}
	}
	f.net.report(flow)
}

var errClosed = errors.New("the box ended")

// acceptOwn serves what the gateway itself offers: its name server.
func (f *tcpForwarder) acceptOwn(r *tcp.ForwarderRequest, dst netip.AddrPort) {
	if dst.Port() != dnsPort || f.net.cfg.DNS == nil || !f.net.dnsBegin() {
		r.Complete(true)
		return
	}
	defer f.net.dnsEnd()
	var wq waiter.Queue
	ep, err := r.CreateEndpoint(&wq)
	if err != nil {
		r.Complete(true)
		return
	}
	r.Complete(false)
	ep.SocketOptions().SetSendBufferSize(dnsBuffer, true)
	f.net.serveStream(&wq, ep)
}

// connect opens a connection to a port of the guest, from the gateway.
func (f *tcpForwarder) connect(ctx context.Context, dst netip.AddrPort) (tcpip.Endpoint, *waiter.Queue, error) {
	wq := new(waiter.Queue)
	ep, terr := f.net.stack.NewEndpoint(tcp.ProtocolNumber, networkOf(dst.Addr()), wq)
	if terr != nil {
		return nil, nil, errors.New(terr.String())
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	local := tcpip.FullAddress{NIC: nicID, Addr: gateway4}
	if dst.Addr().Is6() {
		local.Addr = gateway6
	}
	if terr = ep.Bind(local); terr == nil {
		terr = ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: toTCPIP(dst.Addr()), Port: dst.Port()})
	}
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ready:
			terr = ep.LastError()
		case <-ctx.Done():
			ep.Abort()
			return nil, nil, ctx.Err()
		}
	}
	if terr != nil {
		ep.Close()
		return nil, nil, errors.New(terr.String())
	}
	return ep, wq, nil
}

// close cuts all connections. Those on their way end with the network's context.
func (f *tcpForwarder) close() {
	f.mu.Lock()
	relays := f.relays
	f.relays = nil
	f.mu.Unlock()
	for r := range relays {
		r.cut(errClosed)
	}
}
