package net_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// command gives a command on the last queue, and returns its answer.
func (g *guest) command(q int, data ...byte) byte {
	g.T.Helper()
	copy(g.Bytes(g.cmd+16, len(data)), data)
	ack := g.Bytes(g.cmd, 1)
	ack[0] = 0xee
	require.EqualValues(g.T, 1, g.Do(q,
		virtiotest.Buf{Addr: g.cmd + 16, Len: uint32(len(data))}, virtiotest.Buf{Addr: g.cmd, Len: 1, Write: true}))
	return ack[0]
}

// pairs makes the driver listen on n pairs.
func (g *guest) pairs(n int) {
	g.T.Helper()
	require.Zero(g.T, g.command(len(g.Rings)-1, 4, 0, byte(n), byte(n>>8)))
}

func offloads(f uint64) []byte { return binary.LittleEndian.AppendUint64([]byte{5, 0}, f) }

func table(n int, macs ...int) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(n)), make([]byte, 6*slices.Max(append(macs, 0)))...)
}

func TestCommands(t *testing.T) {
	c := config(&testHost{})
	c.Queues = 4
	g := attach(t, c)
	g.start(g.all())
	mac := func(m [6]byte) []byte { return append([]byte{1, 1}, m[:]...) }
	macTable := func(tables ...[]byte) []byte { return append([]byte{1, 0}, slices.Concat(tables...)...) }
	const own, refused = 0, 1
	for _, c := range []struct {
		name string
		data []byte
		want byte
	}{
		{"promiscuous", []byte{0, 0, 1}, own},
		{"not promiscuous", []byte{0, 0, 0}, own},
		{"all multicast", []byte{0, 1, 1}, own},
		{"promiscuous 2", []byte{0, 0, 2}, refused},
		{"promiscuous, nothing said", []byte{0, 0}, refused},
		{"promiscuous, too much said", []byte{0, 0, 1, 1}, refused},
		{"extra RX mode", []byte{0, 2, 1}, refused},
		{"own address", mac(guestMAC), own},
		{"other address", mac(hostMAC), refused},
		{"short address", mac(guestMAC)[:7], refused},
		{"long address", append(mac(guestMAC), 0), refused},
		{"empty tables", macTable(table(0), table(0)), own},
		{"tables", macTable(table(3, 3), table(2, 2)), own},
		{"largest tables", macTable(table(4096, 4096), table(4096, 4096)), own},
		{"table too large", macTable(table(4097, 4097), table(0)), refused},
		{"table of 2^32-1", macTable(table(-1), table(0)), refused},
		{"one table", macTable(table(3, 3)), refused},
		{"no table", macTable(), refused},
		{"table cut short", macTable(table(0), table(3, 2)), refused},
		{"more than tables", macTable(table(0), table(0), []byte{0}), refused},
		{"VLAN", []byte{2, 0, 1, 0}, refused},
		{"announced", []byte{3, 0}, refused},
		{"no pairs", []byte{4, 0, 0, 0}, refused},
		{"one pair", []byte{4, 0, 1, 0}, own},
		{"all pairs", []byte{4, 0, 4, 0}, own},
		{"too many pairs", []byte{4, 0, 5, 0}, refused},
		{"0x8000 pairs", []byte{4, 0, 0, 0x80}, refused},
		{"short pairs", []byte{4, 0, 1}, refused},
		{"RSS", append([]byte{4, 1}, make([]byte, 100)...), refused},
		{"no offloads", offloads(0), own},
		{"some offloads", offloads(uint64(fGuestCsum | fGuestTSO4)), own},
		{"not an offload", offloads(uint64(fCsum)), refused},
		{"all bits", offloads(1<<64 - 1), refused},
		{"short offloads", offloads(0)[:9], refused},
		{"unknown class", []byte{200, 0}, refused},
		{"unknown class with a lot", append([]byte{200, 0}, make([]byte, 50000)...), refused},
		{"half a header", []byte{0}, refused},
	} {
		require.Equal(t, c.want, g.command(8, c.data...), c.name)
	}
	n := g.dev.Counters()
	require.NotZero(t, n.Commands)
	require.NotZero(t, n.CommandsRefused)
	require.False(t, g.NeedsReset())
}

// TestCommandsNotAgreed: without their features, commands do not exist.
func TestCommandsNotAgreed(t *testing.T) {
	g := attach(t, config(&testHost{}))
	g.start(fCtrl | ring)
	for _, data := range [][]byte{
		{0, 0, 1}, append([]byte{1, 1}, guestMAC[:]...), {4, 0, 1, 0}, offloads(0), append([]byte{1, 0}, make([]byte, 8)...),
	} {
		require.EqualValues(t, 1, g.command(2, data...))
	}
}

