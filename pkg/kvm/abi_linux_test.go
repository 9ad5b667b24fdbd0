//go:build amd64

package kvm

import (
	"errors"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// kernelHeaders reads the headers of the kernel's interface, where installed.
func kernelHeaders(t *testing.T) *cHeader {
	t.Helper()
	h := newCHeader("__KERNEL_STRICT_NAMES")
	h.macros["SYNC_REGS_SIZE_BYTES"] = "2048"
	arch := "/usr/include/x86_64-linux-gnu/asm/kvm.h"
	if _, err := os.Stat(arch); err != nil {
		arch = "/usr/include/asm/kvm.h"
	}
	for _, path := range []string{arch, "/usr/include/linux/kvm.h"} {
		err := h.read(path)
		if errors.Is(err, fs.ErrNotExist) {
			t.Skipf("%v (install linux-libc-dev)", err)
		}
		require.NoError(t, err)
	}
	return h
}

func TestABINumbers(t *testing.T) {
	h := kernelHeaders(t)
	for _, c := range []cmd{
		cmdGetAPIVersion, cmdCreateVM, cmdCheckExtension, cmdGetVCPUMmapSize,
		cmdCreateVCPU, cmdSetUserMemoryRegion, cmdIRQLine, cmdIOEventFD, cmdEnableCap,
		cmdRun, cmdSetSignalMask, cmdGetSupportedCPUID,
		cmdSetTSSAddr, cmdSetIdentityMapAddr, cmdCreateIRQChip, cmdCreatePIT2, cmdGetClock,
		cmdGetRegs, cmdSetRegs, cmdGetSregs, cmdSetSregs, cmdGetMSRs, cmdSetMSRs, cmdSetFPU,
		cmdGetLAPIC, cmdSetLAPIC, cmdSetCPUID2, cmdGetMPState, cmdSetMPState, cmdGetVCPUEvents, cmdSetVCPUEvents, cmdGetTSCKHz,
	} {
		want, err := h.ioctl(c.name)
		require.NoError(t, err, c.name)
		require.Equal(t, want, uint64(c.nr), "%s: header %#x, table %#x", c.name, want, c.nr)
	}
	for name, got := range map[string]uint64{
		"KVM_API_VERSION":                 apiVersion,
		"KVM_CAP_IRQCHIP":                 capIRQChip,
		"KVM_CAP_USER_MEMORY":             capUserMemory,
		"KVM_CAP_SET_TSS_ADDR":            capSetTSSAddr,
		"KVM_CAP_EXT_CPUID":               capExtCPUID,
		"KVM_CAP_NR_MEMSLOTS":             capNRMemslots,
		"KVM_CAP_MP_STATE":                capMPState,
		"KVM_CAP_IOEVENTFD":               capIOEventFD,
		"KVM_CAP_SET_IDENTITY_MAP_ADDR":   capSetIdentityMap,
		"KVM_CAP_VCPU_EVENTS":             capVCPUEvents,
		"KVM_CAP_GET_TSC_KHZ":             capGetTSCKHz,
		"KVM_CAP_MAX_VCPUS":               capMaxVCPUs,
		"KVM_CAP_TSC_DEADLINE_TIMER":      capTSCDeadlineTimer,
		"KVM_CAP_READONLY_MEM":            capReadonlyMem,
		"KVM_CAP_IMMEDIATE_EXIT":          capImmediateExit,
		"KVM_CAP_PMU_CAPABILITY":          capPMUCapability,
		"KVM_EXIT_UNKNOWN":                exitUnknown,
		"KVM_EXIT_IO":                     exitIO,
		"KVM_EXIT_HLT":                    exitHLT,
		"KVM_EXIT_MMIO":                   exitMMIO,
		"KVM_EXIT_SHUTDOWN":               exitShutdown,
		"KVM_EXIT_FAIL_ENTRY":             exitFailEntry,
		"KVM_EXIT_INTERNAL_ERROR":         exitInternalError,
		"KVM_EXIT_SYSTEM_EVENT":           exitSystemEvent,
		"KVM_EXIT_IO_OUT":                 exitIOOut,
		"KVM_SYSTEM_EVENT_SHUTDOWN":       systemEventShutdown,
		"KVM_SYSTEM_EVENT_RESET":          systemEventReset,
		"KVM_IOEVENTFD_FLAG_DATAMATCH":    ioeventfdDataMatch,
		"KVM_MEM_READONLY":                memReadonly,
		"KVM_PIT_SPEAKER_DUMMY":           pitSpeakerDummy,
		"KVM_MP_STATE_RUNNABLE":           mpStateRunnable,
		"KVM_PMU_CAP_DISABLE":             pmuCapDisable,
		"KVM_CPUID_FLAG_SIGNIFCANT_INDEX": cpuidFlagIndex,
		"KVM_IOAPIC_NUM_PINS":             archIRQLines,
		"KVM_CLOCK_TSC_STABLE":            clockTSCStable,
	} {
		want, err := h.value(name)
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
}

func TestABIStructures(t *testing.T) {
	h := kernelHeaders(t)
	for _, s := range []struct {
		c     string
		goVal any
		array string            // the member that is a flexible array in C
		names map[string]string // of Go fields that are not named as in C
	}{
		{c: "kvm_userspace_memory_region", goVal: userspaceMemoryRegion{}},
		{c: "kvm_irq_level", goVal: irqLevel{}},
		{c: "kvm_ioeventfd", goVal: ioeventfd{}},
		{c: "kvm_enable_cap", goVal: enableCap{}},
		{c: "kvm_signal_mask", goVal: signalMask{}, array: "sigset", names: map[string]string{"set": "sigset"}},
		{c: "kvm_regs", goVal: regs{}},
		{c: "kvm_segment", goVal: segment{}},
		{c: "kvm_dtable", goVal: dtable{}},
		{c: "kvm_sregs", goVal: sregs{}},
		{c: "kvm_fpu", goVal: fpu{}},
		{c: "kvm_lapic_state", goVal: lapicState{}},
		{c: "kvm_msr_entry", goVal: msrEntry{}},
		{c: "kvm_msrs", goVal: msrs{}, array: "entries", names: map[string]string{"n": "nmsrs"}},
		{c: "kvm_cpuid_entry2", goVal: cpuidEntry{}},
		{c: "kvm_cpuid2", goVal: cpuid2{}, array: "entries", names: map[string]string{"n": "nent"}},
		{c: "kvm_mp_state", goVal: mpState{}, names: map[string]string{"state": "mpstate"}},
		{c: "kvm_pit_config", goVal: pitConfig{}},
		{c: "kvm_vcpu_events", goVal: vcpuEvents{}},
		{c: "kvm_clock_data", goVal: clockData{}},
	} {
		want, err := h.structLayout(s.c)
		require.NoError(t, err)
		size := uint64(reflect.TypeOf(s.goVal).Size())
		if s.array != "" {
			require.Equal(t, want.size, want.at[s.array], "%s ends in %s", s.c, s.array)
			require.Greater(t, size, want.size, s.c)
		} else {
			require.Equal(t, want.size, size, "sizeof %s", s.c)
		}
		offsets := map[string]uint64{}
		for name, at := range want.at {
			offsets[strings.ReplaceAll(name, "_", "")] = at
		}
		checked := 0
		for name, at := range goOffsets(reflect.TypeOf(s.goVal), "", 0) {
			if c, ok := s.names[name]; ok {
				name = c
			}
			c, ok := offsets[name]
			require.True(t, ok, "%s has no member %s", s.c, name)
			require.Equal(t, c, at, "offset of %s.%s", s.c, name)
			checked++
		}
		require.Positive(t, checked)
	}
}

// goOffsets names the fields as C does, without underscores.
func goOffsets(typ reflect.Type, prefix string, base uint64) map[string]uint64 {
	all := map[string]uint64{}
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Name == "_" {
			continue
		}
		name, at := prefix+strings.ToLower(f.Name), base+uint64(f.Offset)
		all[name] = at
		if f.Type.Kind() == reflect.Struct {
			for k, v := range goOffsets(f.Type, name+".", at) {
				all[k] = v
			}
		}
	}
	return all
}

func TestABIRun(t *testing.T) {
	l, err := kernelHeaders(t).structLayout("kvm_run")
	require.NoError(t, err)
	require.EqualValues(t, runSize, l.size)
	require.EqualValues(t, mmioWidth, l.at["mmio.len"]-l.at["mmio.data"])
	for name, got := range map[string]uint64{
		"immediate_exit": runImmediateExit, "exit_reason": runExitReason, "hw": runUnion,
		"io.direction": ioDirection, "io.size": ioSize, "io.port": ioPort, "io.count": ioCount, "io.data_offset": ioDataOffset,
		"mmio.phys_addr": mmioPhysAddr, "mmio.data": mmioData, "mmio.len": mmioLen, "mmio.is_write": mmioIsWrite,
		"hw.hardware_exit_reason": hwExitReason, "fail_entry.hardware_entry_failure_reason": failEntryReason,
		"internal.suberror": internalSuberror, "system_event.type": systemEventType,
	} {
		want, ok := l.at[name]
		require.True(t, ok, name)
		require.Equal(t, want, got, name)
	}
}

// TestABISizes: an ioctl that passes a structure encodes the size of our type
// or, if it ends in an array in C, of what precedes that.
func TestABISizes(t *testing.T) {
	for _, s := range []struct {
		c    cmd
		size uintptr
	}{
		{cmdSetUserMemoryRegion, sizeOf(userspaceMemoryRegion{})}, {cmdIRQLine, sizeOf(irqLevel{})},
		{cmdIOEventFD, sizeOf(ioeventfd{})},
		{cmdEnableCap, sizeOf(enableCap{})}, {cmdSetSignalMask, offsetOf(signalMask{}, "Set")},
		{cmdSetIdentityMapAddr, 8}, {cmdCreatePIT2, sizeOf(pitConfig{})}, {cmdGetClock, sizeOf(clockData{})},
		{cmdGetRegs, sizeOf(regs{})}, {cmdSetRegs, sizeOf(regs{})},
		{cmdGetSregs, sizeOf(sregs{})}, {cmdSetSregs, sizeOf(sregs{})},
		{cmdGetMSRs, offsetOf(msrs{}, "Entries")}, {cmdSetMSRs, offsetOf(msrs{}, "Entries")},
		{cmdSetFPU, sizeOf(fpu{})},
		{cmdGetLAPIC, sizeOf(lapicState{})}, {cmdSetLAPIC, sizeOf(lapicState{})},
		{cmdGetSupportedCPUID, offsetOf(cpuid2{}, "Entries")}, {cmdSetCPUID2, offsetOf(cpuid2{}, "Entries")},
		{cmdGetMPState, sizeOf(mpState{})}, {cmdSetMPState, sizeOf(mpState{})},
		{cmdGetVCPUEvents, sizeOf(vcpuEvents{})}, {cmdSetVCPUEvents, sizeOf(vcpuEvents{})},
	} {
		require.Equal(t, s.size, s.c.nr>>16&0x3fff, s.c.name)
	}
}

func sizeOf(v any) uintptr { return reflect.TypeOf(v).Size() }

func offsetOf(v any, field string) uintptr {
	f, _ := reflect.TypeOf(v).FieldByName(field)
	return f.Offset
}
