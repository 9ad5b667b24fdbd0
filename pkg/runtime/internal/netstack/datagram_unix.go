package netstack

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// sender writes datagrams to a connected socket, without allocating. It is for one
// goroutine at a time.
type sender struct {
	raw   syscall.RawConn
	write func(fd uintptr)
	p     []byte // of the call under way
	err   error
}

func newSender(conn *net.UDPConn) (*sender, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &sender{raw: raw}
	s.write = func(fd uintptr) {
		for {
			if _, s.err = unix.Write(int(fd), s.p); s.err != unix.EINTR {
				return
			}
		}
	}
	return s, nil
}

// send writes a datagram if the socket takes it at once: the caller is the network
// card's goroutine, which waits for nobody. An error of a datagram before, which the
// socket tells of first, is the result, but the datagram goes all the same.
func (s *sender) send(p []byte) (sent bool, err error) {
	s.p = p
	defer func() { s.p = nil }()
	if err := s.raw.Control(s.write); err != nil {
		return false, err
	}
	if err = s.err; !isRefused(err) {
		return err == nil, err
	}
	return s.raw.Control(s.write) == nil && s.err == nil, err
}

// readDatagram waits for datagrams and gives each that is there to take, which must
// not keep it. It returns how many there were.
func readDatagram(raw syscall.RawConn, take func(p []byte)) (count int, err error) {
	var serr error
	err = raw.Read(func(fd uintptr) bool {
		buf := datagrams.Get().(*[joinedMost + maxDatagram]byte)
		defer datagrams.Put(buf)
		for count < burst {
			n, err := unix.Read(int(fd), buf[:])
			switch {
			case err == unix.EINTR:
				continue
			case err == unix.EAGAIN:
				return count > 0
			case err != nil:
				serr = err
				return true
			}
			count++
			take(buf[:n])
		}
		return true
	})
	if err == nil {
		err = serr
	}
	return count, err
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// isRefused reports an error that a datagram before caused, and that says nothing
// about the next.
func isRefused(err error) bool {
	if err == nil {
		return false // without an allocation: it is asked for each datagram
	}
	var no unix.Errno
	if !errors.As(err, &no) {
		return false
	}
	switch no {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EMSGSIZE:
		return true
	}
	return false
}

// payload is a copy of p in the stack's own memory.
func payload(p []byte) buffer.Buffer {
	return buffer.MakeWithView(buffer.NewViewWithData(p))
}

func udpChecksum(route *stack.Route, u header.UDP, p []byte) uint16 {
	sum := route.PseudoHeaderChecksum(header.UDPProtocolNumber, u.Length())
	sum = ^u.CalculateChecksum(checksum.Combine(sum, checksum.Checksum(p, 0)))
	if sum == 0 {
		return 0xffff // RFC 768: zero means none
	}
	return sum
}

// datagram sends one to the guest and has it hear of it.
func (n *Network) datagram(from, to netip.AddrPort, p []byte) {
	q := n.link.datagrams(from, to, p, len(p))
	n.link.queues[q].lull.flush(true)
}

// fragmented sends one that is larger than a packet.
func (n *Network) fragmented(from, to netip.AddrPort, p []byte) {
	route, err := n.stack.FindRoute(nicID, toTCPIP(from.Addr()), toTCPIP(to.Addr()), networkOf(from.Addr()), false)
	if err != nil {
		n.count.lost.Add(1)
		return
	}
	defer route.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: int(route.MaxHeaderLength()) + header.UDPMinimumSize, Payload: payload(p),
	})
	defer pkt.DecRef()
	u := header.UDP(pkt.TransportHeader().Push(header.UDPMinimumSize))
	pkt.TransportProtocolNumber = header.UDPProtocolNumber
	u.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: uint16(header.UDPMinimumSize + len(p))})
	u.SetChecksum(udpChecksum(route, u, p))
	_ = route.WritePacket(stack.NetworkHeaderParams{Protocol: header.UDPProtocolNumber, TTL: datagramTTL, TOS: stack.DefaultTOS}, pkt)
}

func headerLen(a netip.Addr) int {
	if a.Is4() {
		return header.IPv4MinimumSize
	}
	return header.IPv6MinimumSize
}
