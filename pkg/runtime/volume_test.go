package runtime

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestVolumesRefused is what fill says of volumes that cannot be.
func TestVolumesRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	socket, err := net.Listen("unix", filepath.Join(dir, "socket"))
	require.NoError(t, err)
	defer socket.Close()
	require.NoError(t, os.Symlink("nowhere", dir+"/dangling"))
	require.NoError(t, os.Mkdir(dir+"/s\xff", 0o755))
	vol := func(host, guest string) []VolumeSpec { return []VolumeSpec{{HostPath: host, GuestPath: guest}} }
	many := make([]VolumeSpec, MaxVolumes+1)
	for i := range many {
		many[i] = VolumeSpec{HostPath: dir, GuestPath: fmt.Sprintf("/v%d", i)}
	}
	for want, opts := range map[string]BoxOptions{
		"there is no such file or folder on this host: make it first": {Volumes: vol(dir+"/missing", "/v")},
		"something on the way there is a file, not a folder":          {Volumes: vol(file+"/x", "/v")},
		"is a file, not a folder":                                     {Volumes: vol(file+"/", "/v")},
		"a symbolic link to nowhere, where nothing is":                {Volumes: vol(dir+"/dangling", "/v")},
		`s\xff": its path is not UTF-8`:                               {Volumes: vol(dir+"/s\xff", "/v")},
		`path "/g\xff" in the box is not UTF-8`:                       {Volumes: vol(dir, "/g\xff")},
		"neither a folder nor a regular file":                         {Volumes: vol(dir+"/socket", "/v")},
		"no path in the box is given":                                 {Volumes: vol(dir, "")},
		`path "v" in the box is not absolute`:                         {Volumes: vol(dir, "v")},
		`path "/a/../b" in the box climbs`:                            {Volumes: vol(dir, "/a/../b")},
		"over the box's root":                                         {Volumes: vol(dir, "//.")},
		"nothing can be mounted at /proc: /proc is the kernel's":      {Volumes: vol(dir, "/proc/")},
		"nothing can be mounted at /sys/fs: /sys is the kernel's":     {Volumes: vol(dir, "/sys/./fs")},
		"nothing can be mounted at /dev/x: /dev is the kernel's":      {Tmpfs: []TmpfsSpec{{GuestPath: "/dev/x"}}},
		"volume " + dir + " and volume " + file + " both go to /v":    {Volumes: append(vol(dir, "/v"), vol(file, "/./v/")...)},
		"volume " + dir + " and tmpfs both go to /v":                  {Volumes: vol(dir, "/v"), Tmpfs: []TmpfsSpec{{GuestPath: "/v"}}},
		"33 volumes and 0 tmpfs mounts: at most 32":                   {Volumes: many},
		`owners "all": choose mapped or kept`:                         {Volumes: []VolumeSpec{{HostPath: dir, GuestPath: "/v", Owners: "all"}}},
		"both a path of the host":                                     {Volumes: []VolumeSpec{{HostPath: dir, Name: "v", GuestPath: "/v"}}},
		"a size that is not negative":                                 {Tmpfs: []TmpfsSpec{{GuestPath: "/v", SizeBytes: -1}}},
		"a mode of at most 7777":                                      {Tmpfs: []TmpfsSpec{{GuestPath: "/v", Mode: 0o10000}}},
	} {
		err := opts.fill()
		require.ErrorIs(t, err, ErrInvalidArgument, want)
		require.ErrorContains(t, err, want)
	}
	if os.Geteuid() != 0 {
		closed := filepath.Join(dir, "closed")
		require.NoError(t, os.Mkdir(closed, 0o300))
		opts := BoxOptions{Volumes: vol(closed, "/v")}
		require.ErrorIs(t, opts.fill(), unix.EACCES)
	}
}

// TestVolumesFilled is how fill leaves what can be.
func TestVolumesFilled(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	require.NoError(t, os.Mkdir("sub", 0o755))
	given := []VolumeSpec{{HostPath: "sub", GuestPath: "//a//b/."}, {HostPath: "sub/", GuestPath: "/dev/shm/x"}, {HostPath: "/", GuestPath: "/proceed"}}
	opts := BoxOptions{Volumes: given, Tmpfs: []TmpfsSpec{{GuestPath: "/a/b/c", Mode: 0o700}}}
	require.NoError(t, opts.fill())
	require.Equal(t, []VolumeSpec{
		{HostPath: filepath.Join(dir, "sub"), GuestPath: "/a/b"}, {HostPath: filepath.Join(dir, "sub") + "/", GuestPath: "/dev/shm/x"}, {HostPath: "/", GuestPath: "/proceed"},
	}, opts.Volumes)
	require.Equal(t, "sub", given[0].HostPath, "the caller's")

	b := &LiteBox{opts: opts}
	mounts, err := b.vmmMounts(t.Context())
	require.NoError(t, err)
	var order []string
	for _, m := range mounts {
		order = append(order, m.Point.Path)
	}
	require.Equal(t, []string{"/a/b", "/a/b/c", "/dev/shm/x", "/proceed"}, order)
	require.True(t, mounts[1].Point.NoExec)
	require.Nil(t, mounts[1].Share)
}