func TestHostileCommandWithoutAnswer(t *testing.T) {
	g := attach(t, config(&testHost{}))
	g.start(g.all())
	g.Rings[2].Add(virtiotest.Buf{Addr: g.cmd, Len: 3})
	g.Kick(2)
	_, ok := g.WaitUsed(2)
	require.False(t, ok)
	require.Equal(t, net.Down, g.dev.Send(0, &net.Header{}, [][]byte{toGuest(60)}))
	g.start(g.all())
	g.send(0, net.Header{}, fromGuest(60))
	require.Len(t, g.host.taken(), 1)
}

// TestCommandLayout: a command and its answer in any number of pieces.
func TestCommandLayout(t *testing.T) {
	g := attach(t, config(&testHost{}))
	g.start(g.all())
	copy(g.Bytes(g.cmd, 8), append([]byte{1, 1}, guestMAC[:]...))
	var bufs []virtiotest.Buf
	for i := range 8 {
		bufs = append(bufs, virtiotest.Buf{Addr: g.cmd + guestmem.GPA(i), Len: 1})
	}
	bufs = append(bufs, virtiotest.Buf{Addr: g.cmd + 100, Len: 1, Write: true}, virtiotest.Buf{Addr: g.cmd + 101, Len: 1000, Write: true})
	g.Bytes(g.cmd+100, 1)[0] = 0xee
	require.EqualValues(t, 1, g.Do(2, bufs...))
	require.Zero(t, g.Bytes(g.cmd+100, 1)[0])
}

func TestPairs(t *testing.T) {
	h := &testHost{}
	c := config(h)
	c.Queues = 3
	g := attach(t, c)
	g.start(g.all())
	require.Equal(t, 1, g.dev.Pairs())
	for q := range 3 {
		g.post(q, 4, 2048)
	}
	v := [][]byte{toGuest(60)}
	require.Equal(t, net.Sent, g.dev.Send(0, &net.Header{}, v))
	require.Equal(t, net.Down, g.dev.Send(1, &net.Header{}, v), "nobody listens")
	require.Zero(t, h.readies(1))
	g.pairs(2)
	h.awaitReady(t, 1, 0)
	require.Equal(t, 2, g.dev.Pairs())
	require.Equal(t, net.Sent, g.dev.Send(1, &net.Header{}, v))
	require.Equal(t, net.Down, g.dev.Send(2, &net.Header{}, v))
	g.dev.Flush(1)
	_, p, _ := g.receive(1)
	require.Equal(t, v[0], p)
	g.pairs(3)
	h.awaitReady(t, 2, 0)
	for q := range 3 {
		g.send(q, net.Header{}, fromGuest(60))
		require.Equal(t, []got{{pair: q, frame: fromGuest(60)}}, h.taken())
	}
	g.pairs(1)
	require.Equal(t, net.Down, g.dev.Send(1, &net.Header{}, v))

	// A driver that knows one pair has its control queue after it (§5.1.2).
	g.start(g.all() &^ fMQ)
	require.Zero(t, g.command(2, append([]byte{1, 1}, guestMAC[:]...)...))
	require.EqualValues(t, 1, g.command(2, 4, 0, 2, 0))
	g.send(0, net.Header{}, fromGuest(60))
	require.Len(t, h.taken(), 1)
}

func TestOffloadsChange(t *testing.T) {
	h := &testHost{}
	g := attach(t, config(h))
	g.start(g.all())
	g.post(0, 4, 65562)
	big := [][]byte{toGuest(30000)}
	require.Equal(t, net.Sent, g.dev.Send(0, &tsoToGuest, big))
	n := h.readies(0)
	require.Zero(t, g.command(2, offloads(uint64(fGuestCsum))...))
	require.Equal(t, net.OffloadCsum, g.dev.Offloads())
	require.Equal(t, net.Down, g.dev.Send(0, &tsoToGuest, big))
	h.awaitReady(t, 0, n)
	require.Zero(t, g.command(2, offloads(uint64(fGuestTSO4))...), "without checksums it is of no use")
	require.Zero(t, g.dev.Offloads())
	require.Zero(t, g.command(2, offloads(uint64(fGuestCsum|fGuestTSO4|fGuestTSO6|fGuestUSO4|fGuestUSO6))...))
	require.Equal(t, net.AllOffloads, g.dev.Offloads())
	require.Equal(t, net.Sent, g.dev.Send(0, &tsoToGuest, big))
}
