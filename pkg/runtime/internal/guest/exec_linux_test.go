package guest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestHelloAndSetup(t *testing.T) {
	b := start(t, nil)
	require.EqualValues(t, agentapi.Version, b.hello.Version)
	require.NotEmpty(t, b.hello.Kernel)
	require.NotZero(t, b.hello.CPUs)
	require.NotZero(t, b.hello.Memory)
	require.LessOrEqual(t, b.hello.Init, b.hello.Dialed)
	ctx := testContext(t)
	_, err := b.Exec(ctx, sh("true"))
	requireCode(t, agentapi.CodeState, err)
	_, err = b.Setup(ctx, agentapi.Setup{Hostname: "fail"})
	e := requireCode(t, agentapi.CodeSetup, err)
	require.Equal(t, "setup: root", e.Op)
	require.EqualValues(t, 5, e.Errno)
	_, err = b.Setup(ctx, agentapi.Setup{}) // a failed one may be tried again
	require.NoError(t, err)
	_, err = b.Setup(ctx, agentapi.Setup{})
	requireCode(t, agentapi.CodeState, err)
	require.NoError(t, b.Ping(ctx))
}

func TestExecBasics(t *testing.T) {
	b := start(t, &agentapi.Setup{Env: []string{"A=base", "B=base"}})
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))

	out, errOut, st := b.run(sh("cat; echo err >&2; exit 3"), "hello\x00\xff\n")
	require.Equal(t, "hello\x00\xff\n", out)
	require.Equal(t, "err\n", errOut)
	require.EqualValues(t, 3, st.Code)
	require.NotZero(t, st.MaxRSS)
	require.NotZero(t, st.Wall)
	require.False(t, st.Held || st.TimedOut || st.OOMKilled)

	_, _, st = b.run(sh("kill -9 $$"), "")
	require.EqualValues(t, 9, st.Signal)
	require.EqualValues(t, -1, st.Code)
	require.Equal(t, 137, st.ShellCode())

	spec := sh("env; pwd")
	spec.Env = []string{"B=own", "C=1", "C=2", "malformed", "=x"}
	spec.Dir = filepath.Join(dir, "made/here")
	out, _, st = b.run(spec, "")
	require.True(t, st.Success())
	for _, want := range []string{"A=base\n", "B=own\n", "C=2\n", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n", "HOSTNAME=", "HOME=", spec.Dir + "\n"} {
		require.Contains(t, out, want)
	}
	require.NotContains(t, out, "TERM=")
	require.NotContains(t, out, "BOXLITE_TEST")
	require.NotContains(t, out, "malformed")

	// Streams that nobody asked for are /dev/null, not closed and not the agent's.
	p, err := b.Exec(testContext(t), sh("read x; echo out; echo err >&2; [ -c /proc/self/fd/0 ] && [ -c /proc/self/fd/1 ] && [ -c /proc/self/fd/2 ]"))
	require.NoError(t, err)
	require.Nil(t, p.Stdin)
	require.Nil(t, p.Stdout)
	st, err = p.Wait(testContext(t))
	require.NoError(t, err)
	require.True(t, st.Success(), "%+v", st)
	require.NoError(t, p.Close())

	// It inherits no file of the agent.
	out, _, _ = b.run(agentapi.ExecSpec{Args: []string{"ls", "/proc/self/fd"}}, "")
	require.Equal(t, "0\n1\n2\n3\n", out, "3 is the directory being listed")

	// It leads a session and a process group of its own.
	out, _, _ = b.run(sh("cut -d' ' -f1,5,6 /proc/$$/stat"), "")
	f := strings.Fields(out)
	require.Equal(t, f[0], f[1])
	require.Equal(t, f[0], f[2])
}

