package netstack

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"golang.org/x/sys/unix"
)

// tcpState is how far a connection is. Beyond tcpOpen only directions end, each on its own.
type tcpState uint8

const (
	tcpJudged     tcpState = iota // the policy is asked
	tcpConnecting                 // the host connects
	tcpAnswered                   // the guest's SYN was answered
	tcpCalling                    // a SYN was sent to the guest
	tcpOpen
	tcpOver
)

// tcpFlow joins a connection of the guest to one of the host, with back-pressure,
// half-close and resets either way. RFC 9293 §3.3.1 names the variables.
type tcpFlow struct {
	table   *tcpTable
	key     flowKey // src is the guest's end, dst the other as the guest knows it
	inbound bool    // by a forwarded port

	// mu comes before the locks of sockets, tcpTimers, ackList, tcpTable and sendQueue.
	mu    sync.Mutex
	state tcpState
	fd    int // of the host; -1 for none

	asking bool  // dial is under way on a goroutine of its own
	broken error // what the socket cannot do any more; the guest gets what there is, and then sees the end
	gone   bool  // the guest has reset what it had ended; the host gets what there is

	// To the guest.
	una       uint32 // SND.UNA: the oldest that is not acknowledged
	nxt       uint32 // SND.NXT: where the next segment begins; before top while something is repeated
	top       uint32 // after all that was ever sent
	recover   uint32 // RFC 6582: what the guest says has nothing repeated before this is acknowledged
	window    uint32 // SND.WND: what the guest takes from una on
	wl1       uint32 // SND.WL1 and WL2: the segment that said so
	wl2       uint32
	mss       int
	shift     uint8 // of the guest's windows
	dup       int   // acknowledgements of the same in a row
	out       ring  // from una on
	more      bool  // the socket may have something to read
	dry       bool  // a read that finds less than it could take does not say that there is no more
	hung      bool  // the far end has ended, behind what there is to read
	ended     bool  // the host has sent its last: a FIN follows what is in out
	acked     bool  // and the guest has that
	blocked   bool  // there was no room in the guest's ring: in sendQueue.blocked
	blockedOn int   // of which queue pair

	over atomic.Bool // the state is tcpOver; for sendQueue

	// From the guest.
	rcv    uint32 // RCV.NXT
	edge   uint32 // after all that the guest may send
	scaled uint8  // of our windows
	in     ring   // what the socket has yet to take
	tight  bool   // there was no memory for more
	fin    bool   // the guest has sent its last
	shut   bool   // and the host was told
	owes   owed
	listed bool // in an ackList

	sniff   *egress.Sniffer // judges the guest's first bytes before they go on; nil for none
	release func()          // ends the hold of the destination's name; nil for none
	flow    Flow            // to be reported
	counted bool            // as one that is open

	tcpDeadlines
}

func newTCPFlow(t *tcpTable, key flowKey) *tcpFlow {
	f := &tcpFlow{table: t, key: key, fd: -1}
	f.flow = Flow{Time: time.Now(), Protocol: egress.TCP, Src: key.src, Dst: key.dst}
	f.entry.index = -1
	f.count()
	return f
}

// count begins to count what goes to the guest.
func (f *tcpFlow) count() {
	f.una = f.table.first(f.key)
	f.nxt, f.top, f.recover = f.una, f.una, f.una
}

// opening is where the connection counts until it is open.
func (f *tcpFlow) opening() *atomic.Int64 {
	if f.inbound {
		return &f.table.calling
	}
	return &f.table.opening
}

// greeted takes the SYN of the guest. Preconditions: mu.
func (f *tcpFlow) greeted(s *segment) {
	f.rcv = s.seq + 1
	f.edge = f.rcv
	f.wl1, f.wl2 = s.seq, s.ack
	f.window = uint32(s.window) // never scaled in a SYN
	f.mss = min(int(s.mss), f.table.net.link.mss(f.key.src.Addr()))
	if s.shift != noScale {
		f.shift, f.scaled = uint8(s.shift), windowShift
	}
}

// dial judges a connection of the guest's and connects. The guest hears only when the
// host has, so that it sees a refusal as one. It waits for who is asked.
func (f *tcpFlow) dial() {
	v := f.table.net.cfg.Policy.Check(f.table.net.ctx, egress.Flow{Protocol: egress.TCP, Dst: f.key.dst})
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := f.asking
	f.asking = false
	if f.state != tcpJudged {
		if asked {
			f.table.opening.Add(-1)
		}
		return
	}
	if f.flow.Verdict = v; !v.Allow {
		f.end(errDenied)
		return
	}
	f.release = f.table.net.cfg.Policy.Hold(f.key.dst.Addr()) // the name stays that of the address while somebody uses it
	if v.NeedsName {
		f.sniff = f.table.net.cfg.Policy.Sniffer(egress.Flow{Protocol: egress.TCP, Dst: f.key.dst}, v)
	}
	f.state = tcpConnecting
	f.expect(openTime)
	if err := f.connect(); err != nil {
		f.end(err)
	}
}

// opened is the end of the handshake. Preconditions: mu.
func (f *tcpFlow) opened() {
	f.state, f.counted = tcpOpen, true
	f.opening().Add(-1)
	c := &f.table.net.count
	c.tcpActive.Add(1)
	c.tcpTotal.Add(1)
	f.expect(0)
}

// notAsked is fail for a connection whose dial does not run.
func (f *tcpFlow) notAsked(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asking = false
	f.end(err)
}

// fail is end for who does not hold mu.
func (f *tcpFlow) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end(err)
}

// end forgets a connection and tells of it, once. With an error either side sees a reset,
// but for a guest that has sent one itself, and a host that was told of the guest's end: it
// gets what its socket has taken. Preconditions: mu.
func (f *tcpFlow) end(err error) {
	if f.state == tcpOver {
		return
	}
	t := f.table
	if err != nil && err != errReset {
		f.reset()
	}
	if f.state < tcpOpen && !f.asking {
		f.opening().Add(-1)
	}
	f.state = tcpOver
	f.over.Store(true)
	f.out.clear(&t.memory)
	f.in.clear(&t.memory)
	f.sniff = nil
	t.timers.remove(f)
	t.forget(f)
	if f.release != nil {
		f.release()
	}
	f.tell(err)
	if f.fd >= 0 {
		if err != nil && !f.shut {
			_ = unix.SetsockoptLinger(f.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
		t.net.sockets.remove(f.fd)
		f.fd = -1
	}
}

// tell counts and reports how a connection ended.
func (f *tcpFlow) tell(err error) {
	c := &f.table.net.count
	if f.counted {
		c.tcpActive.Add(-1)
	}
	switch {
	case err == nil, errors.Is(err, errClosed):
	case errors.Is(err, errDenied):
		c.denied.Add(1)
	default:
		c.tcpErrors.Add(1)
	}
	if err != nil {
		f.flow.Err = err.Error()
	}
	f.table.net.report(&f.flow)
}

// finish ends a connection of which either side has all. There is no TIME-WAIT: a guest that
// asks again after the last acknowledgement gets a reset, which is as good. Preconditions: mu.
func (f *tcpFlow) finish() {
	switch {
	case f.state != tcpOpen:
	case f.broken != nil && !f.more && f.out.n == 0:
		f.end(f.broken)
	case f.gone && f.shut:
		f.end(errReset)
	}
	if f.state == tcpOpen && f.shut && f.acked {
		if f.owes != owedNothing {
			s := f.header(0, f.top)
			f.say(&s)
		}
		f.end(nil)
	}
}
