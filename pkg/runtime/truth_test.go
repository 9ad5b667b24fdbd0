package runtime

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
	"github.com/stretchr/testify/require"
)

// edit changes a box's row behind the runtime's back.
func edit(t testing.TB, rt *Runtime, key string, change func(*state.Box)) {
	t.Helper()
	db, err := state.Open(context.Background(), filepath.Join(rt.HomeDir(), "boxlite.db"))
	require.NoError(t, err)
	defer db.Close()
	row, err := db.Find(context.Background(), key)
	require.NoError(t, err)
	_, err = db.Update(context.Background(), row.ID, func(b *state.Box) error { change(b); return nil })
	require.NoError(t, err)
}

// child is a process that lives as long as the test.
func child(t testing.TB) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd.Process.Pid
}

// TestHostReboot is a box that ran when the host went down: the process with its
// number and even its start time is another's.
func TestHostReboot(t *testing.T) {
	ctx, rt, pid := t.Context(), plainRuntime(t), child(t)
	for _, c := range []struct {
		name   string
		status BoxStatus
		boot   string
		pid    int
		want   BoxStatus
	}{
		{"still", StatusRunning, state.BootID(), pid, StatusRunning},
		{"rebooted", StatusRunning, "00000000-0000-0000-0000-000000000000", pid, StatusStopped},
		{"stopping", StatusStopping, "00000000-0000-0000-0000-000000000000", pid, StatusStopped},
		{"dead", StatusRunning, state.BootID(), 1 << 22, StatusStopped}, // above what Linux gives
	} {
		_, err := rt.Create(ctx, BoxOptions{KeepOnStop: true}, c.name)
		require.NoError(t, err)
		edit(t, rt, c.name, func(b *state.Box) {
			b.Status, b.PID, b.PIDStart, b.BootID, b.StartedAt = string(c.status), c.pid, vmm.StartTime(pid), c.boot, time.Now()
		})
		info, err := rt.GetInfo(ctx, c.name)
		require.NoError(t, err)
		require.Equal(t, c.want, info.Status, c.name)
		if c.want == StatusRunning {
			require.Equal(t, pid, info.PID)
			continue
		}
		require.Zero(t, info.PID)
		require.Contains(t, info.Reason, "the host went down", c.name)
		require.Equal(t, []string{"create " + c.name, "die " + c.name}, words(t, rt.Events(ctx, EventOptions{Box: c.name})))
		require.NoError(t, rt.Remove(ctx, c.name, false))
	}

	// An ephemeral one is gone with all it had.
	b, err := rt.Create(ctx, BoxOptions{}, "ephemeral")
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(rt.boxDir(b.ID()), 0o700))
	edit(t, rt, "ephemeral", func(b *state.Box) {
		b.Status, b.PID, b.PIDStart, b.BootID = string(StatusRunning), pid, vmm.StartTime(pid), "another"
	})
	_, err = rt.GetInfo(ctx, "ephemeral")
	require.ErrorIs(t, err, ErrNotFound)
	require.NoDirExists(t, rt.boxDir(b.ID()))
	require.Equal(t, []string{"create ephemeral", "die ephemeral", "destroy ephemeral"}, words(t, rt.Events(ctx, EventOptions{Box: string(b.ID())})))
}

// TestUnreadableRow is a box that this version cannot judge: it is Unknown and says
// why, others are not affected, and it can be removed.
func TestUnreadableRow(t *testing.T) {
	ctx, rt := t.Context(), plainRuntime(t)
	for _, name := range []string{"options", "status", "fine"} {
		_, err := rt.Create(ctx, BoxOptions{KeepOnStop: true}, name)
		require.NoError(t, err)
	}
	edit(t, rt, "options", func(b *state.Box) { b.Options = []byte(`{"CPUs": "many`) })
	edit(t, rt, "status", func(b *state.Box) { b.Status = "hibernating" })
	list, err := rt.ListInfo(ctx)
	require.NoError(t, err)
	require.Len(t, list, 3)
	for _, i := range list {
		if i.Name == "fine" {
			require.Equal(t, StatusConfigured, i.Status)
			continue
		}
		require.Equal(t, StatusUnknown, i.Status, i.Name)
		require.Contains(t, i.Reason, "remove the box")
		require.True(t, i.Status.CanRemove())
	}
	_, err = rt.Get(ctx, "options")
	require.ErrorIs(t, err, ErrMetadata)
	b, err := rt.Get(ctx, "status")
	require.NoError(t, err)
	require.ErrorIs(t, b.Start(ctx), ErrInvalidState)
	for _, name := range []string{"options", "status"} {
		require.NoError(t, rt.Remove(ctx, name, false))
	}
	list, err = rt.ListInfo(ctx)
	require.NoError(t, err)
	require.Len(t, list, 1)
}

func TestDamagedState(t *testing.T) {
	ctx, rt := t.Context(), plainRuntime(t)
	path := filepath.Join(rt.HomeDir(), "boxlite.db")
	require.NoError(t, os.WriteFile(path, []byte("this is no database, but long enough to look like one, is it not? At a hundred bytes SQLite believes it."), 0o600))
	_, err := rt.ListInfo(ctx)
	require.ErrorIs(t, err, ErrDatabase)
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "move it away")
	require.NoError(t, os.Remove(path))
	_, err = rt.Create(ctx, BoxOptions{}, "")
	require.NoError(t, err, "the advice helps, without a new runtime")
}
