package runtime

import (
	"crypto/md5"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// hostDir makes a folder with files of these contents.
func hostDir(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	for name, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

func hostText(t testing.TB, parts ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	require.NoError(t, err)
	return string(b)
}

// script runs a shell script that must succeed, and returns what it printed.
func script(t testing.TB, b *LiteBox, text string, change ...func(BoxCommand) BoxCommand) string {
	t.Helper()
	cmd := sh("set -e\n" + text)
	for _, f := range change {
		cmd = f(cmd)
	}
	stdout, stderr, r := output(t, b, cmd)
	require.Zero(t, r.ExitCode, "%s\n%s%s", text, stdout, stderr)
	return stdout
}

func asUser(user string) func(BoxCommand) BoxCommand {
	return func(c BoxCommand) BoxCommand { return c.User(user) }
}

// TestGuestVolumes has one box with mounts of all kinds.
func TestGuestVolumes(t *testing.T) {
	rt, ctx := newGuestRuntime(t), testContext(t)
	rw := hostDir(t, map[string]string{"f": "host\n", "sub/x": "x"})
	ro := hostDir(t, map[string]string{"f": "safe\n"})
	nested := hostDir(t, map[string]string{"n": "nested\n"})
	files := hostDir(t, map[string]string{"one": "one\n", "two": "two\n", "secret": "secret"})
	full := t.TempDir()
	require.NoError(t, unix.Mount("small", full, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { unix.Unmount(full, unix.MNT_DETACH) })
	require.NoError(t, os.WriteFile(filepath.Join(full, "kept"), []byte("kept"), 0o644))

	opts := smallBox(t)
	opts.User, opts.KeepOnStop = "app", true
	opts.Volumes = []VolumeSpec{
		{HostPath: nested, GuestPath: "/v/rw/sub/deep"}, // before what it lies in
		{HostPath: rw, GuestPath: "/v/rw"},
		{HostPath: ro, GuestPath: "/v/ro", ReadOnly: true},
		{HostPath: filepath.Join(files, "one"), GuestPath: "/v/one"},
		{HostPath: filepath.Join(files, "two"), GuestPath: "/etc/motd", ReadOnly: true},
		{HostPath: full, GuestPath: "/v/full"},
		{GuestPath: "/v/own"},
	}
	opts.Tmpfs = []TmpfsSpec{{GuestPath: "/v/tmp", SizeBytes: 1 << 20, Mode: 0o700}, {GuestPath: "/dev/shm", SizeBytes: 8 << 20}, {GuestPath: "/v/exec", Exec: true}}
	b, err := rt.Create(ctx, opts, "volumes")
	require.NoError(t, err)
	t.Cleanup(func() { rt.RemoveWith(ctx, "volumes", RemoveOptions{Force: true, Volumes: true}) })
	root := asUser("root")

	t.Run("read and write", func(t *testing.T) {
		require.Equal(t, "host\n", script(t, b, "cat /v/rw/f; echo guest >/v/rw/g; rm /v/rw/sub/x; mkdir /v/rw/d; mv /v/rw/g /v/rw/d/g; ln -s d/g /v/rw/l"))
		require.Equal(t, "guest\n", hostText(t, rw, "d", "g"))
		require.NoFileExists(t, filepath.Join(rw, "sub", "x"))
		link, err := os.Readlink(filepath.Join(rw, "l"))
		require.NoError(t, err)
		require.Equal(t, "d/g", link)
		require.NoError(t, os.WriteFile(filepath.Join(rw, "later"), []byte("later\n"), 0o644))
		require.Equal(t, "later\n", script(t, b, "cat /v/rw/later"))
	})
	t.Run("owners", func(t *testing.T) {
		// The box's user is the host's: uid 1000 of the image, root of the rig.
		require.Equal(t, "1000 1000\n1000\n", script(t, b, "stat -c '%u %g' /v/rw/f; echo x >/v/rw/mine; stat -c %u /v/rw/mine"))
		fi, err := os.Stat(filepath.Join(rw, "mine"))
		require.NoError(t, err)
		require.EqualValues(t, os.Getuid(), fi.Sys().(*syscall.Stat_t).Uid)
		script(t, b, "chown 0:0 /v/rw/mine; chmod 4755 /v/rw/mine", root)
		fi, err = os.Stat(filepath.Join(rw, "mine"))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o755), fi.Mode(), "no set-id bit on the host")
	})
	t.Run("read-only", func(t *testing.T) {
		out := script(t, b, `cat /v/ro/f
			for c in 'echo x >/v/ro/f' 'echo x >/v/ro/new' 'rm /v/ro/f' 'mkdir /v/ro/d' 'chmod 777 /v/ro/f' 'mv /v/ro/f /v/ro/g' 'touch /v/ro/f' 'echo x >>/etc/motd'; do
				if sh -c "$c" 2>/dev/null; then echo "worked: $c"; fi
			done
			mount -o remount,rw /v/ro 2>/dev/null || true
			echo x >/v/ro/new 2>/dev/null && echo "worked after remount" || true`, root)
		require.Equal(t, "safe\n", out)
		require.Equal(t, "safe\n", hostText(t, ro, "f"))
		entries, err := os.ReadDir(ro)
		require.NoError(t, err)
		require.Len(t, entries, 1)
	})
	t.Run("nested", func(t *testing.T) {
		require.Equal(t, "nested\n", script(t, b, "cat /v/rw/sub/deep/n; echo more >/v/rw/sub/deep/m"))
		require.Equal(t, "more\n", hostText(t, nested, "m"))
		require.DirExists(t, filepath.Join(rw, "sub", "deep"), "the place was made in the outer one")
		require.NoFileExists(t, filepath.Join(rw, "sub", "deep", "m"))
	})
	t.Run("single files", func(t *testing.T) {
		require.Equal(t, "one\ntwo\n", script(t, b, "cat /v/one /etc/motd; echo changed >/v/one"))
		require.Equal(t, "changed\n", hostText(t, files, "one"))
		// What lies beside it is out of reach, also of the guest's root.
		require.Equal(t, "file\n", script(t, b, "mkdir /tmp/all; mount -t virtiofs $(awk '$2==\"/v/one\"{print $1}' /proc/mounts) /tmp/all; ls /tmp/all; umount /tmp/all", root))
		// Another file under its name: the box keeps the one it has.
		require.NoError(t, os.WriteFile(filepath.Join(files, "new"), []byte("new\n"), 0o644))
		require.NoError(t, os.Rename(filepath.Join(files, "new"), filepath.Join(files, "one")))
		require.Equal(t, "changed\n", script(t, b, "cat /v/one"))
	})
	t.Run("replaced under an open handle", func(t *testing.T) {
		require.NoError(t, os.WriteFile(filepath.Join(rw, "next"), []byte("new content\n"), 0o644))
		ex, err := b.Run(ctx, sh("exec 3<>/v/rw/f; echo open; read go; cat <&3; echo old >&3; cat /v/rw/f"))
		require.NoError(t, err)
		lines := Lines(ex.Stdout())
		next := func() string {
			for line, err := range lines {
				require.NoError(t, err)
				return line
			}
			return ""
		}
		require.Equal(t, "open", next())
		require.NoError(t, os.Link(filepath.Join(rw, "f"), filepath.Join(rw, "old")))
		require.NoError(t, os.Rename(filepath.Join(rw, "next"), filepath.Join(rw, "f")))
		// A name is believed for a second; a look at it after that must find the new one.
		_, err = ex.Stdin().Write([]byte("go\n"))
		require.NoError(t, err)
		require.Equal(t, "host", next())
		_, err = ex.Wait(ctx)
		require.NoError(t, err)
		require.Equal(t, "host\nold\n", hostText(t, rw, "old"), "the handle has the file that it opened")
		require.Equal(t, "new content\n", hostText(t, rw, "f"))
		require.Equal(t, "new content\n", script(t, b, "sleep 1.1; cat /v/rw/f"))
	})
	t.Run("host's disk full", func(t *testing.T) {
		out := script(t, b, "dd if=/dev/zero of=/v/full/big bs=64k count=64 2>&1 || echo failed; cat /v/full/kept; rm /v/full/big; echo ok >/v/full/after")
		require.Contains(t, out, "No space left on device")
		require.Contains(t, out, "failed")
		require.Contains(t, out, "kept")
		require.Equal(t, "kept", hostText(t, full, "kept"))
		require.Equal(t, "ok\n", hostText(t, full, "after"))
	})
	t.Run("tmpfs", func(t *testing.T) {
		out := script(t, b, `stat -c '%a %u' /v/tmp; df -k /v/tmp /dev/shm | awk 'NR>1{print $2}'
			dd if=/dev/zero of=/v/tmp/big bs=64k count=64 2>&1 | grep -o 'No space.*'; rm /v/tmp/big
			for d in /v/tmp /v/exec; do printf '#!/bin/sh\necho ran\n' >$d/run; chmod 755 $d/run; $d/run 2>/dev/null || echo "cannot run"; done`, root)
		require.Equal(t, "700 0\n1024\n8192\nNo space left on device\ncannot run\n", strings.Replace(out, "ran\n", "", 1))
		require.Contains(t, out, "ran\n")
	})
	t.Run("again after a stop", func(t *testing.T) {
		script(t, b, "echo here >/v/own/f; echo gone >/v/exec/f", root)
		require.NoError(t, b.Stop(ctx))
		require.Equal(t, "here\nguest\nnested\nnew\n", script(t, b, "cat /v/own/f /v/rw/d/g /v/rw/sub/deep/n /v/one; test ! -e /v/exec/f"))
		require.NoError(t, b.Stop(ctx))
		moved := ro + "-moved"
		require.NoError(t, os.Rename(ro, moved))
		err := b.Start(ctx)
		require.ErrorIs(t, err, ErrInvalidArgument)
		require.ErrorContains(t, err, "volume "+ro+": there is no such file or folder on this host")
		require.NoError(t, os.Rename(moved, ro))
		require.NoError(t, b.Start(ctx))
	})
	t.Run("removal leaves the host alone", func(t *testing.T) {
		own := b.Options().Volumes[6].Name
		require.FileExists(t, filepath.Join(rt.HomeDir(), "volumes", own, "data", "f"))
		require.NoError(t, rt.RemoveWith(ctx, "volumes", RemoveOptions{Force: true, Volumes: true}))
		require.Equal(t, "guest\n", hostText(t, rw, "d", "g"))
		require.Equal(t, "safe\n", hostText(t, ro, "f"))
		require.NoDirExists(t, filepath.Join(rt.HomeDir(), "volumes", own))
	})
}

// TestGuestVolumeMany has a volume for each place that a machine has, so that each
// interrupt line is shared.
func TestGuestVolumeMany(t *testing.T) {
	rt, ctx := newGuestRuntime(t), testContext(t)
	opts := smallBox(t)
	opts.CPUs = 2
	var dirs []string
	for i := range MaxVolumes {
		dirs = append(dirs, hostDir(t, map[string]string{"n": fmt.Sprint(i)}))
		opts.Volumes = append(opts.Volumes, VolumeSpec{HostPath: dirs[i], GuestPath: fmt.Sprintf("/v/%d", i)})
	}
	b, err := rt.Create(ctx, opts, "")
	require.NoError(t, err)
	script(t, b, `cd /v; for i in *; do
		(test "$(cat $i/n)" = $i; dd if=/dev/urandom of=$i/big bs=100k count=3 2>/dev/null; md5sum <$i/big >$i/sum) &
		done; wait; sync; cat /etc/passwd >/tmp/x`)
	for i, dir := range dirs {
		p, err := os.ReadFile(filepath.Join(dir, "big"))
		require.NoError(t, err, "volume %d", i)
		require.Len(t, p, 300<<10)
		require.Equal(t, fmt.Sprintf("%x  -\n", md5.Sum(p)), hostText(t, dir, "sum"))
	}
	require.NoError(t, b.Stop(ctx))
}

// TestGuestVolumeNamed shares volumes of the home between boxes.
func TestGuestVolumeNamed(t *testing.T) {
	rt, ctx := newGuestRuntime(t), testContext(t)
	t.Cleanup(func() { rt.PruneVolumes(ctx, VolumePruneOptions{All: true}) })
	box := func(user string, volumes ...VolumeSpec) *LiteBox {
		opts := smallBox(t)
		opts.User, opts.Volumes = user, volumes
		b, err := rt.Create(ctx, opts, "")
		require.NoError(t, err)
		t.Cleanup(func() { b.Stop(ctx) })
		return b
	}
	// The image's content comes first; owners, modes and devices are kept.
	one := box("app", VolumeSpec{Name: "data", GuestPath: "/home"}, VolumeSpec{Name: "empty", GuestPath: "/etc", NoCopy: true}, VolumeSpec{GuestPath: "/made"})
	root := asUser("0:0") // /etc is empty
	require.Equal(t, "1000\n0\n", script(t, one, "stat -c %u /home/app /home; test -z \"$(ls /etc)\"; test ! -e /made/*", root))
	script(t, one, "cd /home; echo x >f; chown 12:34 f; chmod 4711 f; mknod dev c 1 3; mkdir d; chmod 0 d; touch /made/f", root)
	script(t, one, "touch /home/app/own", asUser("1000:1000"))
	require.NoError(t, one.Stop(ctx))
	list, err := rt.Volumes(ctx)
	require.NoError(t, err)
	require.Len(t, list, 2, "the anonymous one went with its box")

	// At once: what one writes the other reads.
	self, err := os.Executable()
	require.NoError(t, err)
	locker := VolumeSpec{HostPath: self, GuestPath: "/bin/locker", ReadOnly: true}
	a := box("", VolumeSpec{Name: "data", GuestPath: "/home", SharedLocks: true}, locker)
	b := box("", VolumeSpec{Name: "data", GuestPath: "/data", SharedLocks: true}, locker)
	require.Equal(t, "4711 12 34\ncharacter special file 1 3\n0\n1000 1000\n",
		script(t, a, "cd /home; stat -c '%a %u %g' f; stat -c '%F %t %T' dev; stat -c %a d; stat -c '%u %g' app/own"))
	script(t, a, "echo from a >/home/shared")
	require.Equal(t, "from a\n", script(t, b, "cat /data/shared; echo from b >>/data/shared"))
	require.Equal(t, "from a\nfrom b\n", script(t, a, "sleep 1.1; cat /home/shared"))
	lock := func(path string) BoxCommand { return Command("/bin/locker").Env(lockEnv, path) }
	ex, err := a.Run(ctx, lock("/home/lock"))
	require.NoError(t, err)
	for line, err := range Lines(ex.Stdout()) {
		require.NoError(t, err)
		require.Equal(t, "locked", line)
		break
	}
	held, _, _ := output(t, b, lock("/data/lock"))
	require.Equal(t, "held\n", held)
	f, err := os.Open(filepath.Join(rt.volumeDir("data"), volumeData, "lock"))
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, unix.EWOULDBLOCK, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), "it holds on the host, too")
	require.NoError(t, ex.Stdin().Close())
	_, err = ex.Wait(ctx)
	require.NoError(t, err)
	free, errs, _ := output(t, b, lock("/data/lock"))
	require.Equal(t, "locked\n", free, errs)
	err = rt.RemoveVolume(ctx, "data")
	require.ErrorIs(t, err, ErrInvalidState)
	require.ErrorContains(t, err, string(a.ID()))
	require.NoError(t, a.Stop(ctx))
	require.NoError(t, b.Stop(ctx))
	require.NoError(t, rt.RemoveVolume(ctx, "data"))
}

