package proof

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Addresses for documentation (RFC 5737, RFC 3849) are nobody's, and a box's policy
// takes them for the Internet's.
const (
	hostAddr4, hostAddr6     = "203.0.113.1", "2001:db8::1"   // this side's
	serverAddr4, serverAddr6 = "203.0.113.2", "2001:db8::2"   // www.proof.test
	nameServer4, nameServer6 = "203.0.113.53", "2001:db8::53" // ns.proof.test
)

// internet is a network namespace with servers at the other end of a veth pair, and
// the tree of files in which they run.
type internet struct {
	tree string
	over chan func() // work for the thread in the servers' namespace
}

var world struct {
	once sync.Once
	net  *internet
	err  error
}

// theInternet is the same for all tests of the process. Its servers are started by
// those that need them.
func theInternet(t *testing.T) *internet {
	t.Helper()
	machinetest.Need(t)
	tree := machinetest.Tree(t, "debian-programs")
	world.once.Do(func() {
		world.net = &internet{tree: tree}
		world.err = world.net.setUp()
	})
	require.NoError(t, world.err)
	return world.net
}

func (w *internet) setUp() error {
	if err := w.mount(); err != nil {
		return err
	}
	if err := w.separate(); err != nil {
		return fmt.Errorf("second network namespace: %w", err)
	}
	// A network that this host is on is a private one for boxes, so it is on none.
	if err := w.ip("link add up type veth peer name veth0 netns internet", "link set lo up",
		"addr add "+hostAddr4+"/32 dev veth0", "addr add "+hostAddr6+"/128 dev veth0 nodad",
		"route add "+serverAddr4+" dev veth0", "-6 route add "+serverAddr6+" dev veth0",
		"route add default via "+serverAddr4, "-6 route add default via "+serverAddr6); err != nil {
		return err
	}
	// Ping sockets are closed to all in a new namespace.
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0o644); err != nil {
		return err
	}
	var err error
	w.there(func() {
		err = w.ip("link set lo up", "link set veth0 up",
			"addr add "+serverAddr4+"/24 dev veth0", "addr add "+serverAddr6+"/64 dev veth0 nodad",
			// Answers of other servers do not come from this one's address.
			"addr add "+nameServer4+"/24 dev veth0", "addr add "+nameServer6+"/64 dev veth0 nodad preferred_lft 0")
	})
	return err
}

// mount gives the tree devices, places to write, and this process the resolver.
func (w *internet) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	for _, d := range []string{"/dev", "/proc"} {
		if err := unix.Mount(d, w.tree+d, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return &os.PathError{Op: "mount", Path: w.tree + d, Err: err}
		}
	}
	for _, d := range []string{"/tmp", "/run", "/srv", "/var/lib", "/var/log", "/var/cache"} {
		if err := unix.Mount("tmpfs", w.tree+d, "tmpfs", 0, "size=2g"); err != nil {
			return &os.PathError{Op: "mount", Path: w.tree + d, Err: err}
		}
	}
	for _, d := range []string{"/run/netns", "/var/lib/nginx", "/var/log/nginx", "/var/cache/bind"} {
		if err := os.MkdirAll(w.tree+d, 0o755); err != nil {
			return err
		}
	}
	const conf = "/etc/resolv.conf"
	mine := w.tree + "/run/resolv.conf"
	if err := os.WriteFile(mine, []byte("nameserver "+nameServer4+"\n"), 0o644); err != nil {
		return err
	}
	if _, err := os.Stat(conf); os.IsNotExist(err) { // the rig has none
		if err := os.MkdirAll(filepath.Dir(conf), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(conf, nil, 0o644); err != nil {
			return err
		}
	}
	if err := unix.Mount(mine, conf, "", unix.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "mount", Path: conf, Err: err}
	}
	return nil
}

// separate makes the servers' network namespace, known to ip(8) as "internet", and a
// thread in it that stays. Servers die with the thread that started them
// (PR_SET_PDEATHSIG), and others may end at any time: package kvm's probe takes its own along.
func (w *internet) separate() error {
	w.over = make(chan func())
	made := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := w.enter()
		made <- err
		for err == nil {
			(<-w.over)()
		}
	}()
	return <-made
}

// enter has the calling thread be in a new namespace.
func (w *internet) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	name := w.tree + "/run/netns/internet"
	if err := os.WriteFile(name, nil, 0o444); err != nil {
		return err
	}
	return os.NewSyscallError("mount", unix.Mount("/proc/thread-self/ns/net", name, "", unix.MS_BIND, ""))
}

// there runs f in the servers' namespace: sockets and processes that it makes stay.
func (w *internet) there(f func()) {
	done := make(chan struct{})
	w.over <- func() {
		defer close(done)
		f()
	}
	<-done
}

// ip runs ip(8) of the tree, once for each line.
func (w *internet) ip(lines ...string) error {
	for _, l := range lines {
		if out, err := w.command("/usr/sbin/ip", strings.Fields(l)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", l, err, out)
		}
	}
	return nil
}

// command is a program of the tree, which sees nothing but the tree.
func (w *internet) command(path string, args ...string) *exec.Cmd {
	return &exec.Cmd{
		Path: path, Args: append([]string{path}, args...), Dir: "/",
		Env:         []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "LC_ALL=C"},
		SysProcAttr: &syscall.SysProcAttr{Chroot: w.tree, Pdeathsig: syscall.SIGKILL},
	}
}

// run runs a program of the tree to its end, on this side of the link.
func (w *internet) run(t *testing.T, path string, args ...string) string {
	t.Helper()
	cmd := w.command(path, args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	require.NoError(t, err, "%s %q: %s%s", path, args, out, errs.String())
	return string(out)
}

// serve runs a server of the tree on the other side until the test ends, and waits
// until it takes connections at addr.
func (w *internet) serve(t *testing.T, addr, path string, args ...string) {
	t.Helper()
	cmd := w.command(path, args...)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	var err error
	w.there(func() { err = cmd.Start() })
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if t.Failed() {
			t.Logf("%s: %s", path, log.String())
		}
	})
	require.Eventually(t, func() bool {
		select {
		case <-ended:
			t.Errorf("%s ended (%v)", path, cmd.ProcessState)
			return true
		default:
		}
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	}, time.Minute, 50*time.Millisecond, "%s does not listen at %s", path, addr)
}

// listen serves TCP connections on the other side, at a port of all its addresses,
// which it returns.
func (w *internet) listen(t *testing.T, f func(*net.TCPConn)) int {
	t.Helper()
	var l net.Listener
	var err error
	w.there(func() { l, err = net.Listen("tcp", ":0") })
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c.(*net.TCPConn))
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// write puts a file into the tree, into a folder that is its own.
func (w *internet) write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(w.tree+path), 0o755))
	require.NoError(t, os.WriteFile(w.tree+path, []byte(text), 0o644))
}
