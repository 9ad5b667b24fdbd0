package vmm

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Socket addresses hold 108 bytes, folders may be deeper, so both ends name
// the socket through an open folder.

func viaFolder(path string, do func(short string) error) error {
	dir, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	return do(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}

func listenUnix(path string) (l *net.UnixListener, err error) {
	err = viaFolder(path, func(short string) error {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if l != nil {
		l.SetUnlinkOnClose(false) // the short name is gone by then; the owner removes the file
	}
	return l, err
}

func dialUnix(ctx context.Context, path string) (c *net.UnixConn, err error) {
	err = viaFolder(path, func(short string) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", short)
		if err == nil {
			c = conn.(*net.UnixConn)
		}
		return err
	})
	return c, err
}
