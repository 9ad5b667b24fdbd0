package runtime

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// requireKind holds an error to its kind, and to being a sentence about something.
func requireKind(t *testing.T, want Kind, err error) {
	t.Helper()
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, want, e.Kind, "%v", err)
	require.ErrorIs(t, err, want)
	require.Greater(t, len(err.Error()), len(want)+5, "it says more than its kind: %v", err)
}

// guestKinds are the kinds that need a guest, or a host without KVM:
// TestGuestErrorKinds provokes them.
var guestKinds = []Kind{ErrUnsupportedEngine, ErrRun, ErrRPC, ErrRPCTransport, ErrEngine}

// unprovoked are the kinds that no caller can provoke: ErrInternal is a defect.
var unprovoked = []Kind{ErrInternal}

// allKinds are the kinds that errors.go declares.
func allKinds(t *testing.T) (kinds []Kind) {
	t.Helper()
	text, err := os.ReadFile("errors.go")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`(?m)^\tErr\w+ +Kind = "([^"]+)"`).FindAllSubmatch(text, -1) {
		kinds = append(kinds, Kind(m[1]))
	}
	require.Contains(t, kinds, ErrNotFound)
	return kinds
}

// TestErrorKinds provokes each kind of error that needs no guest, by the public API
// alone where it can be, and else with state as a crash or another version leaves it.
func TestErrorKinds(t *testing.T) {
	ctx := t.Context()
	provoked := slices.Concat(guestKinds, unprovoked)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("text"), 0o600))
	for want, provoke := range map[Kind]func(t *testing.T, rt *Runtime) error{
		ErrConfig: func(t *testing.T, _ *Runtime) error {
			t.Setenv("BOXLITE_BOOT_STALL", "soon")
			_, err := New(Options{HomeDir: t.TempDir()})
			return err
		},
		ErrStorage: func(*testing.T, *Runtime) error {
			_, err := New(Options{HomeDir: file})
			return err
		},
		ErrImage: func(t *testing.T, rt *Runtime) error {
			box, err := rt.Create(ctx, BoxOptions{Rootfs: Image("127.0.0.1:1/image")}, "")
			require.NoError(t, err)
			return box.Pull(ctx)
		},
		ErrNetwork: func(_ *testing.T, rt *Runtime) error {
			_, err := rt.InstallKernel(ctx, "127.0.0.1:1/kernel")
			return err
		},
		ErrUnsupported: func(t *testing.T, rt *Runtime) error {
			dir := t.TempDir()
			path, err := layout.Write(dir, empty.Index)
			require.NoError(t, err)
			require.NoError(t, path.AppendImage(empty.Image))
			_, err = rt.InstallKernel(ctx, "oci:"+dir) // an image, but no kernel
			return err
		},
		ErrNotFound: func(_ *testing.T, rt *Runtime) error {
			_, err := rt.Get(ctx, "nobody")
			return err
		},
		ErrAlreadyExists: func(t *testing.T, rt *Runtime) error {
			_, err := rt.Create(ctx, kept(), "name")
			require.NoError(t, err)
			_, err = rt.Create(ctx, kept(), "name")
			return err
		},
		ErrInvalidArgument: func(_ *testing.T, rt *Runtime) error {
			_, err := rt.Create(ctx, BoxOptions{CPUs: -1}, "")
			return err
		},
		ErrInvalidState: func(t *testing.T, rt *Runtime) error {
			box, err := rt.Create(ctx, kept(), "")
			require.NoError(t, err)
			_, err = box.Wait(ctx)
			return err
		},
		ErrDatabase: func(t *testing.T, _ *Runtime) error {
			home := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(home, "boxlite.db"), []byte(fmt.Sprintf("%4096s", "no database")), 0o600))
			rt, err := New(Options{HomeDir: home})
			require.NoError(t, err)
			defer rt.Close()
			_, err = rt.ListInfo(ctx)
			return err
		},
		ErrMetadata: func(t *testing.T, rt *Runtime) error {
			box, err := rt.Create(ctx, kept(), "")
			require.NoError(t, err)
			spoil(t, rt, box, func(row *state.Box) { row.Options = []byte("{") })
			_, err = rt.Get(ctx, string(box.ID()))
			return err
		},
		ErrPortal: func(t *testing.T, rt *Runtime) error {
			// A VM process that is there and does not answer: ours is taken for one.
			box, err := rt.Create(ctx, kept(), "")
			require.NoError(t, err)
			require.NoError(t, os.MkdirAll(box.dir(), 0o700))
			require.NoError(t, (&bootRecord{}).write(box.dir()))
			spoil(t, rt, box, func(row *state.Box) {
				row.Status, row.PID, row.PIDStart, row.BootID = string(StatusRunning), os.Getpid(), vmm.StartTime(os.Getpid()), state.BootID()
			})
			_, err = box.Run(ctx, Command("true"))
			spoil(t, rt, box, func(row *state.Box) { row.Status, row.PID = string(StatusStopped), 0 })
			return err
		},
	} {
		provoked = append(provoked, want)
		t.Run(string(want), func(t *testing.T) { requireKind(t, want, provoke(t, newRuntime(t))) })
	}
	require.ElementsMatch(t, allKinds(t), provoked, "each kind has its test")
}

// spoil changes a box's row behind the runtime's back.
func spoil(t *testing.T, rt *Runtime, box *LiteBox, change func(*state.Box)) {
	t.Helper()
	db, err := rt.state(t.Context())
	require.NoError(t, err)
	_, err = db.Update(t.Context(), string(box.ID()), func(row *state.Box) error { change(row); return nil })
	require.NoError(t, err)
}

// TestGuestErrorKinds provokes guestKinds, in their order but for the first.
func TestGuestErrorKinds(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	box, err := rt.Create(ctx, smallBox(t), "")
	require.NoError(t, err)
	require.NoError(t, box.Start(ctx))

	_, err = box.Run(ctx, Command("no-such-program"))
	requireKind(t, ErrRun, err)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644}))
	require.NoError(t, w.Close())
	requireKind(t, ErrRPC, box.CopyTo(ctx, "/sys", &archive, CopyOptions{})) // where nobody can make a file

	// Somebody else's VM: how it ended is not for this runtime to know.
	other, err := New(Options{HomeDir: rt.HomeDir()})
	require.NoError(t, err)
	defer other.Close()
	same, err := other.Get(ctx, string(box.ID()))
	require.NoError(t, err)
	ex, err := same.Run(ctx, Command("sleep", "1000"))
	require.NoError(t, err)
	mine, err := box.Run(ctx, Command("sleep", "1000"))
	require.NoError(t, err)
	i, err := box.Info(ctx)
	require.NoError(t, err)
	require.NoError(t, unix.Kill(i.PID, unix.SIGKILL))
	_, err = ex.Wait(ctx)
	requireKind(t, ErrRPCTransport, err)
	_, err = mine.Wait(ctx)
	requireKind(t, ErrEngine, err)

	// This machine has no other use for it: the tests run alone on it.
	if os.Getenv("RIG") == "/rig" {
		require.NoError(t, os.Rename("/dev/kvm", "/dev/kvm.away"))
		defer os.Rename("/dev/kvm.away", "/dev/kvm")
		box, err = rt.Create(ctx, smallBox(t), "")
		require.NoError(t, err)
		err = box.Start(ctx)
		requireKind(t, ErrUnsupportedEngine, err)
		require.NoError(t, rt.Remove(ctx, string(box.ID()), true))
	}
}
