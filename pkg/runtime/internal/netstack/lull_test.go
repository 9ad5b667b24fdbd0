package netstack

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// segmentOf is a TCP packet of the guest's with so many bytes after the headers.
func segmentOf(flags header.TCPFlags, payload int) []byte {
	p := make([]byte, header.IPv4MinimumSize+header.TCPMinimumSize+payload)
	header.IPv4(p).Encode(&header.IPv4Fields{TotalLength: uint16(len(p)), Protocol: uint8(header.TCPProtocolNumber)})
	p[header.IPv4MinimumSize+header.TCPFlagsOffset] = byte(flags)
	return p
}

func TestLull(t *testing.T) {
	var interrupts atomic.Int32
	var s lull
	s.init(func() { interrupts.Add(1) })
	defer s.stop()
	told := func(n int32, what string) {
		t.Helper()
		require.Equal(t, n, interrupts.Swap(0), what)
	}
	s.timer.Stop()
	s.armed.Store(true) // so that the time is over when the test says so
	ack, syn := header.TCPFlagAck, header.TCPFlagSyn

	s.received(segmentOf(ack|header.TCPFlagPsh, 100))
	s.flush(false)
	told(0, "the acknowledgement of a request waits for the answer")
	s.flush(true)
	told(1, "the answer")
	s.flush(false)
	s.over()
	told(1, "the time was over")
	s.over()
	told(0, "once")
	s.armed.Store(true)
	s.flush(false)
	s.flush(false)
	told(1, "two acknowledgements are worth an interrupt")
	s.received(segmentOf(ack, 1400))
	s.flush(false)
	told(1, "a stream goes on at once")
	s.received(segmentOf(syn|ack, 0))
	s.flush(false)
	told(1, "so does a connection that opens")
}

func TestLullArms(t *testing.T) {
	done := make(chan struct{}, 1)
	var s lull
	s.init(func() { done <- struct{}{} })
	defer s.stop()
	for range 3 {
		s.flush(false)
		<-done
	}
}

func TestOpens(t *testing.T) {
	for flags, want := range map[header.TCPFlags]bool{
		header.TCPFlagSyn: true, header.TCPFlagSyn | header.TCPFlagAck: true, header.TCPFlagAck: false, header.TCPFlagFin: false,
	} {
		v4 := segmentOf(flags, 0)
		require.Equal(t, want, opens(v4), "%v", flags)
		for n := range len(v4) {
			require.False(t, opens(v4[:n]), "%v cut after %d", flags, n)
		}
		v6 := make([]byte, header.IPv6MinimumSize+header.TCPMinimumSize)
		header.IPv6(v6).Encode(&header.IPv6Fields{TransportProtocol: header.TCPProtocolNumber})
		v6[header.IPv6MinimumSize+header.TCPFlagsOffset] = byte(flags)
		require.Equal(t, want, opens(v6), "%v", flags)
		for n := range len(v6) {
			require.False(t, opens(v6[:n]), "%v cut after %d", flags, n)
		}
	}
	long := segmentOf(header.TCPFlagSyn, 0)
	long[0] = 0x4f // options up to the end
	require.False(t, opens(long))
}

// TestIsAck looks at what the stack itself sends.
func TestIsAck(t *testing.T) {
	for flags, want := range map[header.TCPFlags]bool{
		header.TCPFlagAck: true, header.TCPFlagAck | header.TCPFlagPsh: false, header.TCPFlagAck | header.TCPFlagFin: false,
		header.TCPFlagAck | header.TCPFlagSyn: false, header.TCPFlagRst | header.TCPFlagAck: false,
	} {
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: header.TCPMinimumSize})
		h := header.TCP(pkt.TransportHeader().Push(header.TCPMinimumSize))
		h.Encode(&header.TCPFields{DataOffset: header.TCPMinimumSize, Flags: flags})
		require.False(t, isAck(pkt), "not known to be TCP")
		pkt.TransportProtocolNumber = header.TCPProtocolNumber
		require.Equal(t, want, isAck(pkt), "%v", flags)
		pkt.DecRef()
	}
}
