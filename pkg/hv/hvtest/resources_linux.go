package hvtest

import (
	"bytes"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

type resources struct{ files, goroutines, vcpuMappings int }

func countResources(t *testing.T) (r resources) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	return resources{len(fds), runtime.NumGoroutine(), bytes.Count(maps, []byte("kvm-vcpu"))}
}
