package vmm

import (
	"errors"
	"os"
	"strconv"
	"syscall"
)

// StartTime returns when a process started, in clock ticks since the host's
// boot, or 0 when there is no such process. A pid together with it names one
// process for as long as the host is up.
func StartTime(pid int) uint64 {
	t, _ := startTime(pid)
	return t
}

// Alive reports whether the process of this identity runs, also when that cannot
// be told.
func Alive(pid int, start uint64) bool {
	t, err := startTime(pid)
	return err != nil || t == start
}

// startTime is 0 where there is no such process; an error means that it cannot be told.
func startTime(pid int) (uint64, error) {
	f, err := processStat(pid)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, os.ErrProcessDone) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	return strconv.ParseUint(f[22-3], 10, 64)
}
