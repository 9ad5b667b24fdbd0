package fs_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/machine"
	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/fs"
)

// inGuest is in the environment of the guest's first process, from the kernel's
// command line.
const inGuest = "BOXLITE_FS_GUEST"

// shareDir is in the environment of test processes in the guest.
const shareDir = "BOXLITE_FS_SHARE"

// allPackages is in the environment where TestPackages makes them all.
const allPackages = "BOXLITE_FS_PACKAGES"

func TestMain(m *testing.M) {
	if os.Getenv(inGuest) != "" && os.Getpid() == 1 {
		guestInit()
	}
	os.Exit(m.Run())
}

// TestGuestMounts lets the guest's kernel be the client: this binary is the guest's
// init, mounts shares of all kinds, and works in them.
func TestGuestMounts(t *testing.T) {
	machinetest.Need(t)
	dirs := map[string]string{}
	var devices []virtio.Device
	for tag, c := range map[string]fs.Config{
		"auto":   {},
		"none":   {Cache: fs.CacheNone},
		"always": {Cache: fs.CacheAlways, Writeback: true, Owner: fs.OwnerXattr, SharedLocks: true},
		"few":    {MaxDescriptors: 64, SharedLocks: true},
		"ro":     {ReadOnly: true},
		"file":   {File: "single"},
	} {
		dirs[tag] = t.TempDir()
		require.NoError(t, os.Chmod(dirs[tag], 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dirs[tag], "host"), []byte("from the host\n"), 0o644))
		c.Path, c.Tag, c.Queues = dirs[tag], tag, 2
		c.Log = t.Logf
		if tag == "file" {
			c.Path = filepath.Join(dirs[tag], "host")
		}
		d, err := fs.New(c)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, d.Close()) })
		devices = append(devices, d)
	}
	runGuest(t, 2, devices, inGuest+"=1"+soak())
	for _, tag := range []string{"auto", "none", "always", "few"} {
		p, err := os.ReadFile(filepath.Join(dirs[tag], "big"))
		require.NoError(t, err, tag)
		require.True(t, bytes.Equal(pattern(3<<20+5), p), tag)
		p, err = os.ReadFile(filepath.Join(dirs[tag], "mapped"))
		require.NoError(t, err, tag)
		require.Equal(t, "written through a mapping", string(p[5000:5025]), tag)
	}
	for _, tag := range []string{"auto", "always"} {
		if proven(tag) {
			checkPackages(t, dirs[tag])
			checkBlocks(t, dirs[tag])
		}
	}
}

// TestGuestPackages has the guest work on a tree of 20,000 files, and compares each
// with what the host sees.
func TestGuestPackages(t *testing.T) {
	machinetest.Need(t)
	t.Setenv(allPackages, "1")
	dir := t.TempDir()
	d, err := fs.New(fs.Config{Path: dir, Tag: "auto", Queues: 2, Log: t.Logf})
	require.NoError(t, err)
	defer d.Close()
	// One CPU: two share that of the rig, and get half as far in the time.
	runGuest(t, 1, []virtio.Device{d}, inGuest+"=packages "+allPackages+"=1")
	checkPackages(t, dir)
}

// runGuest runs this binary as the init of a guest until it is content.
func runGuest(t *testing.T, cpus int, devices []virtio.Device, environment string) {
	kernel, err := os.Open(machinetest.Kernel(t))
	require.NoError(t, err)
	defer kernel.Close()
	initrd, err := os.Open(initramfs(t))
	require.NoError(t, err)
	defer initrd.Close()
	out := new(console)
	m, err := machine.New(machine.Config{
		CPUs: cpus, MemoryMiB: 256, Kernel: kernel, Initrd: initrd, Serial: out, Devices: devices,
		Cmdline: "console=ttyS0 quiet loglevel=4 reboot=t panic=-1 tsc=reliable no_timer_check cryptomgr.notests random.trust_cpu=on " + environment,
	})
	require.NoError(t, err)
	defer m.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	_, err = m.Run(ctx)
	require.NoError(t, err)
	require.Contains(t, out.String(), "the guest is content", out.String())
	t.Log(out.String()) // how long the parts took
}

