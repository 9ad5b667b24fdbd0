package kvm

import (
	"fmt"
	"math/bits"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/hv"
)

// Two hosts as KVM_GET_SUPPORTED_CPUID reports them, cut down to what the
// policy looks at, with every bit on that it must take away.
var (
	hostIntel = []cpuidEntry{
		{Function: 0, EAX: 0x20, EBX: 0x756e6547, ECX: 0x6c65746e, EDX: 0x49656e69},
		{Function: 1, EAX: 0x806f8, EBX: 0x07400800, ECX: ^uint32(0), EDX: 0x1fabfbff},
		{Function: 4, Index: 0, Flags: cpuidFlagIndex, EAX: 0xfc004121, EBX: 0x02c0003f, ECX: 63},
		{Function: 4, Index: 2, Flags: cpuidFlagIndex, EAX: 0xfc01c143, EBX: 0x03c0003f, ECX: 2047},
		{Function: 4, Index: 3, Flags: cpuidFlagIndex, EAX: 0xfc1fc163, EBX: 0x0380003f, ECX: 0xdfff},
		{Function: 4, Index: 4, Flags: cpuidFlagIndex},
		{Function: 5, EAX: 64, EBX: 64, ECX: 3},
		{Function: 6, EAX: 4, ECX: 9},
		{Function: 7, Index: 0, Flags: cpuidFlagIndex, EAX: 2, EBX: ^uint32(0), ECX: ^uint32(0), EDX: ^uint32(0)},
		{Function: 0xa, EAX: 0x07300802, EDX: 0x603},
		{Function: 0xb, Index: 0, Flags: cpuidFlagIndex, EAX: 1, EBX: 2, ECX: 0x100, EDX: 7},
		{Function: 0xd, Index: 0, Flags: cpuidFlagIndex, EAX: 0x2e7, EBX: 2696, ECX: 2696},
		{Function: 0x12, EAX: 1}, {Function: 0x14, EAX: 1}, {Function: 0x15, EAX: 2, EBX: 200}, {Function: 0x16, EAX: 2000},
		{Function: 0x1f, Index: 0, Flags: cpuidFlagIndex, EAX: 1, EBX: 2, ECX: 0x100, EDX: 7},
		{Function: 0x40000000, EAX: 0x40000001, EBX: 0x4b4d564b, ECX: 0x564b4d56, EDX: 0x4d},
		{Function: 0x40000001, EAX: 0x01007efb, EDX: 1},
		{Function: 0x80000000, EAX: 0x80000008},
		{Function: 0x80000001, ECX: 0x121, EDX: 0x2c100800},
		{Function: 0x80000008, EAX: 0x3934},
	}
	hostAMD = []cpuidEntry{
		{Function: 0, EAX: 0x10, EBX: 0x68747541, ECX: 0x444d4163, EDX: 0x69746e65},
		{Function: 1, EAX: 0xa00f11, EBX: 0x03400800, ECX: 0xfffa3203, EDX: 0x178bfbff},
		{Function: 6, EAX: 4},
		{Function: 7, Index: 0, Flags: cpuidFlagIndex, EBX: 0x219c97a9, ECX: 0x40069c, EDX: 0x10},
		{Function: 0xb, Index: 0, Flags: cpuidFlagIndex},
		{Function: 0xd, Index: 0, Flags: cpuidFlagIndex, EAX: 0x207},
		{Function: 0x40000000, EAX: 0x40000001, EBX: 0x4b4d564b, ECX: 0x564b4d56, EDX: 0x4d},
		{Function: 0x40000001, EAX: 0x01007efb},
		{Function: 0x80000000, EAX: 0x80000022},
		{Function: 0x80000001, ECX: ^uint32(0), EDX: 0x2fd3fbff},
		{Function: 0x80000008, EAX: 0x3030, EBX: 0x111ef657, ECX: 0x713f},
		{Function: 0x8000000a, EAX: 1, EBX: 8, EDX: 0x1119b9},
		{Function: 0x8000001d, Index: 0, Flags: cpuidFlagIndex, EAX: 0x4121, EBX: 0x1c0003f, ECX: 63},
		{Function: 0x8000001d, Index: 3, Flags: cpuidFlagIndex, EAX: 0x3c163, EBX: 0x3c0003f, ECX: 0x7fff, EDX: 1},
		{Function: 0x8000001d, Index: 4, Flags: cpuidFlagIndex},
		{Function: 0x8000001e, EAX: 7, EBX: 0x103, ECX: 0x300},
		{Function: 0x8000001f, EAX: 0x1000b}, {Function: 0x80000022, EAX: 1},
	}
)

