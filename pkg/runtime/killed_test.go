package runtime

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/guest"
	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
	"github.com/stretchr/testify/require"
)

// toldEnv names the file that says that a fakeVM was asked to end.
const toldEnv = "TOLD"

// fakeVM has a process of ours stand in for the VM of a box that was started.
func fakeVM(t testing.TB, rt *Runtime, name string) *exec.Cmd {
	t.Helper()
	told := filepath.Join(t.TempDir(), "told") // made when it is asked to end, which nothing but SIGKILL does
	cmd := exec.Command("sh", "-c", "trap 'echo > "+told+"' TERM; echo; while :; do sleep 1000 & wait; done")
	cmd.Env = []string{toldEnv + "=" + told, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 1)) // it has set its trap
	require.NoError(t, err)
	reaped := make(chan struct{})
	go func() { defer close(reaped); cmd.Wait() }()
	t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); <-reaped })
	edit(t, rt, name, func(b *state.Box) {
		pid := cmd.Process.Pid
		b.Status, b.PID, b.PIDStart, b.BootID, b.StartedAt = string(StatusRunning), pid, vmm.StartTime(pid), state.BootID(), time.Now()
		b.Record(string(EventStart), nil)
	})
	return cmd
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// attribute is that of the box's last event of a kind.
func attribute(t testing.TB, rt *Runtime, box string, kind EventKind, name string) (value string) {
	t.Helper()
	found := false
	for e, err := range rt.Events(context.Background(), EventOptions{Box: box, Kinds: []EventKind{kind}}) {
		require.NoError(t, err)
		value, found = e.Attributes[name], true
	}
	require.True(t, found, "no event %s", kind)
	return value
}

// TestRemoveByForceSaysSo kills a VM by removing its box, and looks what its end is
// put down to.
func TestRemoveByForceSaysSo(t *testing.T) {
	ctx, rt := t.Context(), plainRuntime(t)
	for _, keep := range []bool{true, false} {
		box, err := rt.Create(ctx, BoxOptions{KeepOnStop: keep, Main: &MainCommand{Args: []string{"job"}}}, "box")
		require.NoError(t, err)
		fakeVM(t, rt, "box")
		waited := make(chan error)
		begun := make(chan struct{})
		other, err := New(Options{HomeDir: rt.HomeDir()}) // as another process, which did not start it either
		require.NoError(t, err)
		t.Cleanup(func() { other.Close() })
		same, err := other.Get(ctx, "box")
		require.NoError(t, err)
		go func() {
			close(begun)
			_, err := same.Wait(ctx)
			waited <- err
		}()
		<-begun
		require.NoError(t, rt.Remove(ctx, "box", true))
		id := string(box.ID())
		require.Equal(t, []string{"create box", "start box", "kill box signal=9", "die box", "destroy box"}, words(t, rt.Events(ctx, EventOptions{Box: id})))
		require.Equal(t, killedRemoved, attribute(t, rt, id, EventDie, "reason"))
		if err := <-waited; !errors.Is(err, ErrNotFound) { // it may have come too late to wait
			require.ErrorIs(t, err, ErrEngine)
			require.ErrorContains(t, err, "removed by force")
		}
		// What a command's waiter is told, who only sees its connection break.
		err = same.lost(guest.ErrClosed, "wait for a command")
		require.ErrorIs(t, err, ErrEngine)
		require.ErrorContains(t, err, "removed by force")
	}
}

