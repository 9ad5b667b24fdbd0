package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// processCPU returns the user and system time of a process of this machine.
func processCPU(pid int) (time.Duration, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The name in parentheses may hold anything; behind it is field 3 (proc(5)).
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 13 {
		return 0, false
	}
	user, err1 := strconv.ParseUint(string(f[14-3]), 10, 62)
	system, err2 := strconv.ParseUint(string(f[15-3]), 10, 62)
	const tick = time.Second / 100 // USER_HZ
	return time.Duration(user+system) * tick, err1 == nil && err2 == nil
}