func leaf(table []cpuidEntry, function, index uint32) cpuidEntry {
	for _, e := range table {
		if e.Function == function && e.Index == index {
			return e
		}
	}
	return cpuidEntry{}
}

func TestCPUIDTopology(t *testing.T) {
	for name, host := range map[string][]cpuidEntry{"intel": hostIntel, "amd": hostAMD} {
		for _, cpus := range []int{1, 2, 3, 4, 8, 65, 254} {
			t.Run(fmt.Sprintf("%s/%d", name, cpus), func(t *testing.T) {
				width := uint32(bits.Len(uint(cpus - 1)))
				for id := range cpus {
					c := cpuidFor(host, cpuidPolicy{id: id, cpus: cpus, tscKHz: 2_500_000, deadline: true})
					one := leaf(c, 1, 0)
					require.EqualValues(t, id, one.EBX>>24, "APIC id")
					require.Equal(t, min(uint32(1)<<width, 255), one.EBX>>16&0xff, "logical CPUs")
					require.Equal(t, host[1].EBX&0xffff, one.EBX&0xffff, "CLFLUSH and brand")
					require.Equal(t, cpus > 1, one.EDX&leaf1EDXHTT != 0)
					for _, f := range []uint32{0xb, 0x1f} {
						if f == 0x1f && name == "amd" {
							require.Zero(t, leaf(c, f, 0), "beyond the last leaf")
							continue
						}
						threads, cores, end := leaf(c, f, 0), leaf(c, f, 1), leaf(c, f, 2)
						require.Equal(t, [3]uint32{0, 1, 0x100}, [3]uint32{threads.EAX, threads.EBX, threads.ECX})
						require.Equal(t, [3]uint32{width, uint32(cpus), 0x201}, [3]uint32{cores.EAX, cores.EBX, cores.ECX})
						require.Equal(t, [3]uint32{0, 0, 2}, [3]uint32{end.EAX, end.EBX, end.ECX})
						for _, e := range []cpuidEntry{threads, cores, end} {
							require.EqualValues(t, id, e.EDX, "x2APIC id")
							require.EqualValues(t, cpuidFlagIndex, e.Flags)
						}
					}
					caches := map[string]uint32{"intel": 4, "amd": 0x8000001d}[name]
					require.Zero(t, leaf(c, caches, 0).EAX>>14&0xfff, "L1 is a core's own")
					require.Equal(t, uint32(1)<<width-1, leaf(c, caches, 3).EAX>>14&0xfff, "L3 is everybody's")
					require.Zero(t, leaf(c, caches, 4).EAX)
					if name == "intel" {
						require.Equal(t, min(uint32(1)<<width-1, 63), leaf(c, 4, 0).EAX>>26, "cores in the package")
						require.Zero(t, leaf(c, 0x80000008, 0).ECX)
						continue
					}
					require.Equal(t, width<<12|uint32(cpus-1), leaf(c, 0x80000008, 0).ECX)
					node := leaf(c, 0x8000001e, 0)
					require.Equal(t, [3]uint32{uint32(id), uint32(id), 0}, [3]uint32{node.EAX, node.EBX, node.ECX})
					require.Equal(t, cpus > 1, leaf(c, 0x80000001, 0).ECX&ext1ECXCmpLegacy != 0)
				}
			})
		}
	}
}

