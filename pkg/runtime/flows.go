package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// FlowProtocol is what a [Flow] is one of.
type FlowProtocol string

// Protocols of flows.
const (
	ProtocolTCP  FlowProtocol = "tcp"
	ProtocolUDP  FlowProtocol = "udp"
	ProtocolICMP FlowProtocol = "icmp" // echo requests
	ProtocolDNS  FlowProtocol = "dns"  // a name that was looked up
)

// Flow is a connection of a box, a stream of datagrams or a run of echo requests,
// with the verdict on it; or a name that the box was not to look up, or that
// somebody was asked about.
type Flow struct {
	Time     time.Time // when it began
	Seconds  float64   // how long it lasted
	Protocol FlowProtocol
	Inbound  bool           `json:",omitempty"` // by a forwarded port
	From     netip.AddrPort `json:",omitzero"`
	To       netip.AddrPort `json:",omitzero"`
	Name     string         `json:",omitempty"` // of To, as the box looked it up
	Action   string         // allow or deny
	Rule     string         `json:",omitempty"` // that decided
	Reason   string         `json:",omitempty"` // for Action: "rule", "default", "answer", "private network", ...
	Sent     uint64         // bytes of content from the box
	Received uint64         // bytes of content to the box
	Error    string         `json:",omitempty"` // how it failed, or was cut
	Lost     uint64         `json:",omitempty"` // flows before this one that there was no time to note
}

// End is when it ended.
func (f *Flow) End() time.Time { return f.Time.Add(time.Duration(f.Seconds * float64(time.Second))) }

// FlowLog names the file with the flows of the box, a JSON object a line; the one
// before it has ".1" at the end. Both are bounded.
func (b *LiteBox) FlowLog() string { return filepath.Join(b.dir(), vmm.FlowName) }

// Flows iterates over what went over the box's network, in the order in which it
// ended, in this run of the box and before; Since is about the end, too. The last 4 to
// 8 MiB are kept with the box. Following ends when the box has stopped, or is gone,
// and all was read. An error ends the iteration: ErrNotFound, ErrStorage or ctx's.
func (b *LiteBox) Flows(ctx context.Context, o LogOptions) iter.Seq2[Flow, error] {
	return func(yield func(Flow, error) bool) {
		if _, err := b.rt.find(ctx, string(b.id)); err != nil {
			yield(Flow{}, err)
			return
		}
		r := flowReader{log: fileFollower{path: b.FlowLog()}, since: o.Since, yield: func(f Flow) bool { return yield(f, nil) }}
		defer r.log.close()
		if err := r.read(ctx, o, b.followed(ctx)); err == ctx.Err() && err != nil {
			yield(Flow{}, err)
		} else if err != nil && !errors.Is(err, errEnough) {
			yield(Flow{}, wrap(ErrStorage, err, "flows of box %s", b))
		}
	}
}

// flowReader reads a flow log.
type flowReader struct {
	log   fileFollower
	since time.Time
	yield func(Flow) bool
	rest  []byte // of a line that is not complete yet
}

var errEnough = errors.New("the caller has enough")

// flowLogLimit is more than a flow log's file has.
const flowLogLimit = 8 << 20

func (r *flowReader) read(ctx context.Context, o LogOptions, runs func() bool) error {
	text, err := r.log.begin(flowLogLimit)
	if err != nil {
		return err
	}
	if end := bytes.LastIndexByte(text, '\n') + 1; o.Tail > 0 {
		text = text[end-len(lastLines(text[:end], o.Tail)):]
	}
	if err := r.take(text); err != nil || !o.Follow {
		return err
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		last := !runs() // before the look: what was written up to here is seen by it
		if err := r.log.copy(r.take); err != nil || last {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take yields the flows of the lines that are complete. What is none, as the line
// that a killed VM process was writing, is passed over.
func (r *flowReader) take(text []byte) error {
	text = append(r.rest, text...)
	for {
		line, after, whole := bytes.Cut(text, []byte{'\n'})
		if !whole {
			r.rest = bytes.Clone(text)
			return nil
		}
		text = after
		var f Flow
		if json.Unmarshal(line, &f) != nil || f.End().Before(r.since) {
			continue
		}
		if !r.yield(f) {
			return errEnough
		}
	}
}
