package runtime

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBoxStatus holds every predicate to the reference's table.
func TestBoxStatus(t *testing.T) {
	type row struct{ active, running, configured, stopped, transient, start, stop, remove, run bool }
	const y, n = true, false
	for s, want := range map[BoxStatus]row{
		//                active running configured stopped transient start stop remove run
		StatusUnknown:    {n, n, n, n, n, n, n, y, n},
		StatusConfigured: {n, n, y, n, n, y, n, y, y},
		StatusRunning:    {y, y, n, n, n, n, y, n, y},
		StatusStopping:   {y, n, n, n, y, n, n, n, n},
		StatusStopped:    {n, n, n, y, n, y, n, y, y},
	} {
		require.Equal(t, want, row{
			s.IsActive(), s.IsRunning(), s.IsConfigured(), s.IsStopped(), s.IsTransient(),
			s.CanStart(), s.CanStop(), s.CanRemove(), s.CanRun(),
		}, s)
	}
}
