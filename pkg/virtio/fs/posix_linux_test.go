package fs_test

import (
	"os"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// posixDir is in the environment of a test process in the guest.
const posixDir = "BOXLITE_FS_POSIX"

// TestPosix is go-fuse's suite of what programs expect of a file system. Here it
// runs on the host's, which shows that the suite is right; TestGuestMounts runs it
// in the guest, on shares.
func TestPosix(t *testing.T) {
	dir := os.Getenv(posixDir)
	if dir == "" {
		dir = t.TempDir()
	}
	for name, f := range posixtest.All {
		switch name {
		case "OpenSymlinkRace": // calls it an error that the kernel follows a link which is there
			continue
		case "FcntlFlockLocksFile": // wants the locks of one process to exclude each other, as no kernel does
			continue
		}
		t.Run(name, func(t *testing.T) {
			mnt, err := os.MkdirTemp(dir, "posix")
			if err != nil {
				t.Fatal(err)
			}
			f(t, mnt)
		})
	}
}