// TestCallerOfStopDies ends whoever stops or removes a box in the middle of that: as
// long as the VM was not told, the box runs; when it ends, the box has stopped.
func TestCallerOfStopDies(t *testing.T) {
	for at, want := range map[step]BoxStatus{stepAsked: StatusRunning, stepStopping: StatusStopping, stepKilling: StatusRunning} {
		t.Run(string(at), func(t *testing.T) {
			ctx, rt := t.Context(), plainRuntime(t)
			box, err := rt.Create(ctx, BoxOptions{KeepOnStop: true}, "box")
			require.NoError(t, err)
			created, err := box.State(ctx)
			require.NoError(t, err)
			vm := fakeVM(t, rt, "box")
			rt.reached = func(s step) {
				if s == at {
					goruntime.Goexit()
				}
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if at == stepKilling {
					rt.Remove(ctx, "box", true)
				} else {
					box.Stop(ctx)
				}
				t.Error("it went on")
			}()
			<-ended
			rt.reached = nil
			i, err := rt.GetInfo(ctx, "box")
			require.NoError(t, err)
			require.Equal(t, want, i.Status)
			require.Equal(t, vm.Process.Pid, i.PID)
			s, err := box.State(ctx)
			require.NoError(t, err)
			require.True(t, s.LastUpdated.After(created.LastUpdated))
			require.Equal(t, BoxState{Status: want, PID: i.PID, ContainerID: created.ContainerID, LastUpdated: i.LastUpdated}, s)
			if at != stepKilling {
				_, told, _ := strings.Cut(vm.Env[0], "=")
				require.Eventually(t, func() bool { return exists(told) }, 10*time.Second, time.Millisecond, "the row was changed before the VM was told")
			}
			require.NoError(t, vm.Process.Kill())
			require.Eventually(t, func() bool {
				i, err := rt.GetInfo(ctx, "box")
				return err == nil && i.Status.IsStopped()
			}, testTimeout, time.Millisecond)
			require.NoError(t, rt.Remove(ctx, "box", false))
		})
	}
}

// TestStopWithoutGraceIsAKill looks at the events of a stop that kills, with and
// without a signal before it.
func TestStopWithoutGraceIsAKill(t *testing.T) {
	ctx, rt := t.Context(), plainRuntime(t)
	for _, signalled := range []bool{false, true} {
		box, err := rt.Create(ctx, BoxOptions{KeepOnStop: true}, "box")
		require.NoError(t, err)
		vm := fakeVM(t, rt, "box")
		if signalled {
			box.recordLater(EventKill, map[string]string{"signal": "9"}) // as Signal does
			rt.flushEvents()
		}
		rt.reached = func(s step) {
			if s == stepStopping {
				vm.Process.Kill() // as a VM process would end
			}
		}
		require.NoError(t, box.StopWith(ctx, 0))
		rt.reached = nil
		require.Equal(t, []string{"create box", "start box", "kill box signal=9", "die box"}, words(t, rt.Events(ctx, EventOptions{Box: string(box.ID())})))
		require.NoError(t, rt.Remove(ctx, "box", false))
	}
}

// TestEndOfEphemeralBox reads how a box ended that is gone with its end: another
// process than the one that started it is the first to look.
func TestEndOfEphemeralBox(t *testing.T) {
	ctx, rt := t.Context(), plainRuntime(t)
	box, err := rt.Create(ctx, BoxOptions{Main: &MainCommand{Args: []string{"job"}}, Detach: true}, "box")
	require.NoError(t, err)
	vm := fakeVM(t, rt, "box")
	require.NoError(t, os.MkdirAll(box.dir(), 0o700))
	report := `{"Cause": "command ended", "Main": {"Status": {"Code": 7}}}`
	require.NoError(t, os.WriteFile(filepath.Join(box.dir(), "report.json"), []byte(report), 0o600))
	require.NoError(t, vm.Process.Kill())
	require.Eventually(t, func() bool {
		_, err := rt.GetInfo(ctx, "box")
		return errors.Is(err, ErrNotFound)
	}, testTimeout, time.Millisecond)
	require.Equal(t, "7", attribute(t, rt, string(box.ID()), EventDie, "exitCode"))
	require.NoDirExists(t, box.dir())
}

// TestFilesOnlyBootLeavesConfigured ends a VM that was never started with its box's
// command: the box is what it was.
func TestFilesOnlyBootLeavesConfigured(t *testing.T) {
	ctx, rt := t.Context(), plainRuntime(t)
	_, err := rt.Create(ctx, BoxOptions{KeepOnStop: true}, "box")
	require.NoError(t, err)
	vm := fakeVM(t, rt, "box")
	edit(t, rt, "box", func(b *state.Box) { b.StartedAt = time.Time{} })
	require.NoError(t, vm.Process.Kill())
	require.Eventually(t, func() bool {
		i, err := rt.GetInfo(ctx, "box")
		return err == nil && i.Status == StatusConfigured && i.StartedAt.IsZero() && i.FinishedAt.IsZero()
	}, testTimeout, time.Millisecond)
}