// TestNamedVolumes is the life of volumes of the home, without boxes that run.
func TestNamedVolumes(t *testing.T) {
	ctx, rt := t.Context(), newRuntime(t)
	v, err := rt.CreateVolume(ctx, VolumeOptions{Name: "data", Labels: map[string]string{"job": "x"}})
	require.NoError(t, err)
	require.Equal(t, VolumeInfo{
		Name: "data", CreatedAt: v.CreatedAt, Labels: map[string]string{"job": "x"},
		Mountpoint: filepath.Join(rt.HomeDir(), "volumes", "data", "data"),
	}, v)
	require.NoError(t, os.WriteFile(filepath.Join(v.Mountpoint, "f"), []byte("kept"), 0o644))
	fi, err := os.Stat(v.Mountpoint)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), fi.Mode().Perm())

	again, err := rt.CreateVolume(ctx, VolumeOptions{Name: "data"})
	require.NoError(t, err)
	require.Equal(t, v, again)
	_, err = rt.CreateVolume(ctx, VolumeOptions{Name: "../data"})
	require.ErrorIs(t, err, ErrInvalidArgument)
	require.ErrorContains(t, err, "use letters")
	_, err = rt.GetVolume(ctx, "other")
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorContains(t, err, `there is no volume "other"`)
	require.ErrorIs(t, rt.RemoveVolume(ctx, "other"), ErrNotFound)

	// A box makes what it names, and holds it.
	opts := BoxOptions{KeepOnStop: true, Volumes: []VolumeSpec{{Name: "data", GuestPath: "/d"}, {Name: "new", GuestPath: "/n"}, {GuestPath: "/a", Anonymous: true}}}
	b, err := rt.Create(ctx, opts, "web")
	require.NoError(t, err)
	anonymous := b.Options().Volumes[2]
	require.True(t, anonymous.Anonymous)
	require.Len(t, anonymous.Name, 64)
	require.False(t, b.Options().Volumes[0].Anonymous)
	list, err := rt.Volumes(ctx)
	require.NoError(t, err)
	require.Len(t, list, 3)
	for _, v := range list {
		require.Equal(t, []string{"web"}, v.Boxes)
		require.Equal(t, v.Name == anonymous.Name, v.Anonymous)
	}
	info, err := b.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, []Mount{
		{Type: MountVolume, Name: anonymous.Name, Source: filepath.Join(rt.HomeDir(), "volumes", anonymous.Name, "data"), Destination: "/a", RW: true},
		{Type: MountVolume, Name: "data", Source: v.Mountpoint, Destination: "/d", RW: true},
		{Type: MountVolume, Name: "new", Source: filepath.Join(rt.HomeDir(), "volumes", "new", "data"), Destination: "/n", RW: true},
	}, info.Mounts)
	err = rt.RemoveVolume(ctx, "data")
	require.ErrorIs(t, err, ErrInvalidState)
	require.ErrorContains(t, err, `volume "data" is in use by web: remove that box first`)
	_, err = os.Stat(filepath.Join(v.Mountpoint, "f"))
	require.NoError(t, err)
	rep, err := rt.PruneVolumes(ctx, VolumePruneOptions{All: true})
	require.NoError(t, err)
	require.Empty(t, rep.Volumes)
	require.NoError(t, rt.Rename(ctx, "web", "www"))
	require.ErrorContains(t, rt.RemoveVolume(ctx, "data"), `in use by www`)

	// Without the box they can go; its anonymous one stays, unless it was to go with it.
	require.NoError(t, rt.Remove(ctx, "www", false))
	usage, err := rt.DiskUsage(ctx)
	require.NoError(t, err)
	require.Len(t, usage.Volumes, 3)
	require.Equal(t, "data", usage.Volumes[slices.IndexFunc(usage.Volumes, func(u VolumeUsage) bool { return u.Size > 0 })].Info.Name)
	all, err := rt.Prune(ctx, PruneOptions{Volumes: true})
	require.NoError(t, err)
	require.Len(t, all.Volumes, 1)
	require.Equal(t, anonymous.Name, all.Volumes[0].Name)
	b, err = rt.Create(ctx, BoxOptions{KeepOnStop: true, Volumes: []VolumeSpec{{GuestPath: "/a"}}}, "")
	require.NoError(t, err)
	require.NoError(t, rt.ensureVolume(ctx, b.Options().Volumes[0].Name))
	require.NoError(t, rt.RemoveWith(ctx, string(b.ID()), RemoveOptions{Volumes: true}))
	_, err = rt.GetVolume(ctx, b.Options().Volumes[0].Name)
	require.ErrorIs(t, err, ErrNotFound)

	// Not even a folder that a guest has closed stays.
	require.NoError(t, os.MkdirAll(filepath.Join(v.Mountpoint, "closed", "deep"), 0o755))
	require.NoError(t, os.Chmod(filepath.Join(v.Mountpoint, "closed"), 0))
	rep, err = rt.PruneVolumes(ctx, VolumePruneOptions{All: true, Match: func(v VolumeInfo) bool { return v.Labels["job"] == "x" }})
	require.NoError(t, err)
	require.Len(t, rep.Volumes, 1)
	require.Positive(t, rep.Freed)
	require.NoError(t, rt.RemoveVolume(ctx, "new"))
	left, err := os.ReadDir(filepath.Join(rt.HomeDir(), "volumes"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestVolumeMadeOnce has many make a volume's folder at once: a box that has it open
// must not lose it to another that was as quick.
func TestVolumeMadeOnce(t *testing.T) {
	rt := newRuntime(t)
	for round := range 100 {
		name := fmt.Sprint("v", round)
		var made sync.WaitGroup
		begin := make(chan struct{})
		inodes := make([]os.FileInfo, 8)
		for i := range inodes {
			made.Go(func() {
				<-begin
				if err := rt.ensureVolume(t.Context(), name); err != nil {
					t.Error(err)
				}
				inodes[i], _ = os.Stat(filepath.Join(rt.volumeDir(name), volumeData))
			})
		}
		close(begin)
		made.Wait()
		for _, fi := range inodes {
			require.True(t, os.SameFile(inodes[0], fi))
		}
	}
}

// TestVolumeRemovalInterrupted is what a removal leaves that was killed, and what
// becomes of it.
func TestVolumeRemovalInterrupted(t *testing.T) {
	ctx := t.Context()
	for _, c := range []struct {
		name      string
		committed bool // the row is gone
		recreated bool // and there is another volume of that name
		kept      bool
	}{
		{name: "before the row went", kept: true},
		{name: "after it", committed: true},
		{name: "after it, made again", committed: true, recreated: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			rt := newRuntime(t)
			v, err := rt.CreateVolume(ctx, VolumeOptions{Name: "a-b"})
			require.NoError(t, err)
			file := filepath.Join(v.Mountpoint, "f")
			require.NoError(t, os.WriteFile(file, nil, 0o644))
			db, err := rt.state(ctx)
			require.NoError(t, err)
			var away []removed
			stop := errors.New("as asked")
			err = db.RemoveVolume(ctx, "a-b", func(v state.Volume) error {
				require.NoError(t, rt.takeVolumes([]state.Volume{v}, &away))
				if c.committed {
					return nil
				}
				return stop // the transaction did not happen
			})
			require.Equal(t, c.committed, err == nil)
			require.Len(t, away, 1)
			require.NoFileExists(t, file)
			if c.recreated {
				time.Sleep(time.Millisecond) // another time of creation
				_, err := rt.CreateVolume(ctx, VolumeOptions{Name: "a-b"})
				require.NoError(t, err)
			}
			require.NoError(t, rt.sweep(ctx))
			if c.kept {
				require.FileExists(t, file)
			} else {
				require.NoFileExists(t, file)
			}
			left, err := os.ReadDir(filepath.Join(rt.HomeDir(), "volumes"))
			require.NoError(t, err)
			for _, e := range left {
				require.Equal(t, "a-b", e.Name())
			}
		})
	}
}

// TestMadeVolumes has a box that never came to be used, which takes along what was made
// with it, content and all.
func TestMadeVolumes(t *testing.T) {
	ctx, rt := t.Context(), newRuntime(t)
	there, err := rt.CreateVolume(ctx, VolumeOptions{Name: "there"})
	require.NoError(t, err)
	made := func() *LiteBox {
		b, err := rt.Create(ctx, BoxOptions{KeepOnStop: true, Volumes: []VolumeSpec{{Name: "there", GuestPath: "/t"}, {Name: "new", GuestPath: "/n"}, {GuestPath: "/a"}}}, "")
		require.NoError(t, err)
		require.NoError(t, rt.ensureVolume(ctx, "new"))
		return b
	}
	b := made()
	require.NoError(t, rt.RemoveWith(ctx, string(b.ID()), RemoveOptions{MadeVolumes: true}))
	list, err := rt.Volumes(ctx)
	require.NoError(t, err)
	require.Equal(t, []VolumeInfo{there}, list)
	require.NoDirExists(t, rt.volumeDir("new"))
	b = made()
	require.NoError(t, rt.RemoveWith(ctx, string(b.ID()), RemoveOptions{Volumes: true}))
	_, err = rt.GetVolume(ctx, "new")
	require.NoError(t, err, "it has a name of its own")
}
