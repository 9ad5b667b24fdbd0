package vmm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/anthropics/boxlite/pkg/virtio/vsock"
	"golang.org/x/sys/unix"
)

// maxPending bounds the clients that are connected but have not yet a
// connection to the guest.
const maxPending = 256

// bridge listens on box.sock and joins its clients to ports of the guest.
type bridge struct {
	path  string
	l     *net.UnixListener
	guest *vsock.Device
	box   box
	log   *slog.Logger
}

// newBridge takes the place of a socket that a dead VMM left: the box's lock,
// which the starter holds, says that no live one has it.
func newBridge(path string, guest *vsock.Device, box box, log *slog.Logger) (*bridge, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("vmm: %w", err)
	}
	l, err := listenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("vmm: listen on %s: %w", path, err)
	}
	return &bridge{path: path, l: l, guest: guest, box: box, log: log}, nil
}

// serve accepts until the bridge is closed, and returns when no client is left
// in between.
func (b *bridge) serve(ctx context.Context) {
	var clients sync.WaitGroup
	defer clients.Wait()
	slots := make(chan struct{}, maxPending)
	failing := false
	for {
		conn, err := b.l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			if !failing { // once, and not ten times a second
				b.log.Warn("accept on the box's socket", "error", err)
			}
			failing = true
			select { // out of descriptors: those in use have to go first
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return
			}
			continue
		}
		failing = false
		slots <- struct{}{}
		clients.Go(func() {
			if err := b.join(ctx, conn, func() { <-slots }); err != nil {
				b.log.Debug("client of the box's socket", "error", err)
			}
		})
	}
}

// join connects one client and returns when both sides are done. It calls joined
// when the client is no longer pending.
func (b *bridge) join(ctx context.Context, conn *net.UnixConn, joined func()) error {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	port, err := readRequest(conn)
	if err != nil {
		stop()
		joined()
		conn.Close()
		return err
	}
	if port == servicePort {
		stop()
		joined() // requests have time limits, and attachments one of their number
		return serveClient(ctx, conn, b.box)
	}
	guest, err := b.guest.Dial(ctx, port)
	stop()
	joined() // from here on the device's own limit of connections counts
	if _, werr := conn.Write(binary.LittleEndian.AppendUint32(nil, uint32(errnoOf(err)))); err != nil || werr != nil {
		conn.Close()
		if guest != nil {
			guest.Close()
		}
		return errors.Join(err, werr)
	}
	sock, err := takeSocket(conn)
	if err != nil {
		guest.Close()
		return err
	}
	defer sock.close()
	return guest.Splice(sock)
}

// rawSocket is a descriptor that Go's own poller does not watch: the device has
// one for its sockets, and being woken twice for every byte would cost.
type rawSocket int

// takeSocket takes the socket out of a connection, which it closes.
func takeSocket(conn *net.UnixConn) (s rawSocket, err error) {
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	var derr error
	err = raw.Control(func(fd uintptr) {
		var n int
		n, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
		s = rawSocket(n)
	})
	return s, errors.Join(err, derr)
}

func (s rawSocket) close() error                          { return unix.Close(int(s)) }
func (s rawSocket) SyscallConn() (syscall.RawConn, error) { return s, nil }
func (s rawSocket) Control(f func(uintptr)) error         { f(uintptr(s)); return nil }
func (s rawSocket) Read(func(uintptr) bool) error         { return syscall.ENOTSUP }
func (s rawSocket) Write(func(uintptr) bool) error        { return syscall.ENOTSUP }

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno):
		return errno
	}
	return syscall.ECONNREFUSED
}

func (b *bridge) close() {
	b.l.Close()
	// Nobody can start the box before this process is gone, so the name is still ours.
	_ = os.Remove(b.path)
}
