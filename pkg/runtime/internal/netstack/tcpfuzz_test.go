package netstack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// streamByte is what both ends say at a place in their streams.
func streamByte(at uint32) byte { return byte(at*7 + at>>8) }

// checkingCard is a card that looks at what the guest is sent, and has room at times.
type checkingCard struct {
	discarding
	first uint32 // sequence number of the first byte to the guest
	wrong string
	full  bool
	down  bool
}

func (c *checkingCard) Send(_ int, h *vnet.Header, v [][]byte) vnet.Status {
	if c.full {
		return vnet.Full
	} else if c.down {
		return vnet.Down
	}
	var p []byte
	for _, b := range v {
		p = append(p, b...)
	}
	tcp := header.TCP(p[ethernetHeader+header.IPv4MinimumSize:])
	for i, b := range tcp.Payload() {
		if want := streamByte(tcp.SequenceNumber() + uint32(i) - c.first); b != want {
			c.wrong = fmt.Sprintf("byte %d to the guest is %d, want %d", tcp.SequenceNumber()+uint32(i)-c.first, b, want)
			break // under the network's locks
		}
	}
	return vnet.Sent
}

// FuzzTCP has guest and host do anything on a connection. What either gets is what the
// other said, in order, and what is held is bounded.
func FuzzTCP(f *testing.F) {
	f.Add([]byte{0, 0, 16, 10, 0, 1, 200, 2, 0, 3, 0, 0, 16, 0, 255})
	f.Add([]byte{0, 0, 17, 5, 0, 4, 5, 0, 1, 16, 0, 6, 3, 3, 3})
	f.Add([]byte{1, 255, 1, 255, 8, 2, 0, 0, 16, 0, 0, 0, 0, 16, 0, 0, 0, 0, 16, 0, 0, 3, 0, 0, 4, 9})
	p, err := newTestPolicy()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(p.Close)
	n, err := New(Config{Policy: p})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { n.Close() })
	f.Fuzz(func(t *testing.T, script []byte) {
		z := newFuzzedTCP(t, n)
		require.NoError(t, unix.SetsockoptInt(z.f.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4096)) // so that it takes parts
		z.run(script)
	})
}

// fuzzedTCP is an open connection, of which the test is either end.
type fuzzedTCP struct {
	t    testing.TB
	card *checkingCard
	f    *tcpFlow
	far  int // the other end of its socket; -1 once closed

	theirs uint32 // sequence number of the guest's first byte
	wrote  uint32 // bytes of the far end
	read   uint32 // by the far end
}

func newFuzzedTCP(t testing.TB, n *Network) *fuzzedTCP {
	z := &fuzzedTCP{t: t, card: &checkingCard{}, theirs: 0xffff_ff00}
	n.link.nic = z.card
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		require.NoError(t, unix.SetNonblock(fd, true))
	}
	z.far = fds[1]
	n.tcp.timers.close() // the test says what time it is
	z.f = newTCPFlow(n.tcp, flowKey{netip.AddrPortFrom(Guest4, 1), netip.AddrPortFrom(Host4, 2)})
	require.True(t, n.tcp.add(z.f))
	z.f.state, z.f.fd = tcpConnecting, fds[0]
	z.f.greeted(&segment{seq: z.theirs - 1, flags: flagSyn, window: 65535, mss: 1460, shift: 7})
	z.f.serve(writable)
	require.Equal(t, tcpAnswered, z.f.state)
	z.card.first = z.f.top
	z.f.take(anyPair, &segment{seq: z.theirs, ack: z.f.top, flags: flagAck, window: 500}, nil)
	require.Equal(t, tcpOpen, z.f.state)
	return z
}

