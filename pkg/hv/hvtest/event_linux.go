package hvtest

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// event is an eventfd.
type event int

func newEvent(t *testing.T) event {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Close(fd)) })
	return event(fd)
}

func (e event) fd() int { return int(e) }

// count takes what was signalled since the last count.
func (e event) count(t *testing.T) uint64 {
	t.Helper()
	var p [8]byte
	if _, err := unix.Read(int(e), p[:]); !errors.Is(err, unix.EAGAIN) {
		require.NoError(t, err)
	}
	return le.Uint64(p[:])
}
