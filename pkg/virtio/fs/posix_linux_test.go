package fs_test

import (
	"os"
	"testing"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/hanwen/go-fuse/v2/posixtest"
	"github.com/stretchr/testify/require"
)

// TestPosix is go-fuse's suite of what programs expect of a file system.
func TestPosix(t *testing.T) {
	dir := onShare(t)
	for name, f := range posixtest.All {
		switch name {
		case "OpenSymlinkRace": // calls it an error that the kernel follows a link which is there
			continue
		case "FcntlFlockLocksFile": // wants the locks of one process to exclude each other, as no kernel does
			continue
		case "DirSeek", "FdLeak", "FstatDeleted", "ReadDirBasic": // a hundred files or more: in guests with BOXLITE_SOAK
			if os.Getenv(shareDir) != "" && !machinetest.Soak() {
				continue
			}
		}
		t.Run(name, func(t *testing.T) {
			mnt, err := os.MkdirTemp(dir, "posix")
			require.NoError(t, err)
			defer os.RemoveAll(mnt)
			f(t, mnt)
		})
	}
}
