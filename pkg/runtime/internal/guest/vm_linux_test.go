package guest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/hv"
	"github.com/anthropics/boxlite/pkg/machine"
	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/anthropics/boxlite/pkg/oci/erofs"
	"github.com/anthropics/boxlite/pkg/runtime/internal/disk"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/blk"
	"github.com/anthropics/boxlite/pkg/virtio/vsock"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// vmBox is a real guest with the real init.
type vmBox struct {
	*Client
	t       testing.TB
	hello   agentapi.Hello
	ready   agentapi.Ready
	began   time.Time
	console bytes.Buffer // read it after ended
	ended   chan machine.Outcome
	dev     *vsock.Device
	m       *machine.Machine
}

type vsockDialer struct{ *vsock.Device }

func (d vsockDialer) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return d.Device.Dial(ctx, port)
}

const vmCmdline = "console=ttyS0 quiet loglevel=4 reboot=t panic=-1 tsc=reliable no_timer_check cryptomgr.notests random.trust_cpu=on rcupdate.rcu_expedited=1"

// bootVM boots with the given disks, /dev/vda first, and sets up.
func bootVM(t testing.TB, setup agentapi.Setup, disks ...blk.Backend) *vmBox {
	b := bootVMNoSetup(t, disks...)
	var err error
	b.ready, err = b.Setup(testContext(t), setup)
	require.NoError(t, err)
	return b
}

func bootVMNoSetup(t testing.TB, disks ...blk.Backend) *vmBox {
	machinetest.Need(t)
	b := &vmBox{t: t, began: time.Now(), ended: make(chan machine.Outcome, 1)}
	open := func(path string) *os.File {
		f, err := os.Open(path)
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	var devices []virtio.Device
	for _, d := range disks {
		dev, err := blk.New(d, blk.Config{})
		require.NoError(t, err)
		devices = append(devices, dev)
		t.Cleanup(func() { dev.Close() })
	}
	var err error
	b.dev, err = vsock.New(vsock.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { b.dev.Close() })
	l, err := b.dev.Listen(agentapi.PortControl)
	require.NoError(t, err)
	b.m, err = machine.New(machine.Config{
		CPUs: 1, MemoryMiB: 256, Kernel: open(machinetest.Kernel(t)), Initrd: open(machinetest.Initramfs(t)),
		Cmdline: vmCmdline, Devices: append(devices, b.dev), Serial: &b.console,
	})
	require.NoError(t, err)
	t.Cleanup(func() { b.m.Close() })
	go func() {
		outcome, _ := b.m.Run(context.Background())
		b.ended <- outcome
		l.Close()
	}()
	t.Cleanup(func() {
		b.m.Stop()
		outcome := <-b.ended
		b.ended <- outcome
		if t.Failed() {
			t.Logf("ended by %v; console:\n%s", outcome.Reason, b.console.String())
		}
	})
	conn, err := l.Accept()
	require.NoError(t, err)
	b.Client, b.hello, err = New(testContext(t), conn, vsockDialer{b.dev})
	require.NoError(t, err)
	t.Cleanup(func() { b.Client.Close() })
	return b
}

// waitEnd waits for the guest to reset itself.
func (b *vmBox) waitEnd() {
	b.t.Helper()
	select {
	case outcome := <-b.ended:
		b.ended <- outcome
		require.Contains(b.t, []hv.Reason{hv.ExitShutdown, hv.ExitReset}, outcome.Reason)
	case <-time.After(testTime):
		b.t.Fatal("the guest did not end")
	}
}

// image builds the read-only disk: this test binary as /bin/prog, and an /etc
// with oddities.
func image(t testing.TB) blk.Backend {
	machinetest.Need(t)
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp", "run", "var/lib"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	require.NoError(t, os.Chmod(filepath.Join(dir, "tmp"), 0o777|os.ModeSticky))
	self, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	write := func(name, content string, mode os.FileMode) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), mode))
	}
	write("bin/prog", string(self), 0o755)
	write("bin/true", trueELF, 0o755)
	write("etc/passwd", "root:x:0:0::/root:/bin/prog\nweb:x:1000:100::/home/web:/bin/prog\n", 0o644)
	write("etc/group", "root:x:0:\nusers:x:100:\naudio:x:29:web\n", 0o644)
	write("etc/hosts", "127.0.0.1 somewhere # longer than what replaces it "+strings.Repeat("x", 500)+"\n", 0o640)
	require.NoError(t, os.Chown(filepath.Join(dir, "etc/hosts"), 7, 8))
	require.NoError(t, os.Symlink("/run/systemd/resolve/stub-resolv.conf", filepath.Join(dir, "etc/resolv.conf")))
	var blob, meta, index bytes.Buffer
	_, err = erofs.FromDir(context.Background(), dir, &blob, &meta, erofs.Options{})
	require.NoError(t, err)
	_, err = erofs.Merge(context.Background(), &index, []erofs.LayerSource{{Meta: &meta}}, erofs.MergeOptions{})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "image")
	require.NoError(t, os.WriteFile(path, append(index.Bytes(), blob.Bytes()...), 0o644))
	d, err := blk.OpenFile(path, blk.Options{ReadOnly: true})
	require.NoError(t, err)
	return d
}

