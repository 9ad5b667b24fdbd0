//go:build amd64

package kvm

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestProbe(t *testing.T) {
	openForTest(t)
	start := time.Now()
	r, err := Probe(t.Context())
	require.NoError(t, err)
	t.Logf("in %v\n%s", time.Since(start), r)
	require.Equal(t, apiVersion, r.APIVersion)
	require.Positive(t, r.MaxCPUs)
	require.Positive(t, r.TSCKHz)
	require.NotEmpty(t, r.Module)
	require.Positive(t, r.NsPerKick)
	require.Equal(t, r.Usable, len(r.Missing) == 0)
	require.Equal(t, r.Usable, r.Remedy == "")
	if r.Usable {
		require.Positive(t, r.NsPerInstruction)
		require.Positive(t, r.NsPerExit)
		require.Positive(t, r.NsPerPIO)
	}
	if os.Getenv("BOXLITE_REQUIRE_KVM") != "" {
		require.True(t, r.Usable, "%s", r)
	}
}

func TestProbeCancelled(t *testing.T) {
	openForTest(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Probe(ctx)
	require.ErrorIs(t, err, context.Canceled)
}
