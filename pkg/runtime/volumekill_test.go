package runtime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anthropics/boxlite/pkg/killtest"
	"github.com/stretchr/testify/require"
)

// volumeKillEnv makes this test binary a program that does one thing to the volumes of
// a home; see volumeKillWork.
const volumeKillEnv = "BOXLITE_TEST_VOLUME_KILL"

// volumeOps are what can be done to the volumes that volumeHome makes, and what becomes
// of the boxes that name them: a volume that is to go is missing there.
var volumeOps = map[string]struct {
	do   func(ctx context.Context, rt *Runtime) error
	want func(volumes map[string]string)
}{
	"create": {func(ctx context.Context, rt *Runtime) error {
		_, err := rt.CreateVolume(ctx, VolumeOptions{Name: "new", Labels: map[string]string{"a": "b"}})
		return err
	}, func(m map[string]string) { m["new"] = "" }},
	"create what is there": {func(ctx context.Context, rt *Runtime) error {
		_, err := rt.CreateVolume(ctx, VolumeOptions{Name: "data"})
		return err
	}, func(map[string]string) {}},
	"create box": {func(ctx context.Context, rt *Runtime) error {
		_, err := rt.Create(ctx, BoxOptions{KeepOnStop: true, Volumes: []VolumeSpec{{Name: "new", GuestPath: "/n"}, {GuestPath: "/a"}}}, "second")
		return err
	}, func(m map[string]string) { m["new"], m["anonymous"] = "second", "second" }},
	"use": {func(ctx context.Context, rt *Runtime) error { return rt.ensureVolume(ctx, "named") }, func(map[string]string) {}},
	"remove": {func(ctx context.Context, rt *Runtime) error { return rt.RemoveVolume(ctx, "data") },
		func(m map[string]string) { delete(m, "data") }},
	"remove box": {func(ctx context.Context, rt *Runtime) error { return rt.Remove(ctx, "box", false) }, func(m map[string]string) {
		for name := range m {
			m[name] = ""
		}
	}},
	"remove box and volumes": {func(ctx context.Context, rt *Runtime) error {
		return rt.RemoveWith(ctx, "box", RemoveOptions{Volumes: true})
	}, func(m map[string]string) {
		maps.DeleteFunc(m, func(name, box string) bool { return box != "" && len(name) == 64 })
		m["named"] = ""
	}},
	"prune": {func(ctx context.Context, rt *Runtime) error {
		_, err := rt.Prune(ctx, PruneOptions{Volumes: true})
		return err
	}, func(m map[string]string) {
		maps.DeleteFunc(m, func(name, box string) bool { return box == "" && len(name) == 64 })
	}},
	"prune all": {func(ctx context.Context, rt *Runtime) error {
		_, err := rt.PruneVolumes(ctx, VolumePruneOptions{All: true})
		return err
	}, func(m map[string]string) { maps.DeleteFunc(m, func(_, box string) bool { return box == "" }) }},
}

// volumeHome makes a home with volumes of all kinds, which have content, but for one
// that was never used.
func volumeHome(t *testing.T, dir string) {
	ctx := t.Context()
	rt, err := New(Options{HomeDir: dir})
	require.NoError(t, err)
	_, err = rt.CreateVolume(ctx, VolumeOptions{Name: "data"})
	require.NoError(t, err)
	for range 2 {
		_, err = rt.CreateVolume(ctx, VolumeOptions{})
		require.NoError(t, err)
	}
	b, err := rt.Create(ctx, BoxOptions{KeepOnStop: true, Volumes: []VolumeSpec{{Name: "named", GuestPath: "/n"}, {GuestPath: "/a"}, {GuestPath: "/b"}}}, "box")
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(b.dir(), 0o700))
	list, err := rt.Volumes(ctx)
	require.NoError(t, err)
	require.Len(t, list, 6)
	for _, v := range list {
		if v.Name != "named" {
			require.NoError(t, rt.ensureVolume(ctx, v.Name))
			require.NoError(t, os.MkdirAll(v.Mountpoint+"/sub/deep", 0o755))
			require.NoError(t, os.WriteFile(v.Mountpoint+"/sub/deep/f", []byte(v.Name), 0o644))
		}
	}
	require.NoError(t, rt.Close())
}