func writable(t testing.TB, path string) blk.Backend {
	d, err := blk.OpenFile(path, blk.Options{})
	require.NoError(t, err)
	return d
}

// runVM runs a verb of this binary in the guest.
func (b *vmBox) runVM(spec agentapi.ExecSpec, verb ...string) (string, agentapi.ExitStatus) {
	b.t.Helper()
	spec.Args = append([]string{"prog"}, verb...)
	spec.Env = append(spec.Env, programEnv+"=1")
	spec.Streams = agentapi.WantStdout | agentapi.WantStderr
	p, err := b.Exec(testContext(b.t), spec)
	require.NoError(b.t, err)
	defer p.Close()
	errs := make(chan string, 1)
	go func() {
		var e []byte
		if p.Stderr != nil {
			e, _ = io.ReadAll(p.Stderr)
		}
		errs <- string(e)
	}()
	out, err := io.ReadAll(p.Stdout)
	require.NoError(b.t, err)
	st, err := p.Wait(testContext(b.t))
	require.NoError(b.t, err)
	if e := <-errs; e != "" {
		b.t.Log("stderr:", e)
	}
	return string(out), st
}

func (b *vmBox) facts(spec agentapi.ExecSpec) map[string]string {
	out, st := b.runVM(spec, "facts")
	require.True(b.t, st.Success(), "%+v", st)
	m := map[string]string{}
	for line := range strings.Lines(out) {
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		m[k] = v
	}
	return m
}

const programEnv = "BOXLITE_TEST_PROGRAM"

