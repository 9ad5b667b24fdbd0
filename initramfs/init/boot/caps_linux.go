package boot

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// dropBounding takes a capability from every thread's bounding set.
func dropBounding(c uintptr) error {
	if _, _, e := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); e != 0 {
		return os.NewSyscallError("dropping CAP_SYS_BOOT", e)
	}
	return nil
}
