package vmm

import "time"

// Usage is what a VMM process has used so far.
type Usage struct {
	PID   int
	Start uint64 // with PID, the process's identity
	At    time.Duration
	Began time.Duration // when the process started, on the clock of At
	CPU   time.Duration // user and system time, the guest's included
	// Memory is in bytes: what of the process, guest RAM included, is in the host's memory.
	Memory uint64
}
