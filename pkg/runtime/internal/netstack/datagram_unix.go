package netstack

import (
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// sendNow writes a datagram to a connected socket if it takes it at once: the
// caller is the network card's goroutine, which waits for nobody.
func sendNow(conn *net.UDPConn, p []byte) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		for {
			if _, serr = unix.Write(int(fd), p); serr != unix.EINTR {
				return
			}
		}
	})
	return errors.Join(err, serr)
}

// burst bounds the datagrams that are read before others get their turn.
const burst = 64

// readDatagram waits for datagrams and gives each that is there to take, which must
// not keep it. It returns how many there were.
func readDatagram(raw syscall.RawConn, take func(p []byte)) (count int, err error) {
	var serr error
	err = raw.Read(func(fd uintptr) bool {
		buf := datagrams.Get().(*[maxDatagram]byte)
		defer datagrams.Put(buf)
		for count < burst {
			n, _, err := unix.Recvfrom(int(fd), buf[:], unix.MSG_DONTWAIT)
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
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EMSGSIZE)
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
