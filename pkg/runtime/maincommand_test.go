package runtime

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/stretchr/testify/require"
)

func TestMainCommandResolve(t *testing.T) {
	img := imageConfig{Entrypoint: []string{"/entry", "-x"}, Cmd: []string{"default"}}
	for name, c := range map[string]struct {
		main MainCommand
		want []string
	}{
		"the image's":          {MainCommand{}, []string{"/entry", "-x", "default"}},
		"arguments":            {MainCommand{Args: []string{"a", "b"}}, []string{"/entry", "-x", "a", "b"}},
		"entrypoint":           {MainCommand{Entrypoint: []string{"/mine"}}, []string{"/mine"}},
		"both":                 {MainCommand{Entrypoint: []string{"/mine"}, Args: []string{"a"}}, []string{"/mine", "a"}},
		"no entrypoint":        {MainCommand{Entrypoint: []string{}, Args: []string{"sh"}}, []string{"sh"}},
		"nothing is nothing":   {MainCommand{Entrypoint: []string{}}, nil},
		"image without either": {MainCommand{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			from := img
			if name == "image without either" {
				from = imageConfig{}
			}
			require.Equal(t, c.want, c.main.resolve(from))
			// As the box's row has it.
			b, err := (&storedOptions{BoxOptions: BoxOptions{Main: &c.main}}).marshal()
			require.NoError(t, err)
			var o storedOptions
			require.NoError(t, json.Unmarshal(b, &o))
			require.Equal(t, c.want, o.Main.resolve(from))
		})
	}
}

func TestMainCommandCheck(t *testing.T) {
	for _, m := range []MainCommand{
		{Args: []string{"a\x00"}}, {Entrypoint: []string{"a\x00"}}, {Entrypoint: []string{""}}, {Entrypoint: []string{}, Args: []string{"", "x"}},
	} {
		require.ErrorIs(t, (&BoxOptions{Main: &m}).fill(), ErrInvalidArgument, "%q", m)
	}
	for _, m := range []MainCommand{{}, {Args: []string{""}}, {Args: []string{"sh", ""}}} {
		o := BoxOptions{Main: &m}
		require.NoError(t, o.fill(), "%q", m)
		require.NotSame(t, &m, o.Main)
	}
}

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]int{
		"TERM": 15, "SIGTERM": 15, "sigterm": 15, "15": 15, "SIGKILL": 9, "USR1": 10, "SIGRTMIN": 34, "RTMIN+3": 37, "SIGRTMAX-1": 63, "64": 64, "WINCH": 28,
	} {
		got, err := ParseSignal(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for _, in := range []string{"", "0", "65", "-1", "SIG", "SIGX", "RTMIN+31", "RTMIN+-1", "RTMAX-x", "SIGSIGTERM"} {
		_, err := ParseSignal(in)
		require.ErrorIs(t, err, ErrInvalidArgument, in)
	}
	n, err := stopSignal("")
	require.NoError(t, err)
	require.Equal(t, 15, n)
	n, err = stopSignal("nonsense")
	require.Error(t, err)
	require.Equal(t, 15, n, "the box can be stopped all the same")
}

// TestDiscardOf removes a box for a process that is gone, unless another has it by now.
func TestDiscardOf(t *testing.T) {
	ctx := context.Background()
	rt, err := New(Options{HomeDir: t.TempDir()})
	require.NoError(t, err)
	defer rt.Close()
	box, err := rt.Create(ctx, BoxOptions{}, "short")
	require.NoError(t, err)
	db, err := rt.state(ctx)
	require.NoError(t, err)
	row, err := db.Find(ctx, "short")
	require.NoError(t, err)
	require.ErrorIs(t, rt.discardOf(ctx, string(box.ID()), row.PID, row.PIDStart+1, nil), errChanged)
	stale := *row
	stale.PIDStart++ // read before another process took the box over
	kept, err := rt.repair(ctx, &stale)
	require.NoError(t, err)
	require.Equal(t, row.PIDStart, kept.PIDStart)

	dead, err := db.Update(ctx, string(box.ID()), func(r *state.Box) error { r.PIDStart = 1; return nil })
	require.NoError(t, err)
	_, err = rt.repair(ctx, dead)
	require.ErrorIs(t, err, state.ErrNotFound)
	_, err = rt.repair(ctx, dead)
	require.ErrorIs(t, err, state.ErrNotFound, "twice")
	_, err = rt.Get(ctx, "short")
	require.ErrorIs(t, err, ErrNotFound)
}

// TestStoppedRecord makes rows of what VMs left.
func TestStoppedRecord(t *testing.T) {
	ctx := context.Background()
	rt, err := New(Options{HomeDir: t.TempDir()})
	require.NoError(t, err)
	defer rt.Close()
	box, err := rt.Create(ctx, BoxOptions{KeepOnStop: true, Main: &MainCommand{Args: []string{"job", "x"}}}, "job")
	require.NoError(t, err)
	db, err := rt.state(ctx)
	require.NoError(t, err)
	_, err = db.Update(ctx, string(box.ID()), func(r *state.Box) error {
		r.Status, r.PID, r.PIDStart, r.BootID, r.StartedAt = string(StatusRunning), 1, 1, "another boot", time.Now()
		return nil
	})
	require.NoError(t, err)
	i, err := box.Info(ctx) // which finds the host rebooted
	require.NoError(t, err)
	require.Equal(t, StatusStopped, i.Status)
	require.Contains(t, i.Reason, "without a report")
	require.Nil(t, i.ExitCode)
	require.Equal(t, []string{"job", "x"}, i.Command)
	require.False(t, i.FinishedAt.IsZero())
	_, err = box.Wait(ctx)
	require.ErrorIs(t, err, ErrEngine)
	_, err = box.Run(ctx, Command("true"))
	require.ErrorIs(t, err, ErrInvalidState)
	require.ErrorContains(t, err, "start it")
	_, err = box.Attach(ctx, AttachOptions{})
	require.ErrorIs(t, err, ErrInvalidState)
	require.ErrorIs(t, box.Detach(ctx), ErrInvalidState)
	require.NoError(t, box.StopWith(ctx, 0), "of a box that does not run")
	require.ErrorIs(t, box.StopWith(ctx, -1), ErrInvalidArgument)
	require.ErrorIs(t, box.Signal(ctx, 99), ErrInvalidArgument)
	for range box.Logs(ctx, LogOptions{Follow: true}) {
		t.Error("there is no log")
	}
	plain, err := rt.Create(ctx, BoxOptions{}, "")
	require.NoError(t, err)
	_, err = plain.Attach(ctx, AttachOptions{Start: true})
	require.ErrorIs(t, err, ErrInvalidState)
	_, err = plain.Attach(ctx, AttachOptions{Rows: -1})
	require.ErrorIs(t, err, ErrInvalidArgument)
}
