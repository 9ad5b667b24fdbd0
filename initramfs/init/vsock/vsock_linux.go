package vsock

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// cidHost is the address of the host (virtio 1.3 §5.10.4).
const cidHost = 2

// backlog is how many connections wait to be accepted: one exec brings three.
const backlog = 512

// Conn is a connection. Its methods are those of a non-blocking os.File, so
// that goroutines and not threads wait.
type Conn struct{ *os.File }

// CloseWrite sends end of file and leaves the other direction open.
func (c Conn) CloseWrite() error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var e error
	if err := raw.Control(func(fd uintptr) { e = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		return err
	}
	return os.NewSyscallError("shutdown", e)
}

// ReadWithin makes reads fail after that time, with 0 never. The interface that has
// it in the agent has no [time.Time], whose formatting and time zones would then be
// part of init.
func (c Conn) ReadWithin(d time.Duration) { _ = c.SetReadDeadline(deadline(d)) }

// WriteWithin is ReadWithin for writes.
func (c Conn) WriteWithin(d time.Duration) { _ = c.SetWriteDeadline(deadline(d)) }

func deadline(d time.Duration) (t time.Time) {
	if d != 0 {
		t = time.Now().Add(d)
	}
	return t
}

// Dial connects to a port of the host.
func Dial(port uint32, timeout time.Duration) (Conn, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Conn{}, os.NewSyscallError("socket", err)
	}
	tv := unix.NsecToTimeval(int64(timeout))
	err = unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD, &tv)
	if err == nil {
		for {
			err = unix.Connect(fd, &unix.SockaddrVM{CID: cidHost, Port: port})
			if err != unix.EINTR {
				break
			}
		}
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return Conn{}, os.NewSyscallError("connect to the host", err)
	}
	return Conn{os.NewFile(uintptr(fd), "vsock")}, nil
}

// Listener accepts the host's connections to one port.
type Listener struct{ f *os.File }

// Listen opens a port.
func Listen(port uint32) (*Listener, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("listen", err)
	}
	return &Listener{os.NewFile(uintptr(fd), "vsock listener")}, nil
}

// Accept waits for a connection from the host. Those from the guest itself, by
// the loopback transport, are dropped: its programs have no say here.
func (l *Listener) Accept() (Conn, error) {
	raw, err := l.f.SyscallConn()
	if err != nil {
		return Conn{}, err
	}
	for {
		var fd int
		var from unix.Sockaddr
		var e error
		err := raw.Read(func(lfd uintptr) bool {
			fd, from, e = unix.Accept4(int(lfd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return e != unix.EAGAIN
		})
		if err == nil && e != nil && e != unix.EINTR && e != unix.ECONNABORTED {
			err = os.NewSyscallError("accept", e)
		}
		if err != nil {
			return Conn{}, err
		}
		if e != nil {
			continue
		}
		if peer, ok := from.(*unix.SockaddrVM); !ok || peer.CID != cidHost {
			unix.Close(fd)
			continue
		}
		return Conn{os.NewFile(uintptr(fd), "vsock")}, nil
	}
}

// Close stops listening; Accept returns an error.
func (l *Listener) Close() error { return l.f.Close() }
