//go:build !linux

package hostfiles

import (
	"archive/tar"
	"errors"
	"os"
	"syscall"
	"time"
)

// device splits a device number as macOS does (sys/types.h).
func device(st *syscall.Stat_t) (major, minor int64) {
	return int64(st.Rdev) >> 24 & 0xff, int64(st.Rdev) & 0xffffff
}

func mknod(*os.File, string, *tar.Header) error {
	return errors.New("FIFOs and devices are not made on this system")
}

// setLinkTime leaves the time at which the link was made here.
func setLinkTime(*os.File, string, time.Time) error { return nil }

func xattrs(*os.File) map[string]string { return nil }

func setXattrs(*os.File, map[string]string, bool, func(string)) {}
