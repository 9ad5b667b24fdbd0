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
	f := newTCPFlow(t, flowKey{src: netip.AddrPortFrom(Guest4, port)})
	f.state, f.inbound, f.fd = tcpCalling, true, fd
	f.flow.Inbound, f.flow.Src, f.flow.Dst = true, from, f.key.src
	f.setOptions()
	if !t.addCaller(f) {
		unix.Close(fd)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.state != tcpCalling: // the table was closed
	case t.open.Load() > t.net.limit.tcp, t.calling.Load() > int64(t.net.limit.opening):
		f.end(errTooMany)
	default:
		f.expect(callTime)
		f.answer()
	}
}

// addCaller makes an entry under a port of the gateway that is free.
func (t *tcpTable) addCaller(f *tcpFlow) bool {
	for range lastCaller - firstCaller + 1 {
		t.mu.Lock()
		from, closed := t.next, t.flows == nil
		if t.next++; t.next > lastCaller {
			t.next = firstCaller
		}
		t.mu.Unlock()
		if closed {
			return false
		}
		f.key.dst = netip.AddrPortFrom(Gateway4, from)
		f.count()
		if t.add(f) {
			return true
		}
	}
	return false
}
