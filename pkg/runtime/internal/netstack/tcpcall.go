package netstack

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// The gateway's ports that stand for who connects to a forwarded port: those that Linux
// itself takes (ip_local_port_range).
const firstCaller, lastCaller = 32768, 60999

// call joins a connection to a forwarded port to one of the guest, which is called from
// the gateway.
func (t *tcpTable) call(port uint16, fd int, from netip.AddrPort) {
	f := t.caller(netip.AddrPortFrom(Guest4, port))
	if f == nil {
		unix.Close(fd)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state, f.fd = tcpCalling, fd
	f.flow.Src, f.flow.Dst = from, f.key.src
	f.setOptions()
	if t.open.Load() > t.net.limit.tcp {
		f.end(errTooMany)
		return
	}
	f.expect(callTime)
	f.answer()
}

// caller makes an entry under a port of the gateway that is free, or nil.
func (t *tcpTable) caller(guest netip.AddrPort) *tcpFlow {
	for range lastCaller - firstCaller + 1 {
		t.mu.Lock()
		from := t.next
		if t.next++; t.next > lastCaller {
			t.next = firstCaller
		}
		t.mu.Unlock()
		if f := t.add(flowKey{guest, netip.AddrPortFrom(Gateway4, from)}, true); f != nil {
			return f
		}
	}
	return nil
}