// TestGuestVolumeRefused is what only a guest can say of a volume.
func TestGuestVolumeRefused(t *testing.T) {
	rt, ctx := newGuestRuntime(t), testContext(t)
	dir := hostDir(t, map[string]string{"f": ""})
	for name, c := range map[string]struct {
		volumes []VolumeSpec
		want    string
	}{
		"folder on a file": {[]VolumeSpec{{HostPath: dir, GuestPath: "/etc/passwd"}}, "volume at /etc/passwd: a folder is mounted, but there is a file: choose another path in the box"},
		"in a read-only one": {[]VolumeSpec{{HostPath: dir, GuestPath: "/a", ReadOnly: true}, {HostPath: dir, GuestPath: "/a/b"}},
			"volume at /a/b: making /a/b: read-only file system"},
	} {
		t.Run(name, func(t *testing.T) {
			opts := smallBox(t)
			opts.Volumes = c.volumes
			b, err := rt.Create(ctx, opts, "")
			require.NoError(t, err)
			err = b.Start(ctx)
			require.ErrorIs(t, err, ErrEngine)
			require.ErrorContains(t, err, c.want)
		})
	}
	// What a box has put in the way of its own mounts.
	opts := smallBox(t)
	opts.KeepOnStop = true
	opts.Volumes = []VolumeSpec{{HostPath: dir, GuestPath: "/way/to/it"}}
	b, err := rt.Create(ctx, opts, "")
	require.NoError(t, err)
	t.Cleanup(func() { rt.Remove(ctx, string(b.ID()), true) })
	script(t, b, "umount /way/to/it; rmdir /way/to/it; ln -s /proc /way/to/it")
	require.NoError(t, b.Stop(ctx))
	err = b.Start(ctx)
	require.ErrorIs(t, err, ErrEngine)
	require.ErrorContains(t, err, "volume at /way/to/it: it leads into one of the kernel's file systems")
}