// program is main of the binary inside the guest.
func program(args []string) int {
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(99)
		}
	}
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%q", b)
	}
	switch args[0] {
	case "true":
	case "facts":
		var u unix.Utsname
		check(unix.Uname(&u))
		fmt.Println("hostname=" + unix.ByteSliceToString(u.Nodename[:]))
		mounts, err := os.ReadFile("/proc/self/mounts")
		check(err)
		var list []string
		for line := range strings.Lines(string(mounts)) {
			f := strings.Fields(line)
			list = append(list, f[1]+":"+f[2])
		}
		sort.Strings(list)
		fmt.Println("mounts=" + strings.Join(list, " "))
		for _, f := range []string{"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/proc/self/cgroup", "/sys/fs/cgroup/cgroup.subtree_control"} {
			fmt.Println(f + "=" + read(f))
		}
		var st unix.Stat_t
		check(unix.Stat("/etc/hosts", &st))
		fmt.Printf("hosts-owner=%d:%d %o\n", st.Uid, st.Gid, st.Mode)
		var l unix.Rlimit
		check(unix.Getrlimit(unix.RLIMIT_NOFILE, &l))
		fmt.Println("nofile=", l.Cur, l.Max)
		fmt.Println("reboot=", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART))
		fmt.Println("admin=", unix.Sethostname([]byte(unix.ByteSliceToString(u.Nodename[:]))))
		c, err := net.Listen("tcp", "127.0.0.1:0")
		check(err)
		d, err := net.Dial("tcp", c.Addr().String())
		fmt.Println("loopback=", err)
		d.Close()
		groups, err := os.Getgroups()
		check(err)
		fmt.Println("ids=", os.Getuid(), os.Getgid(), groups, os.Getenv("HOME"))
		wd, err := os.Getwd()
		check(err)
		fmt.Println("dir=" + wd)
		root, err := os.ReadDir("/")
		check(err)
		list = nil
		for _, e := range root {
			list = append(list, e.Name())
		}
		fmt.Println("root=" + strings.Join(list, " "))
		var fs unix.Statfs_t
		check(unix.Statfs("/", &fs))
		fmt.Println("disk=", fs.Blocks*uint64(fs.Bsize)>>20)
		fmt.Println("clock=", time.Now().Unix())
		for _, f := range []string{"/dev/null", "/dev/fd/0", "/dev/ptmx", "/dev/shm", "/dev/mqueue", "/dev/pts"} {
			_, err := os.Stat(f)
			fmt.Println(f+"=", err)
		}
	case "write":
		check(os.WriteFile(args[1], []byte(args[2]), 0o644))
		f, err := os.Open(args[1])
		check(err)
		check(f.Sync())
	case "rename": // of a directory of the image
		check(os.Rename("/var/lib", "/var/lib2"))
	case "read":
		b, err := os.ReadFile(args[1])
		check(err)
		os.Stdout.Write(b)
	case "poweroff":
		check(unix.Kill(1, unix.SIGUSR2))
		time.Sleep(time.Minute)
	case "orphan":
		check(unix.Kill(1, 0))
		_, err := os.StartProcess("/bin/prog", []string{"prog", "sleep"}, &os.ProcAttr{Env: os.Environ(), Sys: &unix.SysProcAttr{Setsid: true}})
		check(err)
	case "sleep":
		time.Sleep(time.Hour)
	case "eat": // memory, until the cgroup's limit
		check(os.WriteFile("/sys/fs/cgroup"+strings.TrimPrefix(strings.TrimSpace(readRaw("/proc/self/cgroup")), "0::")+"/memory.max", []byte("67108864"), 0))
		var keep [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			keep = append(keep, b)
			if len(keep) > 1000 {
				return 1
			}
		}
	}
	return 0
}

