package runtime

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

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
	vol := func(host, guest string) []VolumeSpec { return []VolumeSpec{{HostPath: host, GuestPath: guest}} }
	many := make([]VolumeSpec, MaxVolumes+1)
	for i := range many {
		many[i] = VolumeSpec{HostPath: dir, GuestPath: fmt.Sprintf("/v%d", i)}
	}
	for want, opts := range map[string]BoxOptions{
		"there is no such file or folder on this host: make it first": {Volumes: vol(dir+"/missing", "/v")},
		"something on the way there is a file, not a folder":          {Volumes: vol(file+"/x", "/v")},
		"is a file, not a folder":                                     {Volumes: vol(file+"/", "/v")},
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
	mounts, err := b.vmmMounts()
	require.NoError(t, err)
	var order []string
	for _, m := range mounts {
		order = append(order, m.Point.Path)
	}
	require.Equal(t, []string{"/a/b", "/a/b/c", "/dev/shm/x", "/proceed"}, order)
	require.True(t, mounts[1].Point.NoExec)
	require.Nil(t, mounts[1].Share)
}