// volumeKillWork does what arg names, and says so when it is done. Nothing is as it was
// until then, and everything is as it is to be from then on.
func volumeKillWork(arg string) error {
	home, op, _ := strings.Cut(arg, "|")
	ctx := context.Background()
	rt, err := New(Options{HomeDir: home})
	if err != nil {
		return err
	}
	if _, err := rt.Volumes(ctx); err != nil { // opens the state
		return err
	}
	killtest.Begin()
	if err := volumeOps[op].do(ctx, rt); err != nil {
		return err
	}
	fmt.Println("done")
	return rt.Close()
}

// volumesOf are the volumes of a home, with the boxes that name them. One that was made
// up since before is called anonymous.
func volumesOf(t *testing.T, rt *Runtime, before map[string]string) map[string]string {
	t.Helper()
	list, err := rt.Volumes(t.Context())
	require.NoError(t, err)
	volumes := map[string]string{}
	for _, v := range list {
		name := v.Name
		if _, was := before[name]; !was && v.Anonymous && before != nil {
			name = "anonymous"
		}
		volumes[name] = strings.Join(v.Boxes, " ")
		if name == "new" && len(v.Boxes) == 0 {
			require.Equal(t, map[string]string{"a": "b"}, v.Labels)
		}
	}
	return volumes
}

// checkVolumes looks at what an operation has left in a home that had the volumes
// before, and whether it can be done again.
func checkVolumes(t *testing.T, home, op string, done bool, before map[string]string) {
	ctx := t.Context()
	rt, err := New(Options{HomeDir: home})
	require.NoError(t, err)
	defer func() { require.NoError(t, rt.Close()) }()
	after := maps.Clone(before)
	volumeOps[op].want(after)
	now := volumesOf(t, rt, before)
	switch {
	case done:
		require.Equal(t, after, now, "it was said to be done")
	case strings.HasPrefix(op, "prune"): // one after the other
		for name, box := range before {
			if _, stays := after[name]; stays {
				require.Equal(t, box, now[name])
				require.Contains(t, now, name)
			}
		}
		for name := range now {
			require.Contains(t, before, name)
		}
	case !maps.Equal(before, now):
		require.Equal(t, after, now, "all of it or nothing")
	}
	// Next somebody uses the volumes.
	list, err := rt.Volumes(ctx)
	require.NoError(t, err)
	for _, v := range list {
		name := v.Name
		require.NoError(t, rt.ensureVolume(ctx, name))
		data := filepath.Join(rt.volumeDir(name), volumeData)
		fi, err := os.Stat(data)
		require.NoError(t, err)
		require.Equal(t, os.ModeDir|0o755, fi.Mode())
		if _, was := before[name]; was && name != "named" {
			text, err := os.ReadFile(data + "/sub/deep/f")
			require.NoError(t, err)
			require.Equal(t, name, string(text))
		}
	}
	require.NoError(t, rt.sweep(ctx))
	require.Equal(t, now, volumesOf(t, rt, before))
	onlyVolumes(t, rt)
	// What was begun can be done again.
	if err := volumeOps[op].do(ctx, rt); !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrAlreadyExists) {
		require.NoError(t, err)
	}
	require.Equal(t, after, volumesOf(t, rt, before))
	onlyVolumes(t, rt)
}

// onlyVolumes looks for folders that are no volumes', and for anything else in those
// that are.
func onlyVolumes(t *testing.T, rt *Runtime) {
	t.Helper()
	names := volumesOf(t, rt, nil)
	entries, err := os.ReadDir(filepath.Join(rt.HomeDir(), volumesName))
	require.NoError(t, err)
	for _, e := range entries {
		require.Contains(t, names, e.Name(), "a folder that nobody knows")
		in, err := os.ReadDir(rt.volumeDir(e.Name()))
		require.NoError(t, err)
		require.Len(t, in, 1)
		require.Equal(t, volumeData, in[0].Name())
	}
	boxes, err := os.ReadDir(filepath.Join(rt.HomeDir(), "boxes"))
	require.NoError(t, err)
	for _, e := range boxes {
		_, err := rt.GetInfo(t.Context(), e.Name())
		require.NoError(t, err, "a box's folder that nobody knows")
	}
}
