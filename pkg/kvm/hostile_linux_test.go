//go:build amd64

package kvm

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/hv"
)

// TestHostile24DeadGuest: whatever a guest does to its CPU, Run reports it or
// can be ended by a kick.
func TestHostile24DeadGuest(t *testing.T) {
	for _, c := range []struct {
		name string
		code []byte
		want hv.Reason // ExitKicked: nothing by itself
	}{
		{"TripleFault", guestFault, hv.ExitShutdown},
		{"HaltWithInterruptsOff", guestHalt, hv.ExitKicked},
		{"FetchFromNowhere", guestFetch, hv.ExitFailed},
		{"Spin", guestSpin, hv.ExitKicked},
		{"EndlessPortExits", probePIO, hv.ExitKicked},
		{"EndlessMMIOExits", probeMMIO, hv.ExitKicked},
		{"EndlessString", guestStrings, hv.ExitKicked},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := probeMachineForTest(t)
			require.NoError(t, p.reset(c.code, nil, false))
			var e hv.Exit
			start := time.Now()
			patience := time.Minute // for what ends by itself: the emulator may be slow
			if c.want == hv.ExitKicked {
				patience = 20 * time.Millisecond
			}
			kick := time.AfterFunc(patience, func() { _ = p.cpu.Kick() })
			defer kick.Stop()
			for {
				require.NoError(t, p.cpu.Run(&e))
				if e.Reason != hv.ExitPIO && e.Reason != hv.ExitMMIO {
					break
				}
			}
			t.Logf("%v after %v", e.Reason, time.Since(start))
			require.Equal(t, c.want, e.Reason, "%+v", e)
			if c.want == hv.ExitFailed {
				require.EqualValues(t, exitInternalError, e.Raw)
				require.EqualValues(t, 1, e.Detail, "KVM_INTERNAL_ERROR_EMULATION")
			}
			registers, err := p.cpu.DumpRegisters()
			require.NoError(t, err, "for the crash report")
			require.Contains(t, registers, "rip ")
		})
	}
}
