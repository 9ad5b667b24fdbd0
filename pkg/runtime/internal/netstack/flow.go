package netstack

import (
	"net/netip"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

// Flow is how a connection, a flow of datagrams or a run of echo requests went.
type Flow struct {
	Time     time.Time // when it began
	Took     time.Duration
	Protocol egress.Protocol
	Src      netip.AddrPort // of whoever began it
	Dst      netip.AddrPort // as the guest named it; of the guest for a forwarded port
	Inbound  bool           // by a forwarded port
	Verdict  egress.Verdict // of no meaning for a forwarded port
	Sent     uint64         // bytes of content from the guest
	Received uint64         // bytes of content to the guest
	Err      string         // why it failed or was cut, empty for an orderly end
}

func (n *Network) report(f *Flow) {
	if n.cfg.Flows != nil {
		f.Took = time.Since(f.Time)
		n.cfg.Flows(*f)
	}
}