// proven are the shares that guestTests works on: more with BOXLITE_SOAK.
func proven(tag string) bool {
	return tag == "auto" || tag == "always" && machinetest.Soak()
}

// soak hands BOXLITE_SOAK on to the guest.
func soak() string {
	if v := os.Getenv(machinetest.SoakEnv); v != "" {
		return " " + machinetest.SoakEnv + "=" + v
	}
	return ""
}

type console struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.Write(p)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.String()
}

// initramfs packs this binary as /init (Documentation/driver-api/early-userspace/buffer-format.rst).
func initramfs(t testing.TB) string {
	self, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	var b bytes.Buffer
	add := func(name string, mode uint32, major, minor int, data []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 0, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
		b.WriteString(name + "\x00")
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
		b.Write(data)
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	add("dev", unix.S_IFDIR|0o755, 0, 0, nil)
	add("dev/console", unix.S_IFCHR|0o600, 5, 1, nil)
	add("init", unix.S_IFREG|0o755, 0, 0, self)
	add("TRAILER!!!", 0, 0, 0, nil)
	path := filepath.Join(t.TempDir(), "initramfs")
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o644))
	return path
}

func pattern(n int) []byte {
	p := make([]byte, n)
	x := uint32(1)
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
	}
	return p
}

// guestInit is all that runs in the guest. It ends the machine.
func guestInit() {
	defer func() {
		if r := recover(); r != nil {
			fmt.Println("the guest is not content:", r)
		}
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}()
	if os.Getenv(inGuest) == "hostile" {
		guestHostile()
		fmt.Println("the guest is content")
		return
	}
	tags := []string{"auto", "none", "always", "few", "ro", "file"}
	if os.Getenv(inGuest) == "packages" {
		tags = tags[:1]
	}
	for _, tag := range tags {
		start := time.Now()
		dir := "/mnt-" + tag
		check(tag, os.Mkdir(dir, 0o755))
		check(tag, unix.Mount(tag, dir, "virtiofs", 0, ""))
		if os.Getenv(inGuest) == "packages" {
			guestTests(tag, dir, "TestPackages")
			continue
		}
		switch tag {
		case "ro":
			guestReadOnly(dir)
		case "file":
			p, err := os.ReadFile(dir + "/single")
			check(tag, err)
			same(tag, string(p), "from the host\n")
			refused(tag, os.WriteFile(dir+"/other", nil, 0o644), unix.EPERM)
		default:
			guestWork(tag, dir)
			fmt.Println("worked:", tag, time.Since(start))
			if proven(tag) {
				guestTests(tag, dir, "TestPosix", "TestPackages", "TestChecksums")
			}
			if tag == "always" {
				guestACL(dir)
			}
		}
		check(tag, unix.Unmount(dir, 0))
		fmt.Println("done:", tag, time.Since(start))
	}
	fmt.Println("the guest is content")
}

func check(what string, err error) {
	if err != nil {
		panic(fmt.Sprintf("%s: %v", what, err))
	}
}

func same[T comparable](what string, got, want T) {
	if got != want {
		panic(fmt.Sprintf("%s: %v, want %v", what, got, want))
	}
}

func refused(what string, err error, want syscall.Errno) {
	var e syscall.Errno
	switch x := err.(type) {
	case syscall.Errno:
		e = x
	case *os.PathError:
		e, _ = x.Err.(syscall.Errno)
	}
	same(what, e, want)
}

// guestTests runs tests of this binary on a share.
func guestTests(tag, dir string, tests ...string) {
	c := exec.Command("/init", "-test.run=^("+strings.Join(tests, "|")+")$", "-test.count=1", "-test.v")
	c.Env = append(os.Environ(), shareDir+"="+dir)
	c.Stdin, c.Stderr = os.Stdin, os.Stderr
	out, err := c.Output()
	if err != nil {
		fmt.Printf("%s: %v\n%s", tag, err, out)
	}
	check(tag+": tests", err)
	for line := range strings.Lines(string(out)) {
		if took, ok := strings.CutPrefix(strings.TrimSpace(line), "--- PASS: "); ok {
			fmt.Println("passed:", took)
		}
	}
	same(tag+": tests that ran", strings.Count("\n"+string(out), "\n--- PASS: "), len(tests))
}