func TestCPUIDFeatures(t *testing.T) {
	for name, host := range map[string][]cpuidEntry{"intel": hostIntel, "amd": hostAMD} {
		for _, nested := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/nested=%t", name, nested), func(t *testing.T) {
				before := fmt.Sprint(host)
				c := cpuidFor(host, cpuidPolicy{cpus: 1, tscKHz: 2_599_123, deadline: true, nested: nested})
				require.Equal(t, before, fmt.Sprint(host), "the host's table is shared")
				one, ext := leaf(c, 1, 0), leaf(c, 0x80000001, 0)
				require.NotZero(t, one.ECX&leaf1ECXHyper)
				require.NotZero(t, one.ECX&leaf1ECXDeadline)
				require.NotZero(t, one.ECX&leaf1ECXX2APIC)
				require.Zero(t, one.ECX&(leaf1ECXOSXSAVE|leaf1ECXPDCM))
				require.Zero(t, ext.ECX&(ext1ECXPerf|ext1ECXIBS))
				if name == "intel" {
					require.Equal(t, nested, one.ECX&leaf1ECXVMX != 0)
				} else {
					require.Equal(t, nested, ext.ECX&ext1ECXSVM != 0)
					require.Equal(t, nested, leaf(c, 0x8000000a, 0).EDX != 0)
				}
				require.Zero(t, leaf(c, 6, 0).ECX&leaf6ECXEPB)
				require.NotZero(t, leaf(c, 6, 0).EAX&4, "ARAT: the APIC timer never stops")
				seven := leaf(c, 7, 0)
				require.Zero(t, seven.EBX&(leaf7EBXSGX|leaf7EBXPT))
				require.Zero(t, seven.EDX&leaf7EDXAMX, "leaf 0xd has no tile state")
				for _, f := range []uint32{5, 0xa, 0x12, 0x14, 0x8000001f, 0x80000022} {
					require.Zero(t, leaf(c, f, 0), "leaf %#x", f)
				}
				if name == "intel" {
					crystal := leaf(c, 0x15, 0)
					require.EqualValues(t, 2_599_123_000, uint64(crystal.ECX)*uint64(crystal.EBX)/uint64(crystal.EAX))
					require.EqualValues(t, 2599, leaf(c, 0x16, 0).EAX)
				} else {
					require.Zero(t, leaf(c, 0x15, 0), "beyond the last leaf")
				}
				require.EqualValues(t, leafTiming, leaf(c, leafKVMSignature, 0).EAX)
				require.EqualValues(t, 0x4b4d564b, leaf(c, leafKVMSignature, 0).EBX)
				require.Equal(t, cpuidEntry{Function: leafTiming, EAX: 2_599_123, EBX: apicBusKHz}, leaf(c, leafTiming, 0))
				require.EqualValues(t, pvAlways, leaf(c, leafKVMFeatures, 0).EAX)
				require.Zero(t, leaf(c, leafKVMFeatures, 0).EDX, "no promise that vCPUs are never preempted")
				smp := cpuidFor(host, cpuidPolicy{cpus: 2})
				require.EqualValues(t, pvAlways|pvSMP, leaf(smp, leafKVMFeatures, 0).EAX)
				require.Zero(t, leaf(smp, 1, 0).ECX&leaf1ECXDeadline&^host[1].ECX)
			})
		}
	}
}

func TestCPUIDKeepsTiles(t *testing.T) {
	host := append([]cpuidEntry(nil), hostIntel...)
	for i := range host {
		if host[i].Function == 0xd {
			host[i].EAX |= xcr0AMX
		}
	}
	require.EqualValues(t, leaf7EDXAMX, leaf(cpuidFor(host, cpuidPolicy{cpus: 1}), 7, 0).EDX&leaf7EDXAMX)
}

// TestGuestSeesCPUID asks from inside, where KVM has the last word.
func TestGuestSeesCPUID(t *testing.T) {
	p := probeMachineForTest(t)
	khz, err := ioctlInt(p.cpu.fd, cmdGetTSCKHz, 0)
	require.NoError(t, err)
	ask := func(function, index uint32) (r [4]uint32) {
		t.Helper()
		require.NoError(t, p.reset(guestCPUID, nil, false))
		p.setEntry(t, uint64(function), uint64(index))
		for i := range r {
			r[i] = uint32(p.wantOut(t))
		}
		return r
	}
	require.Equal(t, [4]uint32{leafTiming, 0x4b4d564b, 0x564b4d56, 0x4d}, ask(leafKVMSignature, 0))
	require.Equal(t, [4]uint32{uint32(khz), apicBusKHz, 0, 0}, ask(leafTiming, 0))
	features := ask(leafKVMFeatures, 0)
	require.Zero(t, features[0]&^uint32(pvAlways))
	require.NotZero(t, features[0]&pvClockSource2)
	one := ask(1, 0)
	require.Zero(t, one[1]>>24, "APIC id")
	require.NotZero(t, one[2]&leaf1ECXHyper)
	require.NotZero(t, one[2]&leaf1ECXDeadline, "or the guest calibrates its timer")
	require.Zero(t, one[2]&leaf1ECXVMX)
	require.Zero(t, ask(0x80000001, 0)[2]&ext1ECXSVM)
	require.Equal(t, [4]uint32{0, 1, 0x201, 0}, ask(0xb, 1))
	require.Equal(t, [4]uint32{}, ask(0xa, 0))
}

