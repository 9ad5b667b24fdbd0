//go:build !linux

package main

import "time"

// processCPU is not known here.
func processCPU(int) (time.Duration, bool) { return 0, false }