func readRaw(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

func TestGuestRoots(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if os.Getenv(machinetest.RequireEnv) != "" {
		require.NoError(t, disk.Create(path, 3)) // the small template, to be grown
	}
	t.Run("none", func(t *testing.T) {
		b := bootVM(t, agentapi.Setup{Hostname: "bare"})
		_, err := b.Exec(testContext(t), agentapi.ExecSpec{Args: []string{"x"}})
		requireCode(t, agentapi.CodeNotFound, err)
		require.NoError(t, b.Shutdown(testContext(t), time.Second))
		b.waitEnd()
	})
	t.Run("tmpfs", func(t *testing.T) {
		b := bootVM(t, agentapi.Setup{Root: agentapi.Root{Kind: agentapi.RootTmpfs, Lower: "/dev/vda", Size: 64 << 20}}, image(t))
		f := b.facts(agentapi.ExecSpec{})
		require.Equal(t, "box", f["hostname"])
		require.Equal(t, " 64", f["disk"])
		_, st := b.runVM(agentapi.ExecSpec{}, "write", "/x", "y")
		require.True(t, st.Success())
		require.NoError(t, b.Shutdown(testContext(t), time.Second))
		b.waitEnd()
	})
	t.Run("disk", func(t *testing.T) {
		b := bootVM(t, agentapi.Setup{
			Root:     agentapi.Root{Kind: agentapi.RootDisk, Lower: "/dev/vda", Upper: "/dev/vdb"},
			Hostname: "full", Hosts: []agentapi.Host{{Addr: "10.1.2.3", Names: []string{"gw", "gateway"}}}, ResolvConf: "nameserver 10.1.2.3\n",
			Time: 2000000000e9,
		}, image(t), writable(t, path))
		t.Logf("init %v dialed %v ready %v, steps %v", b.hello.Init, b.hello.Dialed, b.ready.At, b.ready.Steps)
		f := b.facts(agentapi.ExecSpec{User: "web", Dir: "/made/dir"})
		require.Equal(t, "full", f["hostname"])
		require.Equal(t, "/:overlay /dev/mqueue:mqueue /dev/pts:devpts /dev/shm:tmpfs /dev:devtmpfs /proc:proc /run:tmpfs /sys/fs/cgroup:cgroup2 /sys:sysfs", f["mounts"])
		require.Equal(t, `"full\n"`, f["/etc/hostname"])
		require.Equal(t, `"nameserver 10.1.2.3\n"`, f["/etc/resolv.conf"])
		require.Equal(t, "7:8 100640", f["hosts-owner"])
		require.Equal(t, " 1048576 1048576", f["nofile"])
		require.Equal(t, " operation not permitted", f["reboot"])
		require.Equal(t, " <nil>", f["loopback"])
		require.Equal(t, " 1000 100 [29 100] /home/web", f["ids"])
		require.Equal(t, "/made/dir", f["dir"])
		require.Contains(t, f["/proc/self/cgroup"], "0::/exec-")
		for _, c := range []string{"memory", "pids", "cpu", "io"} {
			require.Contains(t, f["/sys/fs/cgroup/cgroup.subtree_control"], c)
		}
		require.Equal(t, "bin dev etc made proc run sys tmp var", f["root"])
		require.Regexp(t, `^ 20000000\d\d$`, f["clock"])
		for _, dev := range []string{"/dev/null", "/dev/fd/0", "/dev/ptmx", "/dev/shm", "/dev/mqueue", "/dev/pts"} {
			require.Equal(t, " <nil>", f[dev], dev)
		}
		var mib int
		_, err := fmt.Sscan(f["disk"], &mib)
		require.NoError(t, err)
		require.Greater(t, mib, 2900)
		root := b.facts(agentapi.ExecSpec{})
		require.Equal(t, " operation not permitted", root["reboot"], "root may not reset the machine")
		require.Equal(t, " <nil>", root["admin"])
		require.Equal(t, `"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tfull\n10.1.2.3\tgw gateway\n"`, root["/etc/hosts"])
		require.Equal(t, " 0 0 [0] /root", root["ids"])

		_, st := b.runVM(agentapi.ExecSpec{}, "rename")
		require.True(t, st.Success(), "a directory of the image can be renamed")
		_, st = b.runVM(agentapi.ExecSpec{}, "eat")
		require.True(t, st.OOMKilled, "%+v", st)
		require.EqualValues(t, unix.SIGKILL, st.Signal)
		require.Greater(t, st.Peak, uint64(60<<20))
		_, st = b.runVM(agentapi.ExecSpec{Timeout: 100 * time.Millisecond, Grace: -1}, "sleep")
		require.True(t, st.TimedOut)
		out, st := b.runVM(agentapi.ExecSpec{TTY: true, Rows: 5, Cols: 6}, "true")
		require.True(t, st.Success())
		require.Empty(t, out)
		_, st = b.runVM(agentapi.ExecSpec{}, "write", "/kept", "by the disk")
		require.True(t, st.Success())
		_, st = b.runVM(agentapi.ExecSpec{}, "orphan")
		require.True(t, st.Success())
		require.NoError(t, b.Shutdown(testContext(t), 100*time.Millisecond))
		b.waitEnd()
	})
	t.Run("disk again", func(t *testing.T) {
		b := bootVM(t, agentapi.Setup{Root: agentapi.Root{Kind: agentapi.RootDisk, Lower: "/dev/vda", Upper: "/dev/vdb"}}, image(t), writable(t, path))
		out, _ := b.runVM(agentapi.ExecSpec{}, "read", "/kept")
		require.Equal(t, "by the disk", out)
		p, err := b.Exec(testContext(t), agentapi.ExecSpec{Args: []string{"prog", "poweroff"}, Env: []string{programEnv + "=1"}})
		require.NoError(t, err)
		<-b.Done()
		require.Equal(t, "poweroff", b.PowerOffReason())
		_, err = p.Wait(testContext(t))
		_ = err // it was ended in time to tell, or not
		b.waitEnd()
		require.NotContains(t, b.console.String(), "EXT4-fs")
	})
}

// trueELF is a program of three instructions: what an exec costs without it.
const trueELF = "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00\x01\x00\x00\x00\x78\x00\x40\x00\x00\x00\x00\x00" +
	"\x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x40\x00\x38\x00\x01\x00\x00\x00\x00\x00\x00\x00" +
	"\x01\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00\x40\x00\x00\x00\x00\x00" +
	"\x82\x00\x00\x00\x00\x00\x00\x00\x82\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00" +
	"\x31\xff\xb8\xe7\x00\x00\x00\x0f\x05\x90" // xor edi,edi; mov eax,231; syscall

// TestGuestExecCost reports what executions cost; in the rig with -i the times
// are instructions.
func TestGuestExecCost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if os.Getenv(machinetest.RequireEnv) != "" {
		require.NoError(t, disk.Create(path, 10))
	}
	b := bootVM(t, agentapi.Setup{Root: agentapi.Root{Kind: agentapi.RootDisk, Lower: "/dev/vda", Upper: "/dev/vdb"}}, image(t), writable(t, path))
	t.Logf("init %v dialed %v ready %v, host from start to ready %v, steps %v", b.hello.Init, b.hello.Dialed, b.ready.At, time.Since(b.began), b.ready.Steps)
	ctx := testContext(t)
	for _, streams := range []agentapi.StreamSet{0, agentapi.WantStdout | agentapi.WantStderr, agentapi.WantAll} {
		for range 3 {
			began := time.Now()
			p, err := b.Exec(ctx, agentapi.ExecSpec{Args: []string{"/bin/true"}, Streams: streams})
			require.NoError(t, err)
			started := time.Since(began)
			if p.Stdout != nil {
				_, err = io.Copy(io.Discard, p.Stdout)
				require.NoError(t, err)
			}
			st, err := p.Wait(ctx)
			require.NoError(t, err)
			require.True(t, st.Success())
			t.Logf("exec with streams %d: started %v, ended %v; in the guest %v, cpu %v+%v", streams, started, time.Since(began), st.Wall, st.User, st.System)
			p.Close()
		}
	}
	began := time.Now()
	for range 20 {
		require.NoError(t, b.Ping(ctx))
	}
	t.Logf("ping %v", time.Since(began)/20)
	began = time.Now()
	require.NoError(t, b.Shutdown(ctx, time.Second))
	t.Logf("shutdown answered after %v", time.Since(began))
	b.waitEnd()
	t.Logf("reset after %v", time.Since(began))
}

