package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anthropics/boxlite/initramfs/init/agent"
	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The tests run the guest's agent, all of it but mounts and vsock, as PID 1 of a
// pid namespace of its own: this test binary again, over unix sockets.

const agentEnv = "BOXLITE_TEST_AGENT_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(agentEnv); dir != "" {
		runAgent(dir)
		return
	}
	if os.Getenv(programEnv) != "" {
		os.Exit(program(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

func socketOf(dir string, port uint32) string {
	switch port {
	case agentapi.PortControl:
		return filepath.Join(dir, "control")
	case agentapi.PortStream:
		return filepath.Join(dir, "stream")
	}
	return filepath.Join(dir, "host")
}

// runAgent is main of the agent process.
func runAgent(dir string) {
	os.Unsetenv(agentEnv)
	// What the test's own parent left open is not what the agent leaks.
	unix.CloseRange(3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC)
	check := func(err error) {
		if err != nil {
			os.Stderr.WriteString("test agent: " + err.Error() + "\n")
			os.Exit(1)
		}
	}
	if os.Getenv("BOXLITE_TEST_NO_NAMESPACE") == "" {
		check(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
		check(unix.Mount("proc", "/proc", "proc", 0, ""))
	}
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	agent.New(agent.Config{
		Machine: testMachine{},
		Dial: func() (agent.Conn, error) {
			c, err := net.Dial("unix", socketOf(dir, 0))
			if err != nil {
				return nil, err
			}
			return unixConn{c.(*net.UnixConn)}, nil
		},
		Listen: func(port uint32) (agent.Listener, error) {
			l, err := net.Listen("unix", socketOf(dir, port))
			return unixListener{l}, err
		},
		Cgroup: os.Getenv("BOXLITE_TEST_CGROUP"),
		Agent:  "test",

		NoSetGroups: strings.HasPrefix(readRaw("/proc/self/setgroups"), "deny"),
		Init:        agent.BootTime(),
	}).Run()
}

type unixListener struct{ net.Listener }

func (l unixListener) Accept() (agent.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return unixConn{c.(*net.UnixConn)}, nil
}

// unixConn stands for vsock.Conn.
type unixConn struct{ *net.UnixConn }

func (c unixConn) ReadWithin(d time.Duration)  { _ = c.SetReadDeadline(deadline(d)) }
func (c unixConn) WriteWithin(d time.Duration) { _ = c.SetWriteDeadline(deadline(d)) }

func deadline(d time.Duration) (t time.Time) {
	if d != 0 {
		t = time.Now().Add(d)
	}
	return t
}

// testMachine is a guest whose root is that of the host.
type testMachine struct{}

func (testMachine) Setup(s *agentapi.Setup) (agentapi.Ready, error) {
	if s.Hostname == "fail" {
		return agentapi.Ready{}, &agentapi.Error{Code: agentapi.CodeSetup, Op: "setup: root", Msg: "as asked", Errno: 5}
	}
	return agentapi.Ready{Steps: []agentapi.Step{{Name: "none"}}}, nil
}
func (testMachine) Mount(points []agentapi.MountPoint) error {
	for _, p := range points {
		if p.Path == "/fail" {
			return &agentapi.Error{Code: agentapi.CodeSetup, Op: "volume at /fail", Msg: "as asked", Errno: 5}
		}
	}
	return nil
}
func (testMachine) Sync()           {}
func (testMachine) Halt()           { os.Exit(0) }
func (testMachine) Log(text string) { os.Stderr.WriteString(text + "\n") }

// box is a running agent and a client of it.
type box struct {
	*Client
	t     testing.TB
	dir   string
	hello agentapi.Hello
	cmd   *exec.Cmd
	l     net.Listener
}

// dialUnix is the Dialer of a box.
type dialUnix string

func (d dialUnix) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	var nd net.Dialer
	return nd.DialContext(ctx, "unix", socketOf(string(d), port))
}

// cgroupBase returns a writable cgroup2 directory, or "" where there is none.
func cgroupBase(t testing.TB) string {
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(mount + "/cgroup.procs"); err != nil {
			continue
		}
		if _, err := os.Stat(mount + "/cgroup.controllers"); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(mount, "boxlite-test-")
		if err != nil {
			continue
		}
		if _, err := os.Stat(dir + "/cgroup.kill"); err != nil { // Linux 5.14
			os.Remove(dir)
			continue
		}
		t.Cleanup(func() {
			// The agent was killed, so its last cgroups may be there; not for long.
			require.Eventually(t, func() bool {
				below, _ := filepath.Glob(dir + "/exec-*")
				for _, sub := range below {
					os.Remove(sub)
				}
				return os.Remove(dir) == nil
			}, testTime, time.Millisecond, "processes are left over in %s", dir)
		})
		return dir
	}
	return ""
}

// start runs an agent and connects to it. setup may be nil for none.
func start(t testing.TB, setup *agentapi.Setup, opts ...Option) *box {
	return startCgroup(t, setup, "", opts...)
}

func startCgroup(t testing.TB, setup *agentapi.Setup, cgroup string, opts ...Option) *box {
	dir, err := os.MkdirTemp("", "bx") // t.TempDir is too long for a socket's name
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", socketOf(dir, 0))
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	b := &box{t: t, dir: dir, l: l}
	b.cmd = exec.Command(self)
	b.cmd.Env = append(os.Environ(), agentEnv+"="+dir, "BOXLITE_TEST_CGROUP="+cgroup)
	b.cmd.Stderr = os.Stderr
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		b.cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		b.cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		b.cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	require.NoError(t, b.cmd.Start())
	t.Cleanup(b.stop)
	conn, err := l.Accept()
	require.NoError(t, err)
	b.Client, b.hello, err = New(testContext(t), conn, dialUnix(dir), opts...)
	require.NoError(t, err)
	if setup != nil {
		_, err = b.Setup(testContext(t), *setup)
		require.NoError(t, err)
	}
	return b
}

func (b *box) stop() {
	if b.Client != nil {
		b.Client.Close()
	}
	b.l.Close()
	b.cmd.Process.Kill()
	b.cmd.Wait()
}

// run executes to the end and returns what came out.
func (b *box) run(spec agentapi.ExecSpec, stdin string) (out, errOut string, st agentapi.ExitStatus) {
	b.t.Helper()
	out, errOut, st, err := b.tryRun(spec, stdin)
	require.NoError(b.t, err)
	return out, errOut, st
}

func (b *box) tryRun(spec agentapi.ExecSpec, stdin string) (out, errOut string, st agentapi.ExitStatus, err error) {
	ctx := testContext(b.t)
	spec.Streams = agentapi.WantAll
	p, err := b.Exec(ctx, spec)
	if err != nil {
		return "", "", st, err
	}
	defer p.Close()
	go func() {
		io.WriteString(p.Stdin, stdin)
		p.Stdin.Close()
	}()
	second := make(chan string, 1)
	if p.Stderr != nil {
		go func() {
			b, _ := io.ReadAll(p.Stderr)
			second <- string(b)
		}()
	} else {
		second <- ""
	}
	first, err := io.ReadAll(p.Stdout)
	if err != nil && !errors.Is(err, unix.ECONNRESET) {
		return "", "", st, err
	}
	errOut = <-second
	st, err = p.Wait(ctx)
	return string(first), errOut, st, err
}

func sh(script string) agentapi.ExecSpec {
	return agentapi.ExecSpec{Args: []string{"sh", "-c", script}}
}

func requireCode(t *testing.T, code agentapi.Code, err error) *agentapi.Error {
	t.Helper()
	var e *agentapi.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, code, e.Code, "%v", err)
	require.False(t, strings.ContainsAny(err.Error(), "\n\x1b"))
	return e
}
