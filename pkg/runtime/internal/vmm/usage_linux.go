package vmm

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ticks is USER_HZ, which Linux fixes at 100 for user space on all architectures
// of ours (proc(5), "clock ticks").
const ticks = time.Second / 100

// ReadUsage measures the process of this identity. It fails when there is none.
func ReadUsage(pid int, start uint64) (Usage, error) {
	stat, err := processStat(pid)
	if err != nil {
		return Usage{}, err
	}
	// proc(5): utime and stime are fields 14 and 15, starttime 22.
	var n [3]uint64
	for i, field := range []int{14, 15, 22} {
		if n[i], err = strconv.ParseUint(stat[field-3], 10, 64); err != nil {
			return Usage{}, fmt.Errorf("vmm: usage of process %d: %w", pid, err)
		}
	}
	if n[2] != start {
		return Usage{}, fmt.Errorf("vmm: usage of process %d: %w", pid, os.ErrProcessDone)
	}
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return Usage{}, err
	}
	f := strings.Fields(string(statm))
	if len(f) < 2 {
		return Usage{}, fmt.Errorf("vmm: usage of process %d: %w", pid, os.ErrProcessDone)
	}
	pages, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return Usage{}, fmt.Errorf("vmm: usage of process %d: %w", pid, err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return Usage{}, os.NewSyscallError("clock_gettime", err)
	}
	return Usage{
		PID: pid, Start: start, At: time.Duration(now.Nano()), Began: time.Duration(start) * ticks,
		CPU: time.Duration(n[0]+n[1]) * ticks, Memory: pages * uint64(os.Getpagesize()),
	}, nil
}

// processStat returns the fields of /proc/<pid>/stat from the third on: the name
// before them may hold anything.
func processStat(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	i := strings.LastIndexByte(string(b), ')')
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 20 || f[0] == "Z" {
		return nil, os.ErrProcessDone // a zombie runs nothing any more
	}
	return f, nil
}
