package netstack

import (
	"testing"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// TestSendAllocates holds the way from the stack to the card to no allocation per
// frame, whether it is large or an acknowledgement.
func TestSendAllocates(t *testing.T) {
	p := policy(t, egress.Config{})
	n, err := New(Config{Policy: p})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	n.Attach(discarding{})
	for _, size := range []int{0, 60000} {
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
			ReserveHeaderBytes: ethernetHeader + header.IPv4MinimumSize + header.TCPMinimumSize, Payload: buffer.MakeWithData(make([]byte, size)),
		})
		tcp := header.TCP(pkt.TransportHeader().Push(header.TCPMinimumSize))
		tcp.Encode(&header.TCPFields{DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagAck})
		pkt.TransportProtocolNumber = header.TCPProtocolNumber
		header.IPv4(pkt.NetworkHeader().Push(header.IPv4MinimumSize)).Encode(&header.IPv4Fields{TotalLength: uint16(size + 40)})
		pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
		var list stack.PacketBufferList
		list.PushBack(pkt)
		require.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = n.link.WritePackets(list) }), "%d bytes", size)
		pkt.DecRef()
	}
	require.NotZero(t, n.Stats().RecvFrames)
}

// TestReceiveAllocates holds the way from the card to the stack to the stack's own
// buffers, which are pooled: a frame that is judged and refused allocates nothing.
func TestReceiveAllocates(t *testing.T) {
	p := policy(t, egress.Config{})
	n, err := New(Config{Policy: p})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	n.Attach(discarding{})
	eth := append(append(append([]byte{}, GatewayMAC...), GuestMAC...), 8, 0)
	frame := [][]byte{eth, otherSegment(60000)} // from 0.0.0.0
	var h vnet.Header
	require.Less(t, testing.AllocsPerRun(1000, func() { n.link.Receive(0, &h, frame) }), 0.5) // a collection may empty the pool
	require.NotZero(t, n.Stats().Dropped)
}

// otherSegment is a TCP packet of somebody else's with so many bytes after the headers.
func otherSegment(payload int) []byte {
	p := make([]byte, header.IPv4MinimumSize+header.TCPMinimumSize+payload)
	header.IPv4(p).Encode(&header.IPv4Fields{TotalLength: uint16(len(p)), Protocol: uint8(header.TCPProtocolNumber)})
	p[header.IPv4MinimumSize+header.TCPFlagsOffset] = byte(header.TCPFlagAck)
	return p
}