func TestGuestSetupErrors(t *testing.T) {
	machinetest.Need(t)
	for name, c := range map[string]struct {
		root agentapi.Root
		op   string
		text string
	}{
		"no lower disk":              {agentapi.Root{Kind: agentapi.RootTmpfs, Lower: "/dev/vdz"}, "setup: root", "/dev/vdz"},
		"lower is not a file system": {agentapi.Root{Kind: agentapi.RootDisk, Lower: "/dev/vda", Type: "ext4", Upper: "/dev/vdb"}, "setup: root", "ext4 /dev/vda"},
		"upper is not ext4":          {agentapi.Root{Kind: agentapi.RootDisk, Lower: "/dev/vda", Upper: "/dev/vda"}, "setup: root", "ext4 /dev/vda"},
		"unknown kind":               {agentapi.Root{Kind: 9}, "setup: check", "unknown kind"},
	} {
		t.Run(name, func(t *testing.T) {
			b := bootVMNoSetup(t, image(t))
			_, err := b.Setup(testContext(t), agentapi.Setup{Root: c.root})
			var e *agentapi.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, c.op, e.Op)
			require.ErrorContains(t, err, c.text)
			require.NoError(t, b.Shutdown(testContext(t), 0))
			b.waitEnd()
			require.Contains(t, b.console.String(), "boxlite-init: agent: "+c.op)
		})
	}
}
