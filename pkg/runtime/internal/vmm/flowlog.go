package vmm

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack"
	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

// FlowEntry is one line of a box's network.log, in JSON: a connection, a flow of
// datagrams or a run of echo requests, with the verdict of the policy; or a name that
// the guest was not to resolve, or that somebody was asked about.
type FlowEntry struct {
	Time     time.Time      // when it began
	Seconds  float64        // how long it lasted
	Protocol string         // tcp, udp, icmp, or dns for a name
	Inbound  bool           `json:",omitempty"` // by a forwarded port
	From     netip.AddrPort `json:",omitzero"`
	To       netip.AddrPort `json:",omitzero"`
	Name     string         `json:",omitempty"` // of To, as the guest looked it up
	Action   string         // allow or deny
	Rule     string         `json:",omitempty"` // that decided
	Reason   string         `json:",omitempty"`
	Sent     uint64         // bytes of content from the guest
	Received uint64
	Error    string `json:",omitempty"` // how it failed, or was cut
	Lost     uint64 `json:",omitempty"` // entries before this one that there was no time for
}

const (
	flowLimit   = 4 << 20 // bytes of a file; there is one before it, with ".1"
	flowPending = 1024    // entries that wait to be written
)

// flowLog writes network.log on a goroutine of its own, so that no connection waits
// for the disk, and keeps it bounded, so that the guest cannot fill that.
type flowLog struct {
	path  string
	in    chan FlowEntry
	done  chan struct{}
	mu    sync.Mutex // guards lost and closed
	lost  uint64
	ended bool
}

func openFlowLog(path string) (*flowLog, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("vmm: %w", err)
	}
	l := &flowLog{path: path, in: make(chan FlowEntry, flowPending), done: make(chan struct{})}
	go l.write(f)
	return l, nil
}

// add takes a flow that ended. Any goroutine may call it; it never blocks.
func (l *flowLog) add(f netstack.Flow) {
	e := FlowEntry{
		Time: f.Time, Seconds: f.Took.Seconds(), Protocol: f.Protocol.String(), Inbound: f.Inbound, From: f.Src, To: f.Dst,
		Action: "allow", Sent: f.Sent, Received: f.Received, Error: f.Err,
	}
	if !f.Inbound {
		e.Name, e.Rule, e.Reason = f.Verdict.Name, f.Verdict.Rule, f.Verdict.Reason.String()
		if !f.Verdict.Allow {
			e.Action, e.Error = "deny", ""
		}
	}
	l.put(e)
}

// addLookup takes the policy's decision on a name, as far as the flows do not show
// it. Any goroutine may call it; it never blocks.
func (l *flowLog) addLookup(d egress.Decision) {
	asked := d.Reason == egress.ByAnswer || d.Reason == egress.NoAnswer
	if d.Kind != egress.KindLookup || d.Action == egress.Allow && !asked {
		return
	}
	l.put(FlowEntry{Time: d.Time, Protocol: "dns", Name: d.Name, Action: d.Action.String(), Rule: d.Rule, Reason: d.Reason.String()})
}

func (l *flowLog) put(e FlowEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	e.Lost = l.lost
	select {
	case l.in <- e:
		l.lost = 0
	default:
		l.lost++
	}
}

// write ends when the log is closed. A disk that takes nothing costs entries only.
func (l *flowLog) write(f *os.File) {
	defer close(l.done)
	defer func() { f.Close() }()
	size := int64(0)
	if fi, err := f.Stat(); err == nil {
		size = fi.Size()
	}
	for e := range l.in {
		line, err := json.Marshal(e)
		if err != nil {
			continue
		}
		if size > flowLimit {
			if next, err := l.rotate(); err == nil {
				f.Close()
				f, size = next, 0
			}
		}
		n, _ := f.Write(append(line, '\n'))
		size += int64(n)
	}
}

func (l *flowLog) rotate() (*os.File, error) {
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return nil, err
	}
	return os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

func (l *flowLog) close() error {
	l.mu.Lock()
	if !l.ended {
		l.ended = true
		close(l.in)
	}
	l.mu.Unlock()
	<-l.done
	return nil
}
