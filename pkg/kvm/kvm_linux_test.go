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
