package runtime

import (
	"testing"
	"time"

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
	for e, err := range other.Events(ctx, EventOptions{Follow: true, Since: time.Now().Add(-time.Minute), Kinds: []EventKind{EventExecDie}}) {
		require.NoError(t, err)
		require.Equal(t, box.ID(), e.BoxID)
		break
	}
	m, err := other.Metrics(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, m.TotalCommandsRun)
}
