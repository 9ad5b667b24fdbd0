//go:build amd64

package kvm

import (
	"encoding/binary"

	"github.com/anthropics/boxlite/pkg/hv"
)

var le = binary.LittleEndian // x86 and arm64 hosts both are

// decode fills e from kvm_run (KVM API §5) in place. It reports false for what
// no device can be asked about and the guest may simply go on from.
func (c *vcpu) decode(e *hv.Exit) bool {
	run := c.run
	reason := le.Uint32(run[runExitReason:])
	*e = hv.Exit{Raw: uint64(reason)}
	switch reason {
	case exitMMIO:
		n := min(int(le.Uint32(run[mmioLen:])), mmioWidth)
		data := run[mmioData : mmioData+n : mmioData+n]
		write := run[mmioIsWrite] != 0
		if n == 0 || n&(n-1) != 0 {
			// Part of an access across the border of a page: no register is there.
			if !write {
				floatingBus(data)
			}
			return false
		}
		e.Reason, e.Write, e.Width = hv.ExitMMIO, write, n
		e.Addr, e.Data = le.Uint64(run[mmioPhysAddr:]), data
	case exitIO:
		width, count := int(run[ioSize]), int(le.Uint32(run[ioCount:]))
		off, n := le.Uint64(run[ioDataOffset:]), uint64(width*count)
		if off > uint64(len(run)) || n > uint64(len(run))-off {
			e.Reason, e.Detail = hv.ExitFailed, off
			return true
		}
		e.Reason, e.Write, e.Width = hv.ExitPIO, run[ioDirection] == exitIOOut, width
		e.Addr, e.Data = uint64(le.Uint16(run[ioPort:])), run[off:off+n:off+n]
	case exitHLT:
		e.Reason = hv.ExitHalt
	case exitShutdown:
		e.Reason = hv.ExitShutdown
	case exitSystemEvent:
		e.Detail = uint64(le.Uint32(run[systemEventType:]))
		switch e.Detail {
		case systemEventShutdown:
			e.Reason = hv.ExitShutdown
		case systemEventReset:
			e.Reason = hv.ExitReset
		default:
			e.Reason = hv.ExitFailed
		}
	case exitFailEntry:
		e.Reason, e.Detail = hv.ExitFailed, le.Uint64(run[failEntryReason:])
	case exitInternalError:
		e.Reason, e.Detail = hv.ExitFailed, uint64(le.Uint32(run[internalSuberror:]))
	case exitUnknown:
		e.Detail = le.Uint64(run[hwExitReason:])
	}
	return true
}

// floatingBus is what a read of nothing returns.
func floatingBus(p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}