func guestReadOnly(dir string) {
	p, err := os.ReadFile(dir + "/host")
	check("read", err)
	same("contents", string(p), "from the host\n")
	check("remount", unix.Mount("", dir, "", unix.MS_REMOUNT, "")) // read-write, thinks the guest
	refused("write", os.WriteFile(dir+"/host", nil, 0o644), unix.EROFS)
	refused("create", os.WriteFile(dir+"/new", nil, 0o644), unix.EROFS)
	refused("mkdir", os.Mkdir(dir+"/new", 0o755), unix.EROFS)
	refused("remove", unix.Unlink(dir+"/host"), unix.EROFS)
	refused("chmod", unix.Chmod(dir+"/host", 0o600), unix.EROFS)
}

func guestWork(tag, dir string) {
	at := func(name string) string { return dir + "/" + name }
	step := func(what string) string { return tag + ": " + what }
	p, err := os.ReadFile(at("host"))
	check(step("read"), err)
	same(step("contents"), string(p), "from the host\n")

	big := pattern(3<<20 + 5)
	check(step("write"), os.WriteFile(at("big"), big, 0o644))
	p, err = os.ReadFile(at("big"))
	check(step("read back"), err)
	same(step("the same"), bytes.Equal(p, big), true)

	f, err := os.OpenFile(at("mapped"), os.O_RDWR|os.O_CREATE, 0o600)
	check(step("create"), err)
	check(step("truncate"), f.Truncate(10000))
	m, err := unix.Mmap(int(f.Fd()), 0, 10000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(step("mmap"), err)
	copy(m[5000:], "written through a mapping")
	check(step("msync"), unix.Msync(m, unix.MS_SYNC))
	check(step("munmap"), unix.Munmap(m))
	check(step("fsync"), f.Sync())
	_, err = f.WriteAt([]byte("start"), 0)
	check(step("write"), err)
	check(step("close"), f.Close())

	f, err = os.OpenFile(at("gone"), os.O_RDWR|os.O_CREATE, 0o600)
	check(step("create"), err)
	check(step("remove"), os.Remove(at("gone")))
	_, err = f.WriteString("still here")
	check(step("write"), err)
	info, err := f.Stat()
	check(step("fstat of what is gone"), err)
	same(step("size"), info.Size(), 10)
	check(step("ftruncate"), f.Truncate(3))
	check(step("fchmod"), f.Chmod(0o640))
	f.Close()

	f, err = os.OpenFile(at("log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	check(step("append"), err)
	for i := range 10 {
		_, err = fmt.Fprintln(f, i)
		check(step("append"), err)
	}
	f.Close()
	p, _ = os.ReadFile(at("log"))
	same(step("log"), string(p), "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n")

	check(step("mkdir"), os.MkdirAll(at("a/b/c"), 0o755))
	files := long(100) // more than one answer lists
	if !proven(tag) {
		files = 30
	}
	for i := range files {
		check(step("create"), os.WriteFile(at(fmt.Sprintf("a/b/%03d-%s", i, strings.Repeat("x", i%100))), []byte{byte(i)}, 0o644))
	}
	entries, err := os.ReadDir(at("a/b"))
	check(step("readdir"), err)
	same(step("entries"), len(entries), files+1)
	for _, e := range entries {
		_, err := e.Info()
		check(step("lstat"), err)
	}
	check(step("rename"), os.Rename(at("a/b"), at("a/renamed")))
	p, err = os.ReadFile(at("a/renamed/007-xxxxxxx"))
	check(step("read after rename"), err)
	same(step("contents"), p[0], 7)
	check(step("symlink"), os.Symlink("a/renamed/c", at("link")))
	check(step("through a link"), os.WriteFile(at("link/inside"), nil, 0o600))
	check(step("link"), os.Link(at("log"), at("log2")))
	var st unix.Stat_t
	check(step("stat"), unix.Stat(at("log2"), &st))
	same(step("links"), uint64(st.Nlink), 2)
	check(step("exchange"), unix.Renameat2(unix.AT_FDCWD, at("log"), unix.AT_FDCWD, at("mapped"), unix.RENAME_EXCHANGE))
	check(step("exchange"), unix.Renameat2(unix.AT_FDCWD, at("log"), unix.AT_FDCWD, at("mapped"), unix.RENAME_EXCHANGE))

	check(step("chmod"), os.Chmod(at("log"), 0o711))
	check(step("chown"), os.Chown(at("log"), 33, 34))
	check(step("stat"), unix.Stat(at("log"), &st))
	same(step("mode"), st.Mode, unix.S_IFREG|0o711)
	if tag == "always" {
		same(step("owner"), st.Uid, 33)
		check(step("mknod"), unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		null, err := os.OpenFile(at("null"), os.O_WRONLY, 0)
		check(step("a device of the guest"), err)
		_, err = null.WriteString("x")
		check(step("a device of the guest"), err)
		null.Close()
	} else {
		same(step("owner"), st.Uid, 0)
		refused(step("mknod"), unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), unix.EPERM)
	}
	check(step("mkfifo"), unix.Mkfifo(at("fifo"), 0o600))
	fifo, err := os.OpenFile(at("fifo"), os.O_RDWR, 0)
	check(step("fifo"), err)
	_, err = fifo.WriteString("x")
	check(step("fifo"), err)
	fifo.Close()
	when := time.Unix(1234567890, 123456789)
	check(step("utimes"), os.Chtimes(at("log"), when, when))
	info, err = os.Stat(at("log"))
	check(step("stat"), err)
	same(step("mtime"), info.ModTime().UnixNano(), when.UnixNano())
	var stx unix.Statx_t
	check(step("statx"), unix.Statx(unix.AT_FDCWD, at("log"), 0, unix.STATX_BTIME, &stx))
	if err := unix.Setxattr(at("log"), "user.x", []byte("value"), 0); err != unix.EOPNOTSUPP { // of the host's tmpfs
		check(step("setxattr"), err)
		var buf [100]byte
		n, err := unix.Getxattr(at("log"), "user.x", buf[:])
		check(step("getxattr"), err)
		same(step("xattr"), string(buf[:n]), "value")
	}
	one, err := os.OpenFile(at("log"), os.O_RDWR, 0)
	check(step("open"), err)
	two, err := os.OpenFile(at("log"), os.O_RDWR, 0)
	check(step("open"), err)
	check(step("flock"), unix.Flock(int(one.Fd()), unix.LOCK_EX))
	refused(step("flock"), unix.Flock(int(two.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
	got := make(chan error)
	go func() { got <- unix.Flock(int(two.Fd()), unix.LOCK_EX) }()
	time.Sleep(50 * time.Millisecond)
	one.Close()
	check(step("flock after a wait"), <-got)
	lk := unix.Flock_t{Type: unix.F_WRLCK, Len: 10}
	check(step("fcntl"), unix.FcntlFlock(two.Fd(), unix.F_SETLK, &lk))
	check(step("fallocate"), unix.Fallocate(int(two.Fd()), 0, 0, 100))
	three, err := os.Create(at("copy"))
	check(step("create"), err)
	n, err := unix.CopyFileRange(int(two.Fd()), nil, int(three.Fd()), nil, 100, 0)
	check(step("copy_file_range"), err)
	same(step("copied"), n, 100)
	two.Close()
	three.Close()
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != unix.EOPNOTSUPP {
		check(step("tmpfile"), err)
		_, err = unix.Write(fd, []byte("x"))
		check(step("tmpfile"), err)
		unix.Close(fd)
	}
	var sfs unix.Statfs_t
	check(step("statfs"), unix.Statfs(dir, &sfs))
	check(step("syncfs"), func() error { d, _ := os.Open(dir); defer d.Close(); return unix.Syncfs(int(d.Fd())) }())
	check(step("remove all"), os.RemoveAll(at("a")))
	_, err = os.Stat(at("link/inside"))
	refused(step("gone"), err, unix.ENOENT)
}