func TestGuestSeesMSRs(t *testing.T) {
	p := probeMachineForTest(t)
	read := func(msr uint32) uint64 {
		t.Helper()
		require.NoError(t, p.reset(guestRDMSR, nil, false))
		p.setEntry(t, uint64(msr), 0)
		low := p.wantOut(t)
		return low | p.wantOut(t)<<32
	}
	require.EqualValues(t, patReset, read(msrPAT))
	require.EqualValues(t, mtrrEnableWriteBack, read(msrMTRRDefType))
	require.NotZero(t, read(msrMiscEnable)&miscEnableFastString)
	apicBase := read(0x1b)
	require.EqualValues(t, 0xfee00000, apicBase&^0xfff)
	require.EqualValues(t, 0x900, apicBase&0xd00, "boot CPU, xAPIC, on")
}

func TestLAPICWiring(t *testing.T) {
	p := probeMachineForTest(t)
	var l lapicState
	_, err := ioctlPtr(p.cpu.fd, cmdGetLAPIC, &l)
	require.NoError(t, err)
	require.EqualValues(t, apicExtINT, le.Uint32(l.Regs[apicLVT0:]))
	require.EqualValues(t, apicNMI, le.Uint32(l.Regs[apicLVT1:]))
}

// TestOptions looks at what the options change for the guest.
func TestOptions(t *testing.T) {
	openForTest(t)
	for _, o := range []Options{{}, {PIT: true}, {Nested: true}} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			s, err := openSystem(devicePath, o)
			require.NoError(t, err)
			defer s.Close()
			p := machineOn(t, s)
			require.NoError(t, p.reset(guestIn, nil, false))
			p.setEntry(t, 0x40, 0) // counter 0 of the PIT
			var e hv.Exit
			require.NoError(t, p.cpu.Run(&e))
			require.Equal(t, hv.ExitPIO, e.Reason)
			if o.PIT {
				require.EqualValues(t, 0x80, e.Addr, "the kernel answered")
			} else {
				require.EqualValues(t, 0x40, e.Addr)
			}

			require.NoError(t, p.reset(guestCPUID, nil, false))
			p.setEntry(t, 0x80000001, 0)
			p.wantOut(t)
			p.wantOut(t)
			svm := p.wantOut(t)&ext1ECXSVM != 0
			require.NoError(t, p.reset(guestCPUID, nil, false))
			p.setEntry(t, 1, 0)
			p.wantOut(t)
			p.wantOut(t)
			vmx := p.wantOut(t)&leaf1ECXVMX != 0
			hostVMX := leaf(s.arch.cpuid, 1, 0).ECX&leaf1ECXVMX != 0
			hostSVM := leaf(s.arch.cpuid, 0x80000001, 0).ECX&ext1ECXSVM != 0
			require.Equal(t, o.Nested && hostVMX, vmx)
			require.Equal(t, o.Nested && hostSVM, svm)
		})
	}
}

// setEntry gives the guest that reset loaded its two arguments.
func (p *probeMachine) setEntry(t *testing.T, rbx, rsi uint64) {
	t.Helper()
	_, err := ioctlPtr(p.cpu.fd, cmdSetRegs, &regs{RIP: probeCodeAddr, RSP: probeStackAddr, RBX: rbx, RSI: rsi, RFLAGS: rflagsReserved})
	require.NoError(t, err)
}

// wantOut runs to a write of port 0x80.
func (p *probeMachine) wantOut(t *testing.T) uint64 {
	t.Helper()
	var e hv.Exit
	require.NoError(t, p.cpu.Run(&e))
	require.True(t, e.Reason == hv.ExitPIO && e.Write && e.Addr == 0x80, "%+v", e)
	var v [8]byte
	copy(v[:], e.Data)
	return le.Uint64(v[:])
}
