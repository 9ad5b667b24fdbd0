//go:build amd64

package kvm

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/hv"
	"github.com/anthropics/boxlite/pkg/hv/hvtest"
)

// openForTest skips only where there is no KVM to use, and never where KVM is required.
func openForTest(t testing.TB) hv.Hypervisor {
	t.Helper()
	h, err := Open()
	absent := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)
	if absent && os.Getenv("BOXLITE_REQUIRE_KVM") == "" {
		t.Skipf("%v", err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

func TestConformance(t *testing.T) { hvtest.Run(t, openForTest) }

// TestSetEntryAgain starts over while an access waits for its completion, which
// must not touch the new registers.
func TestSetEntryAgain(t *testing.T) {
	p := probeMachineForTest(t)
	var e hv.Exit
	for range 5 {
		require.NoError(t, p.reset(probePIO, nil, false))
		for range 3 {
			require.NoError(t, p.cpu.Run(&e))
			require.True(t, e.Reason == hv.ExitPIO && e.Write && e.Addr == 0x80, "%+v", e)
			var r regs
			_, err := ioctlPtr(p.cpu.fd, cmdGetRegs, &r)
			require.NoError(t, err)
			require.Less(t, r.RIP, uint64(probeCodeAddr+len(probePIO)))
		}
		require.NoError(t, p.reset(guestIn, nil, false))
		p.setEntry(t, 0x511, 0)
		require.NoError(t, p.cpu.Run(&e))
		require.True(t, e.Reason == hv.ExitPIO && !e.Write && e.Addr == 0x511, "%+v", e)
	}
}
