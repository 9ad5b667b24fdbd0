package runtime

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestGuestEvents is the life of boxes as their events tell it.
func TestGuestEvents(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	told := func(b *LiteBox) []string { return words(t, rt.Events(ctx, EventOptions{Box: string(b.ID())})) }

	// An ephemeral box, commands in it, and its stop.
	box, err := rt.Create(ctx, smallBox(t), "")
	require.NoError(t, err)
	_, _, res := output(t, box, sh("exit 3"))
	require.Equal(t, 3, res.ExitCode)
	require.Equal(t, []string{"create ", "start ", "exec_start  command=sh -c exit 3"}, told(box)[:3])
	require.NoError(t, box.Stop(ctx))
	require.Equal(t, []string{
		"create ", "start ", "exec_start  command=sh -c exit 3", "exec_die  exitCode=3", "die ", "stop ", "destroy ",
	}, told(box))

	// One that is kept: its command's end, a signal, a stop, a kill.
	opts := smallBox(t)
	opts.KeepOnStop = true
	opts.Main = &MainCommand{Args: []string{"sh", "-c", "trap 'exit 5' USR1; echo ready; while :; do sleep 0.1; done"}}
	kept, err := rt.Create(ctx, opts, "kept")
	require.NoError(t, err)
	defer rt.Remove(context.Background(), string(kept.ID()), true) // where the test ends early
	ready := func() {
		for e, err := range kept.Logs(ctx, LogOptions{Follow: true, Since: time.Now().Add(-time.Second)}) {
			require.NoError(t, err)
			if string(e.Bytes()) == "ready\n" {
				return
			}
		}
	}
	require.NoError(t, kept.Start(ctx))
	ready()
	require.NoError(t, kept.Signal(ctx, 10))
	res, err = kept.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, 5, res.ExitCode)
	require.Equal(t, []string{"create kept", "start kept", "kill kept signal=10", "die kept exitCode=5"}, told(kept))

	require.NoError(t, kept.Start(ctx))
	require.NoError(t, rt.Rename(ctx, "kept", "new"))
	require.NoError(t, kept.Stop(ctx))
	require.Equal(t, "new", kept.Name())
	require.Equal(t, []string{"start kept", "rename new oldName=kept", "die new exitCode=-15", "stop new"}, told(kept)[4:])

	// The new name is the guest's host name from the next start on.
	require.NoError(t, kept.Start(ctx))
	out, _, _ := output(t, kept, sh("hostname"))
	require.Equal(t, "new\n", out)
	require.NoError(t, rt.Remove(ctx, "new", true))
	end := told(kept)[8:]
	require.Equal(t, []string{"start new", "exec_start new command=sh -c hostname", "exec_die new exitCode=0", "kill new signal=9", "die new", "destroy new"}, end)

	var reasons []string
	for e, err := range rt.Events(ctx, EventOptions{Box: string(kept.ID()), Kinds: []EventKind{EventDie}}) {
		require.NoError(t, err)
		reasons = append(reasons, e.Attributes["reason"])
	}
	require.Len(t, reasons, 3)
	require.Equal(t, []string{"", ""}, reasons[:2], "somebody wanted these")
	require.Equal(t, killedRemoved, reasons[2])

	// All of it, in one list, in order of time within a box.
	var times []time.Time
	for e, err := range rt.Events(ctx, EventOptions{Box: string(kept.ID()), Kinds: []EventKind{EventCreate, EventStart, EventDie, EventDestroy}}) {
		require.NoError(t, err)
		times = append(times, e.Time)
	}
	require.True(t, slices.IsSortedFunc(times, time.Time.Compare), times)
}

// TestGuestEndIsTold looks at ends that somebody else than their starter sees first,
// or brings about.
func TestGuestEndIsTold(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)

	// The box is gone with its end, and whoever started it has gone before.
	starter, err := New(Options{HomeDir: rt.HomeDir()})
	require.NoError(t, err)
	defer starter.Close()
	opts := smallBox(t)
	opts.Detach = true
	opts.Main = &MainCommand{Args: []string{"sh", "-c", "until test -e /go; do sleep 0.1; done; exit 7"}}
	box, err := starter.Create(ctx, opts, "")
	require.NoError(t, err)
	require.NoError(t, box.Start(ctx))
	require.NoError(t, starter.Close())
	same, err := rt.Get(ctx, string(box.ID()))
	require.NoError(t, err)
	output(t, same, sh("touch /go"))
	require.Eventually(t, func() bool {
		_, err := rt.Get(ctx, string(box.ID()))
		return errors.Is(err, ErrNotFound)
	}, testTimeout, 10*time.Millisecond)
	require.Equal(t, "7", attribute(t, rt, string(box.ID()), EventDie, "exitCode"))

	// A removal by force, as those see it who wait for a command.
	kept, err := rt.Create(ctx, smallBox(t), "")
	require.NoError(t, err)
	mine, err := kept.Run(ctx, Command("sleep", "1000"))
	require.NoError(t, err)
	other, err := New(Options{HomeDir: rt.HomeDir()})
	require.NoError(t, err)
	defer other.Close()
	require.NoError(t, other.Remove(ctx, string(kept.ID()), true))
	_, err = mine.Wait(ctx)
	require.ErrorIs(t, err, ErrEngine)
	require.ErrorContains(t, err, "removed by force")
	require.Equal(t, killedRemoved, attribute(t, rt, string(kept.ID()), EventDie, "reason"))
}
