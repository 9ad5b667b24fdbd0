package runtime

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBoxStatus is the whole state machine: each status, and what can be said of it.
func TestBoxStatus(t *testing.T) {
	type row struct {
		active, running, configured, stopped, transient bool
		start, stop, remove, run                        bool
	}
	for s, want := range map[BoxStatus]row{
		StatusUnknown:    {remove: true},
		StatusConfigured: {configured: true, start: true, remove: true, run: true},
		StatusRunning:    {active: true, running: true, stop: true, run: true},
		StatusStopping:   {active: true, transient: true},
		StatusStopped:    {stopped: true, start: true, remove: true, run: true},
	} {
		got := row{
			s.IsActive(), s.IsRunning(), s.IsConfigured(), s.IsStopped(), s.IsTransient(),
			s.CanStart(), s.CanStop(), s.CanRemove(), s.CanRun(),
		}
		require.Equal(t, want, got, s)
		require.True(t, s.valid())
	}
	require.False(t, BoxStatus("hibernating").valid())
	require.False(t, BoxStatus("").valid())
}
