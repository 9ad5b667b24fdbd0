package kvm

import (
	"math/bits"
	"slices"
)

// cpuidPolicy says what the CPUID of one vCPU depends on besides the host's.
type cpuidPolicy struct {
	id       int    // vCPU, and its APIC id
	cpus     int    // all in one package, one thread per core
	tscKHz   uint32 // KVM_GET_TSC_KHZ
	deadline bool   // KVM_CAP_TSC_DEADLINE_TIMER
	nested   bool   // show VMX or SVM

	intel bool   // of the host; set by cpuidFor, as is xcr0
	xcr0  uint32 // low half of the XCR0 bits the guest may set
}

// apicBusKHz is the rate of KVM's local APIC timer: one tick per nanosecond.
const apicBusKHz = 1_000_000

// Feature bits that the policy touches, by leaf and register.
const (
	leaf1ECXVMX      = 1 << 5
	leaf1ECXPDCM     = 1 << 15 // PMU capabilities MSR
	leaf1ECXX2APIC   = 1 << 21
	leaf1ECXDeadline = 1 << 24
	leaf1ECXOSXSAVE  = 1 << 27 // KVM follows CR4
	leaf1ECXHyper    = 1 << 31
	leaf1EDXHTT      = 1 << 28

	leaf6ECXEPB = 1 << 3

	leaf7EBXSGX   = 1 << 2
	leaf7EBXPT    = 1 << 25
	leaf7ECXSGXLC = 1 << 30
	leaf7EDXAMX   = 1<<22 | 1<<24 | 1<<25 // BF16, TILE, INT8
	xcr0AMX       = 1<<17 | 1<<18

	ext1ECXCmpLegacy = 1 << 1
	ext1ECXSVM       = 1 << 2
	ext1ECXIBS       = 1 << 10
	ext1ECXTopology  = 1 << 22
	ext1ECXPerf      = 1<<23 | 1<<24 | 1<<28 // PerfCtrExtCore, NB, LLC
)

// Bits of leaf 0x40000001 EAX (Documentation/virt/kvm/x86/cpuid.rst).
const (
	pvClockSource  = 1 << 0
	pvNopIODelay   = 1 << 1
	pvClockSource2 = 1 << 3
	pvStealTime    = 1 << 5
	pvEOI          = 1 << 6
	pvUnhalt       = 1 << 7
	pvTLBFlush     = 1 << 9
	pvSendIPI      = 1 << 11
	pvSchedYield   = 1 << 13
	pvClockStable  = 1 << 24

	// Asynchronous page faults (bits 4, 10, 14) stay off: they help where the
	// host swaps guests, and cost every guest an interrupt vector and a hot path
	// that a VMM must trust. So do POLL_CONTROL, which would let the guest
	// decide how long the host polls for it, and what serves migration.
	pvAlways = pvClockSource | pvNopIODelay | pvClockSource2 | pvStealTime | pvEOI | pvClockStable
	pvSMP    = pvUnhalt | pvTLBFlush | pvSendIPI | pvSchedYield
)

const (
	leafKVMSignature = 0x4000_0000
	leafKVMFeatures  = 0x4000_0001
	leafTiming       = 0x4000_0010
)

// cpuidFor derives the CPUID of one vCPU from what the host supports
// (KVM_GET_SUPPORTED_CPUID, KVM API §4.46). It does not change host.
func cpuidFor(host []cpuidEntry, p cpuidPolicy) []cpuidEntry {
	var maxLeaf, maxExt uint32
	for _, e := range host {
		switch {
		case e.Function == 0:
			maxLeaf, p.intel = e.EAX, e.EBX == 0x756e6547 // "Genu"
		case e.Function == 0x8000_0000:
			maxExt = e.EAX
		case e.Function == 0xd && e.Index == 0:
			p.xcr0 = e.EAX
		}
	}
	out := make([]cpuidEntry, 0, len(host)+8)
	for _, e := range host {
		if !dropLeaf(e.Function) {
			p.edit(&e)
			out = append(out, e)
		}
	}
	out = append(out, p.topology(0xb)...)
	if maxLeaf >= 0x1f {
		out = append(out, p.topology(0x1f)...)
	}
	if p.intel && maxLeaf >= 0x15 && p.tscKHz != 0 {
		// The crystal is the clock of the APIC timer; TSC = crystal * EBX / EAX, exactly.
		out = append(out, cpuidEntry{Function: 0x15, EAX: apicBusKHz, EBX: p.tscKHz, ECX: apicBusKHz * 1000})
	}
	if p.intel && maxLeaf >= 0x16 && p.tscKHz != 0 {
		mhz := (p.tscKHz + 500) / 1000
		out = append(out, cpuidEntry{Function: 0x16, EAX: mhz, EBX: mhz, ECX: 100})
	}
	if maxExt >= 0x8000_001e && !p.intel {
		// Core id, one thread per core, one node (AMD APM vol. 3 E.4.16).
		out = append(out, cpuidEntry{Function: 0x8000_001e, EAX: uint32(p.id), EBX: uint32(p.id) & 0xff})
	}
	out = append(out, cpuidEntry{Function: leafTiming, EAX: p.tscKHz, EBX: apicBusKHz})
	slices.SortStableFunc(out, func(a, b cpuidEntry) int {
		if a.Function != b.Function {
			return int(int64(a.Function) - int64(b.Function))
		}
		return int(int64(a.Index) - int64(b.Index))
	})
	return out
}

