package runtime

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
	"github.com/stretchr/testify/require"
)

// TestAddTakenPort has a port of the host taken by a program, by another box and by the
// box itself. No VM is asked: it does not know who has the port.
func TestAddTakenPort(t *testing.T) {
	rt, pid := plainRuntime(t), child(t)
	for _, name := range []string{"web", "db"} {
		_, err := rt.Create(t.Context(), BoxOptions{KeepOnStop: true}, name)
		require.NoError(t, err)
		edit(t, rt, name, func(b *state.Box) {
			b.Status, b.PID, b.PIDStart, b.BootID, b.StartedAt = string(StatusRunning), pid, vmm.StartTime(pid), state.BootID(), time.Now()
		})
	}
	web, err := rt.Get(t.Context(), "web")
	require.NoError(t, err)
	for _, proto := range []PortProtocol{PortTCP, PortUDP} {
		port := takenPort(t, proto)
		p := PortSpec{HostPort: port, GuestPort: 80, Protocol: proto}
		for holder, ports := range map[string]map[string]string{
			"another program": {"db": ""},
			"box db":          {"db": fmt.Sprintf(`[{"HostPort":%d,"GuestPort":1,"Protocol":%q,"HostIP":"0.0.0.0"}]`, port, proto)},
			"box web":         {"db": "", "web": fmt.Sprintf(`[{"HostPort":%d,"GuestPort":80,"Protocol":%q,"HostIP":"127.0.0.1"}]`, port, proto)},
		} {
			for _, name := range []string{"web", "db"} {
				edit(t, rt, name, func(b *state.Box) { b.Ports = ports[name] })
			}
			_, err := web.AddPort(t.Context(), p)
			require.ErrorIs(t, err, ErrNetwork)
			require.ErrorContains(t, err, fmt.Sprintf("): port 127.0.0.1:%d/%s of the host is in use by %s: choose another, or 0 for any", port, proto, holder))
		}
	}
	_, err = web.AddPort(t.Context(), PortSpec{HostIP: "192.0.2.1", HostPort: 8080, GuestPort: 80})
	require.ErrorContains(t, err, "this machine does not have that address")
}

// takenPort is a port of the loopback that this program has.
func takenPort(t *testing.T, proto PortProtocol) uint16 {
	t.Helper()
	if proto == PortUDP {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// TestPortHolder compares addresses, of which all exclude each.
func TestPortHolder(t *testing.T) {
	boxes := []BoxInfo{
		{ID: "1", Name: "web", Ports: []PortSpec{{HostPort: 80, Protocol: PortTCP, HostIP: "127.0.0.1"}}},
		{ID: "2", Ports: []PortSpec{{HostPort: 80, Protocol: PortTCP, HostIP: "127.0.0.2"}, {HostPort: 53, Protocol: PortUDP, HostIP: "::"}}},
	}
	for p, want := range map[PortSpec]string{
		{HostPort: 80, Protocol: PortTCP, HostIP: "127.0.0.2"}: "box 2",
		{HostPort: 80, Protocol: PortTCP, HostIP: "0.0.0.0"}:   "box web",
		{HostPort: 80, Protocol: PortUDP, HostIP: "127.0.0.2"}: "another program",
		{HostPort: 53, Protocol: PortUDP, HostIP: "127.0.0.1"}: "box 2",
		{HostPort: 81, Protocol: PortTCP, HostIP: "127.0.0.1"}: "another program",
	} {
		require.Equal(t, want, portHolder(boxes, p), p)
	}
	require.Equal(t, "there is none that does", portList(nil))
	require.Equal(t, "those that do are 127.0.0.1:80->0/tcp", portList(boxes[0].Ports))
}