// TestGuestVolumeFillKilled kills VMs while they fill a new volume with what the image
// has: the next box with that volume finds all of it.
func TestGuestVolumeFillKilled(t *testing.T) {
	rt, ctx := newGuestRuntime(t), testContext(t)
	t.Cleanup(func() { rt.PruneVolumes(ctx, VolumePruneOptions{All: true}) })
	const listing = "cd /sbin && stat -c '%a %u %g' . && stat -c '%N %a %u %g %h' * | sort"
	opts := smallBox(t)
	plain, err := rt.Create(ctx, opts, "")
	require.NoError(t, err)
	want := script(t, plain, listing)
	require.NoError(t, plain.Stop(ctx))
	require.Greater(t, strings.Count(want, "\n"), 40)

	opts.Volumes = []VolumeSpec{{Name: "data", GuestPath: "/sbin"}}
	data := filepath.Join(rt.volumeDir("data"), volumeData)
	entries := func(name string) int { // of a folder in the volume; -1 if it is not there
		list, err := os.ReadDir(filepath.Join(data, name))
		if err != nil {
			return -1
		}
		return len(list)
	}
	for name, reached := range map[string]func() bool{
		"begun":      func() bool { return entries(agentapi.Populating) >= 0 },
		"in between": func() bool { return entries(agentapi.Populating) > 10 },
		"whole":      func() bool { return entries(agentapi.Populated) >= 0 },
		"some moved": func() bool { return entries(agentapi.Populated) >= 0 && entries("") > 10 },
	} {
		t.Run(name, func(t *testing.T) {
			killed := false
			for range 10 { // a moment may pass unseen
				if killed = killFiller(t, rt, opts, reached); killed {
					break
				}
				require.NoError(t, rt.RemoveVolume(ctx, "data"))
			}
			require.True(t, killed)
			b, err := rt.Create(ctx, opts, "")
			require.NoError(t, err)
			require.Equal(t, want, script(t, b, listing))
			require.NoError(t, b.Stop(ctx))
			require.NoError(t, rt.RemoveVolume(ctx, "data"))
		})
	}
}

