package runtime

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCountedBeforeTold looks from a second process at what a first one did and may
// be killed after: who sees the end of a command sees it counted.
func TestCountedBeforeTold(t *testing.T) {
	ctx, rt := t.Context(), plainRuntime(t)
	box, err := rt.Create(ctx, BoxOptions{KeepOnStop: true}, "box")
	require.NoError(t, err)
	other, err := New(Options{HomeDir: rt.HomeDir()})
	require.NoError(t, err)
	defer other.Close()
	box.countRun(nil)
	box.recordLater(EventExecDie, map[string]string{"exitCode": "0"})
	rt.flushEvents()
	require.Equal(t, []string{"create box", "exec_die box exitCode=0"}, words(t, other.Events(ctx, EventOptions{})))
	m, err := other.Metrics(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, m.TotalCommandsRun)
}