func (z *fuzzedTCP) run(script []byte) {
	f := z.f
	arg := func() (b byte) {
		if len(script) > 0 {
			b, script = script[0], script[1:]
		}
		return b
	}
	for len(script) > 0 {
		switch arg() % 8 {
		case 0: // a segment about where they are
			z.segment(f.rcv+uint32(int8(arg())), f.una+uint32(int8(arg())), header.TCPFlags(arg()), int(arg())*int(arg()), uint16(arg())<<4)
		case 1: // the host says something
			z.say(int(arg()) * 300)
		case 2: // and reads
			z.hear(int(arg()) * 300)
		case 3: // time goes by
			f.deadline, f.repeatAt, f.sniffEnd = sooner(f.deadline), sooner(f.repeatAt), sooner(f.sniffEnd)
			f.onTime()
		case 4: // the guest acknowledges, as it should
			z.segment(f.rcv, f.top-uint32(arg())%(f.top-f.una+1), flagAck, 0, uint16(arg())<<4)
		case 5: // any segment
			b := [8]byte{arg(), arg(), arg(), arg(), arg(), arg(), arg(), arg()}
			z.segment(binary.BigEndian.Uint32(b[:]), binary.BigEndian.Uint32(b[4:]), header.TCPFlags(arg()), int(arg()), 0)
		case 6: // the ring of the card
			z.card.full, z.card.down = false, false
			f.table.net.link.Ready(0)
			switch arg() % 4 {
			case 1:
				z.card.full = true
			case 2:
				z.card.down = true
			}
		case 7: // the host ends
			switch arg() % 3 {
			case 0:
				_ = unix.Shutdown(z.far, unix.SHUT_WR)
			case 1:
				z.close()
			}
			f.serve(readable | hungUp)
		}
		z.check()
	}
	f.fail(errClosed)
	z.close()
	f.table.net.link.Ready(0)
	require.Zero(z.t, f.table.memory.used.Load())
	require.Zero(z.t, f.table.open.Load()+f.table.opening.Load()+f.table.net.count.tcpActive.Load())
}

// sooner is what is due when it is waited for at all.
func sooner[T ~int64](at T) T { return min(at, 1) }

func (z *fuzzedTCP) segment(seq, ack uint32, flags header.TCPFlags, n int, window uint16) {
	p := make([]byte, n)
	for i := range p {
		p[i] = streamByte(seq + uint32(i) - z.theirs)
	}
	cut := n / 3 // in pieces
	z.f.take(anyPair, &segment{seq: seq, ack: ack, flags: flags, window: window, shift: noScale}, [][]byte{p[:cut:cut], p[cut:]})
}

func (z *fuzzedTCP) say(n int) {
	if z.far < 0 {
		return
	}
	p := make([]byte, n)
	for i := range p {
		p[i] = streamByte(z.wrote + uint32(i))
	}
	if n, err := unix.Write(z.far, p); err == nil {
		z.wrote += uint32(n)
	}
	z.f.serve(readable)
}

func (z *fuzzedTCP) hear(n int) {
	if z.far < 0 {
		return
	}
	p := make([]byte, n+1)
	n, _ = unix.Read(z.far, p)
	for i := range max(n, 0) {
		if want := streamByte(z.read); p[i] != want {
			z.t.Fatalf("byte %d to the host is %d, want %d", z.read, p[i], want)
		}
		z.read++
	}
	z.f.serve(writable)
}

func (z *fuzzedTCP) close() {
	if z.far >= 0 {
		unix.Close(z.far)
		z.far = -1
	}
}

func (z *fuzzedTCP) check() {
	f := z.f
	require.Empty(z.t, z.card.wrong)
	if f.state == tcpOver {
		require.EqualValues(z.t, -1, f.fd)
		return
	}
	require.False(z.t, after(f.una, f.nxt), "una %d nxt %d", f.una, f.nxt)
	require.False(z.t, after(f.nxt, f.top))
	require.LessOrEqual(z.t, f.top-f.una, uint32(f.out.n+1))
	require.LessOrEqual(z.t, f.out.n, maxRing)
	require.LessOrEqual(z.t, f.in.n, maxRing)
	require.LessOrEqual(z.t, f.edge-f.rcv, uint32(maxWindow+1<<windowShift))
	if !f.gone && (f.out.n > 0 || f.ended && !f.acked) {
		require.True(z.t, f.repeatAt != 0 || f.blocked, "nothing is waited for")
	}
}
