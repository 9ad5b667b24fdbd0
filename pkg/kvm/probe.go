package kvm

import (
	"fmt"
	"strings"
)

// Report is what [Probe] finds out about the host.
type Report struct {
	Usable  bool     // a Linux kernel can run
	Missing []string // what a kernel needs and this KVM cannot run; empty when Usable
	Remedy  string   // what to do; empty when Usable

	Module     string // "kvm_amd", "kvm_intel", … or "kvm" where it is not known
	APIVersion int
	MaxCPUs    int  // of one VM
	Nested     bool // the host is a virtual machine itself
	TSCKHz     int
	TSCStable  bool // KVM found the host's TSC fit for all guests' clocks

	// Costs in nanoseconds of wall time, of one instruction of kernel code in a
	// tight loop, of one MMIO and one port write up to here and back, and of
	// one kick of a stopped vCPU. 0 where it could not be measured.
	NsPerInstruction, NsPerExit, NsPerPIO, NsPerKick float64
}

// String is the report in lines of "name value".
func (r Report) String() string {
	var b strings.Builder
	usable := "yes"
	if !r.Usable {
		usable = "no, cannot run: " + strings.Join(r.Missing, ", ")
	}
	fmt.Fprintf(&b, "usable        %s\n", usable)
	if r.Remedy != "" {
		fmt.Fprintf(&b, "remedy        %s\n", r.Remedy)
	}
	fmt.Fprintf(&b, "module        %s, API %d, nested %t, at most %d CPUs\n", r.Module, r.APIVersion, r.Nested, r.MaxCPUs)
	fmt.Fprintf(&b, "TSC           %d kHz, stable %t\n", r.TSCKHz, r.TSCStable)
	fmt.Fprintf(&b, "instruction   %.1f ns\n", r.NsPerInstruction)
	fmt.Fprintf(&b, "MMIO exit     %.0f ns\n", r.NsPerExit)
	fmt.Fprintf(&b, "port exit     %.0f ns\n", r.NsPerPIO)
	fmt.Fprintf(&b, "kick          %.0f ns\n", r.NsPerKick)
	return b.String()
}
