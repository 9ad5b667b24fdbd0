package netstack

import (
	"testing"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// streaming is a connection on which one segment after the other goes either way.
type streaming struct {
	*fuzzedTCP
	n     *Network
	frame [][]byte // of the guest
	p     []byte   // the same bytes for the other way
}

func newStreaming(t testing.TB, size int) *streaming {
	p, err := newTestPolicy()
	require.NoError(t, err)
	t.Cleanup(p.Close)
	n, err := New(Config{Policy: p})
	require.NoError(t, err)
	s := &streaming{n: n, p: make([]byte, size), fuzzedTCP: newFuzzedTCP(t, n)}
	n.link.nic = discarding{}
	t.Cleanup(func() {
		s.f.fail(errClosed)
		s.close()
		require.NoError(t, n.Close())
	})
	packet := packet(Host4, header.TCPProtocolNumber, func(b []byte) {
		header.TCP(b).Encode(&header.TCPFields{SrcPort: 1, DstPort: 2, AckNum: s.f.una, DataOffset: header.TCPMinimumSize, Flags: flagAck, WindowSize: 0xffff})
	}, header.TCPMinimumSize+size, header.TCPChecksumOffset)
	half := ethernetHeader + len(packet) - size/2
	frame := append(append(append(append([]byte{}, GatewayMAC...), GuestMAC...), 8, 0), packet...)
	s.frame = [][]byte{frame[:ethernetHeader:ethernetHeader], frame[ethernetHeader:half:half], frame[half:]}
	return s
}

// fromGuest has the guest send its next segment, and the far end read it.
func (s *streaming) fromGuest() {
	tcp := header.TCP(s.frame[1][header.IPv4MinimumSize:])
	tcp.SetSequenceNumber(s.f.rcv)
	tcp.SetAckNumber(s.f.top)
	var h vnet.Header
	s.n.link.Receive(0, &h, s.frame)
	s.n.tcp.acknowledge(0, true)
	for left := len(s.p); left > 0; {
		n, err := unix.Read(s.far, s.p)
		if err != nil {
			panic(err)
		}
		left -= n
	}
}

// toGuest has the far end say something, and the guest acknowledge it.
func (s *streaming) toGuest() {
	for left := s.p; len(left) > 0; {
		n, err := unix.Write(s.far, left)
		if err != nil {
			panic(err)
		}
		left = left[n:]
		s.f.serve(readable)
		s.f.take(0, &segment{seq: s.f.rcv, ack: s.f.top, flags: flagAck, window: 0xffff, shift: noScale}, nil)
	}
}

// TestSegmentsAllocateNothing holds both ways to no allocation.
func TestSegmentsAllocateNothing(t *testing.T) {
	for _, size := range []int{1, 1400, 60_000} {
		s := newStreaming(t, size)
		require.Zero(t, testing.AllocsPerRun(100, s.fromGuest), "%d bytes from the guest", size)
		require.Zero(t, testing.AllocsPerRun(100, s.toGuest), "%d bytes to the guest", size)
	}
}

func BenchmarkSegmentFromGuest(b *testing.B) { benchmarkSegment(b, (*streaming).fromGuest) }
func BenchmarkSegmentToGuest(b *testing.B)   { benchmarkSegment(b, (*streaming).toGuest) }

func benchmarkSegment(b *testing.B, way func(*streaming)) {
	s := newStreaming(b, 60_000)
	b.SetBytes(60_000)
	b.ReportAllocs()
	for b.Loop() {
		way(s)
	}
}
