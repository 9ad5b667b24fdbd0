package vmm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"time"
)

// A connection to box.sock starts with a request: a magic number and a vsock
// port of the guest, little endian. The VMM answers with an errno, zero for
// success, and from then on the two are connected byte for byte. A client may
// send before it has the answer. See servicePort for the one that is none.
const (
	requestMagic = 0x314c5842 // "BXL1"
	requestSize  = 8
	replySize    = 4
)

func appendRequest(b []byte, port uint32) []byte {
	b = binary.LittleEndian.AppendUint32(b, requestMagic)
	return binary.LittleEndian.AppendUint32(b, port)
}

// requestTimeout bounds how long a client may take to say what it wants.
const requestTimeout = 10 * time.Second

func readRequest(c net.Conn) (port uint32, err error) {
	var b [requestSize]byte
	if err := c.SetReadDeadline(time.Now().Add(requestTimeout)); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return 0, err
	}
	if binary.LittleEndian.Uint32(b[:]) != requestMagic {
		return 0, errors.New("not a request")
	}
	return binary.LittleEndian.Uint32(b[4:]), c.SetReadDeadline(time.Time{})
}

// Dialer reaches the guest of the box in a folder.
type Dialer struct{ Dir string }

// Dial connects to a vsock port of the guest.
func (d Dialer) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	conn, err := dialUnix(ctx, filepath.Join(d.Dir, socketName))
	if err != nil {
		return nil, fmt.Errorf("vmm: connect to the box: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err = func() error {
		if _, err := conn.Write(appendRequest(make([]byte, 0, requestSize), port)); err != nil {
			return err
		}
		var reply [replySize]byte
		if _, err := io.ReadFull(conn, reply[:]); err != nil {
			return err
		}
		if errno := binary.LittleEndian.Uint32(reply[:]); errno != 0 {
			return syscall.Errno(errno)
		}
		return nil
	}()
	if err == nil && !stop() {
		err = ctx.Err() // the deadline may have been set already
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("vmm: connect to port %d of the guest: %w", port, errors.Join(ctx.Err(), err))
	}
	return conn, nil
}
