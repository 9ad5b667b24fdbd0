package vmm

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// StartTime returns when a process started, in clock ticks since the host's
// boot, or 0 when there is no such process. A pid together with it names one
// process for as long as the host is up.
func StartTime(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything; the fields after it are counted from 3.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0
	}
	f := bytes.Fields(b[i+1:])
	if len(f) < 20 || f[0][0] == 'Z' {
		return 0 // a zombie runs nothing any more
	}
	t, _ := strconv.ParseUint(string(f[19]), 10, 64)
	return t
}