// killFiller starts a box, and kills its VM when a moment is reached. It reports false
// where that was not before the box ran.
func killFiller(t *testing.T, rt *Runtime, opts BoxOptions, reached func() bool) bool {
	ctx := testContext(t)
	b, err := rt.Create(ctx, opts, "")
	require.NoError(t, err)
	started := make(chan error, 1)
	go func() { started <- b.Start(ctx) }()
	for !reached() {
		select {
		case err := <-started:
			require.NoError(t, err)
			require.NoError(t, b.Stop(ctx))
			return false
		case <-time.After(time.Millisecond):
		}
	}
	for pid, title := range vmmProcesses(t) {
		if strings.Contains(title, string(b.ID())) { // not somebody else's
			require.NoError(t, unix.Kill(pid, unix.SIGKILL))
		}
	}
	if err = <-started; err == nil {
		require.NoError(t, b.Stop(ctx))
		return false
	}
	if err := rt.Remove(ctx, string(b.ID()), true); !errors.Is(err, ErrNotFound) {
		require.NoError(t, err)
	}
	return true
}

// TestGuestVolumeOwnersCannotBeKept has the volumes of a home lie where files have no
// extended attributes: a box does not start with owners that would be lost, and does
// with those that need not be kept.
func TestGuestVolumeOwnersCannotBeKept(t *testing.T) {
	rt, ctx := newGuestRuntime(t), testContext(t)
	volumes := filepath.Join(rt.HomeDir(), volumesName)
	require.NoError(t, os.MkdirAll(volumes, 0o700))
	require.NoError(t, unix.Mount("without", volumes, "ramfs", 0, ""))
	t.Cleanup(func() {
		_, err := rt.PruneVolumes(ctx, VolumePruneOptions{All: true})
		require.NoError(t, err)
		require.NoError(t, unix.Unmount(volumes, unix.MNT_DETACH))
	})
	opts := smallBox(t)
	opts.Volumes = []VolumeSpec{{Name: "data", GuestPath: "/home"}}
	b, err := rt.Create(ctx, opts, "")
	require.NoError(t, err)
	err = b.Start(ctx)
	require.ErrorIs(t, err, ErrUnsupported)
	require.ErrorContains(t, err, "volume data: the file system of "+volumes+"/data/data has no user extended attributes")
	require.ErrorContains(t, err, "choose owners=mapped")
	require.Empty(t, vmmProcesses(t))
	require.NoError(t, rt.Remove(ctx, string(b.ID()), false))

	opts.Volumes[0].Owners, opts.User = OwnersMapped, "app"
	b, err = rt.Create(ctx, opts, "")
	require.NoError(t, err)
	require.Equal(t, "mine\n1000\n", script(t, b, "cat /home/app/file; echo x >/home/f; stat -c %u /home/f"))
	require.NoError(t, b.Stop(ctx))
	require.Equal(t, "x\n", hostText(t, volumes, "data", "data", "f"))
}