// dropLeaf names the leaves that the policy writes itself or has no use for.
// A leaf that is absent reads as zero.
func dropLeaf(function uint32) bool {
	switch function {
	case 0xb, 0x1f, 0x8000_001e, 0x8000_0026: // topology: of the host
		return true
	case 0x15, 0x16, leafTiming: // frequencies
		return true
	case 0x5, 0xa, 0x12, 0x14: // MWAIT, PMU, SGX, processor trace
		return true
	case 0x8000_001b, 0x8000_001c, 0x8000_001f, 0x8000_0022: // IBS, LWP, SEV, AMD's PMU
		return true
	}
	return false
}

func (p cpuidPolicy) edit(e *cpuidEntry) {
	width := p.idBits()
	switch e.Function {
	case 1:
		e.EBX = e.EBX&0x0000_ffff | min(uint32(1)<<width, 255)<<16 | uint32(p.id)<<24
		e.ECX = e.ECX&^(leaf1ECXPDCM|leaf1ECXOSXSAVE) | leaf1ECXX2APIC | leaf1ECXHyper
		if p.deadline {
			e.ECX |= leaf1ECXDeadline
		}
		if !p.nested {
			e.ECX &^= leaf1ECXVMX
		}
		setBit(&e.EDX, leaf1EDXHTT, p.cpus > 1)
	case 4, 0x8000_001d: // caches: the last level is shared by all, the others by nobody
		if e.EAX&0x1f == 0 {
			break // no more caches
		}
		e.EAX &= 0x3fff
		if e.EAX>>5&7 >= 3 {
			e.EAX |= (uint32(1)<<width - 1) << 14
		}
		if e.Function == 4 {
			e.EAX |= min(uint32(1)<<width-1, 0x3f) << 26 // core ids per package
		}
	case 6:
		e.ECX &^= leaf6ECXEPB
	case 7:
		if e.Index == 0 {
			e.EBX &^= leaf7EBXSGX | leaf7EBXPT
			e.ECX &^= leaf7ECXSGXLC
			if p.xcr0&xcr0AMX != xcr0AMX {
				// The process has no permission for tile state (arch_prctl), so leaf
				// 0xd lacks it, and the instructions would fault.
				e.EDX &^= leaf7EDXAMX
			}
		}
	case 0x8000_0001:
		e.ECX &^= ext1ECXIBS | ext1ECXPerf
		if !p.nested {
			e.ECX &^= ext1ECXSVM
		}
		setBit(&e.ECX, ext1ECXCmpLegacy, p.cpus > 1 && e.ECX&ext1ECXTopology != 0)
	case 0x8000_0008:
		if p.intel {
			break
		}
		e.ECX = width<<12 | uint32(p.cpus-1)&0xff // ApicIdSize, NC
	case 0x8000_000a:
		if !p.nested {
			e.EAX, e.EBX, e.ECX, e.EDX = 0, 0, 0, 0
		}
	case leafKVMSignature:
		e.EAX = leafTiming
	case leafKVMFeatures:
		keep := uint32(pvAlways)
		if p.cpus > 1 {
			keep |= pvSMP
		}
		e.EAX &= keep
		e.EDX = 0 // KVM_HINTS_REALTIME: vCPUs are preempted
	}
}

// idBits is the width of the part of an APIC id that tells cores apart.
func (p cpuidPolicy) idBits() uint32 { return uint32(bits.Len(uint(p.cpus - 1))) }

// topology is leaf 0xb or 0x1f: a level of threads and one of cores.
func (p cpuidPolicy) topology(function uint32) []cpuidEntry {
	const levelThread, levelCore = 1 << 8, 2 << 8
	id := uint32(p.id)
	return []cpuidEntry{
		{Function: function, Index: 0, Flags: cpuidFlagIndex, EBX: 1, ECX: levelThread, EDX: id},
		{Function: function, Index: 1, Flags: cpuidFlagIndex, EAX: p.idBits(), EBX: uint32(p.cpus), ECX: levelCore | 1, EDX: id},
		{Function: function, Index: 2, Flags: cpuidFlagIndex, ECX: 2, EDX: id},
	}
}

func setBit(r *uint32, bit uint32, on bool) {
	*r &^= bit
	if on {
		*r |= bit
	}
}