func TestStartErrors(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), mode))
		require.NoError(t, os.Chmod(path, mode))
		return path
	}
	plain := file("plain", "#!/bin/sh\n", 0o644)
	file("only-read", "#!/bin/sh\n", 0o644)
	for _, c := range []struct {
		name string
		spec agentapi.ExecSpec
		code agentapi.Code
		text string
	}{
		{"not in PATH", agentapi.ExecSpec{Args: []string{"no-such-program"}}, agentapi.CodeNotFound, `"no-such-program": executable file not found in PATH`},
		{"no such path", agentapi.ExecSpec{Args: []string{"/no/such"}}, agentapi.CodeNotFound, `"/no/such": no such file`},
		{"below a file", agentapi.ExecSpec{Args: []string{plain + "/x"}}, agentapi.CodeNotFound, "not a directory"},
		{"PATH of the request", agentapi.ExecSpec{Args: []string{"sh"}, Env: []string{"PATH=/nowhere"}}, agentapi.CodeNotFound, `"sh"`},
		{"not executable", agentapi.ExecSpec{Args: []string{plain}}, agentapi.CodeNotExecutable, "permission denied"},
		{"not executable in PATH", agentapi.ExecSpec{Args: []string{"only-read"}, Env: []string{"PATH=" + dir}}, agentapi.CodeNotExecutable, "permission denied"},
		{"directory", agentapi.ExecSpec{Args: []string{"/tmp"}}, agentapi.CodeNotExecutable, "permission denied"},
		{"format", agentapi.ExecSpec{Args: []string{file("fmt", "no program", 0o755)}}, agentapi.CodeNotExecutable, "exec format error"},
		{"empty file", agentapi.ExecSpec{Args: []string{file("empty", "", 0o755)}}, agentapi.CodeNotExecutable, "exec format error"},
		{"interpreter", agentapi.ExecSpec{Args: []string{file("interp", "#!/no/interp -x\n", 0o755)}}, agentapi.CodeNotFound, `its interpreter "/no/interp" does not exist`},
		{"user", agentapi.ExecSpec{Args: []string{"true"}, User: "no-such-user"}, agentapi.CodeNoUser, `no user "no-such-user" in the image`},
		{"group", agentapi.ExecSpec{Args: []string{"true"}, User: "0:no-such-group"}, agentapi.CodeNoUser, `no group "no-such-group" in the image`},
		{"dir is file", agentapi.ExecSpec{Args: []string{"true"}, Dir: plain}, agentapi.CodeBadDir, "not a directory"},
		{"dir below file", agentapi.ExecSpec{Args: []string{"true"}, Dir: plain + "/x"}, agentapi.CodeBadDir, "not a directory"},
		{"dir relative", agentapi.ExecSpec{Args: []string{"true"}, Dir: "x"}, agentapi.CodeBadDir, "not absolute"},
		{"no command", agentapi.ExecSpec{}, agentapi.CodeInvalid, "empty command"},
		{"empty command", agentapi.ExecSpec{Args: []string{""}}, agentapi.CodeInvalid, "empty command"},
		{"zero byte", agentapi.ExecSpec{Args: []string{"true", "a\x00b"}}, agentapi.CodeInvalid, "zero byte"},
		{"arguments", agentapi.ExecSpec{Args: []string{"true", strings.Repeat("x", 200<<10)}}, agentapi.CodeLimit, "argument list too long"},
		{"message", agentapi.ExecSpec{Args: []string{"true", strings.Repeat("x", agentapi.MaxFrame)}}, agentapi.CodeLimit, "limit"},
		{"stream", agentapi.ExecSpec{Args: []string{"true"}, Streams: 8}, agentapi.CodeInvalid, "unknown stream"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.spec.Streams == 0 {
				c.spec.Streams = agentapi.WantAll
			}
			_, err := b.Exec(testContext(t), c.spec)
			requireCode(t, c.code, err)
			require.ErrorContains(t, err, c.text)
		})
	}
	// A relative command is looked up from the working directory.
	out, _, _ := b.run(agentapi.ExecSpec{Args: []string{"./" + filepath.Base(file("rel", "#!/bin/sh\necho $0 $1\n", 0o755)), "arg"}, Dir: dir}, "")
	require.Equal(t, "./rel arg\n", out)
	out, _, _ = b.run(agentapi.ExecSpec{Args: []string{"rel"}, Dir: dir, Env: []string{"PATH=."}}, "")
	require.Contains(t, out, "rel")
}

