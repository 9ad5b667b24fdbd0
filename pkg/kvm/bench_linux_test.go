//go:build amd64

package kvm

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/hv"
)

// BenchmarkRun measures one round trip from the guest and back, by reason.
func BenchmarkRun(b *testing.B) {
	for _, c := range []struct {
		name string
		code []byte
		want hv.Reason
	}{{"port", probePIO, hv.ExitPIO}, {"mmio", probeMMIO, hv.ExitMMIO}} {
		b.Run(c.name, func(b *testing.B) {
			p := probeMachineForTest(b)
			require.NoError(b, p.reset(c.code, nil, false))
			var e hv.Exit
			require.NoError(b, p.cpu.Run(&e))
			b.ReportAllocs()
			for b.Loop() {
				if err := p.cpu.Run(&e); err != nil || e.Reason != c.want {
					b.Fatalf("%+v, %v", e, err)
				}
			}
		})
	}
	b.Run("kick", func(b *testing.B) {
		p := probeMachineForTest(b)
		require.NoError(b, p.reset(probeLoop, nil, false))
		var e hv.Exit
		b.ReportAllocs()
		for b.Loop() {
			if err := p.cpu.Kick(); err != nil {
				b.Fatal(err)
			}
			if err := p.cpu.Run(&e); err != nil || e.Reason != hv.ExitKicked {
				b.Fatalf("%+v, %v", e, err)
			}
		}
	})
}

// probeMachineForTest is a VM with a vCPU on the calling thread, which ends with the test.
func probeMachineForTest(tb testing.TB) *probeMachine {
	tb.Helper()
	return machineOn(tb, openForTest(tb).(*system))
}

func machineOn(tb testing.TB, s *system) *probeMachine {
	tb.Helper()
	runtime.LockOSThread()
	p, err := newProbeMachine(tb.Context(), s)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, p.close()) })
	return p
}
