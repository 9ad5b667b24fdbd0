package main

import (
	"fmt"
	"time"
)

func readTSC() uint64

// tscParameter tells the emulated machine how fast its TSC runs, which is this host's.
// Its own first measurement needs an undisturbed emulator for some milliseconds, and
// on a busy host it can be off by any factor: clocks inside would then be, too.
func tscParameter() string {
	read := func() (uint64, time.Time) {
		var tsc uint64
		var at time.Time
		best := time.Hour
		for range 100 { // one of these is not interrupted
			before := time.Now()
			n := readTSC()
			if d := time.Since(before); d < best {
				best, tsc, at = d, n, before
			}
		}
		return tsc, at
	}
	from, start := read()
	time.Sleep(20 * time.Millisecond)
	to, end := read()
	if khz := float64(to-from) / float64(end.Sub(start)) * 1e6; khz > 1e5 && khz < 1e8 {
		return fmt.Sprintf(" tsc_early_khz=%.0f", khz)
	}
	return "" // an odd TSC; it may find out itself
}