func TestSignalKillAndExited(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	ctx := testContext(t)
	spec := sh("trap 'echo got; exit 7' USR1; echo on; while :; do sleep 0.05; done")
	spec.Streams = agentapi.WantStdout
	p, err := b.Exec(ctx, spec)
	require.NoError(t, err)
	defer p.Close()
	buf := make([]byte, 3)
	_, err = p.Stdout.Read(buf)
	require.NoError(t, err)
	requireCode(t, agentapi.CodeNoTTY, p.Resize(ctx, 1, 1))
	requireCode(t, agentapi.CodeInvalid, p.Signal(ctx, 65))
	require.NoError(t, p.Signal(ctx, 0))
	require.NoError(t, p.Signal(ctx, int(unix.SIGUSR1)))
	st, err := p.Wait(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 7, st.Code)
	require.ErrorIs(t, p.Signal(ctx, int(unix.SIGUSR1)), agentapi.ErrExited)
	require.NoError(t, p.Kill(ctx))
	again, err := p.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, st, again)
}

// TestTimeoutTakesTheTree: the leader and what it started, in groups and sessions
// of their own, are gone when a timeout is reported.
func TestTimeoutTakesTheTree(t *testing.T) {
	for _, c := range []struct{ name, script string }{
		{"obeys SIGTERM", "sleep 1000 & sleep 1000"},
		{"ignores SIGTERM", "trap '' TERM; (trap '' TERM; sleep 1000; sleep 1000) & sleep 1000; sleep 1000"},
		{"leader leaves at once", "(trap '' TERM; sleep 1000; sleep 1000) & exec sleep 1000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cgroup := cgroupBase(t)
			b := startCgroup(t, &agentapi.Setup{}, cgroup)
			spec := sh(c.script)
			if cgroup != "" {
				spec = sh("setsid sh -c 'trap \"\" TERM; sleep 1000; sleep 1000' & " + c.script)
			}
			spec.Timeout, spec.Grace = 300*time.Millisecond, 200*time.Millisecond
			out, _, st := b.run(spec, "")
			require.Empty(t, out)
			require.True(t, st.TimedOut)
			require.NotZero(t, st.Signal)
			require.False(t, st.Held)
			left, _, _ := b.run(sh("for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; done 2>/dev/null"), "")
			require.NotContains(t, left, "sleep 1000\x20\n")
			require.Equal(t, 0, strings.Count(strings.ReplaceAll(left, "for p in", ""), "sleep 1000"), left)
		})
	}
}

func TestUsers(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	if os.Getuid() != 0 {
		// One user is all there is in a namespace without privileges: the agent's.
		out, _, _ := b.run(agentapi.ExecSpec{Args: []string{"id", "-u"}, User: "0"}, "")
		require.Equal(t, "0\n", out)
		_, err := b.Exec(testContext(t), agentapi.ExecSpec{Args: []string{"true"}, User: "4242"})
		require.Error(t, err)
		return
	}
	for spec, want := range map[string]string{
		"": "0 0 0", "root": "0 0 0", "nobody": "65534 65534 65534", "daemon:tty": "1 5 5", "4242": "4242 0 0", "4242:4343": "4242 4343 4343",
	} {
		out, _, st := b.run(agentapi.ExecSpec{Args: []string{"sh", "-c", "echo $(id -u) $(id -g) $(id -G)"}, User: spec}, "")
		require.True(t, st.Success())
		require.Equal(t, want+"\n", out, spec)
	}
	out, _, _ := b.run(agentapi.ExecSpec{Args: []string{"sh", "-c", "echo $HOME"}, User: "daemon"}, "")
	require.Equal(t, "/usr/sbin\n", out)

	dir, err := os.MkdirTemp("", "bxu")
	require.NoError(t, err)
	defer os.RemoveAll(dir) // 0700: not for others
	_, err = b.Exec(testContext(t), agentapi.ExecSpec{Args: []string{"true"}, User: "nobody", Dir: dir})
	requireCode(t, agentapi.CodeBadDir, err)
	script := filepath.Join(dir, "x")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700))
	_, err = b.Exec(testContext(t), agentapi.ExecSpec{Args: []string{script}, User: "nobody"})
	requireCode(t, agentapi.CodeNotExecutable, err)
}

func TestConcurrentExecs(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	const n = 64
	errs := make(chan error, n)
	for i := range n {
		go func() {
			want := "line " + strconv.Itoa(i) + "\n"
			out, _, st, err := b.tryRun(sh("cat; exit "+strconv.Itoa(i)), want)
			if err == nil && (out != want || int(st.Code) != i) {
				err = &agentapi.Error{Msg: "exec " + strconv.Itoa(i) + " gave " + out}
			}
			errs <- err
		}()
	}
	for range n {
		require.NoError(t, <-errs)
	}
}
