package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestHostile43BytesAreExact sends 64 MiB through a program and back, to a slow
// reader at first, and compares; the last byte arrives before the exit is told.
func TestHostile43BytesAreExact(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	ctx := testContext(t)
	const size = 64 << 20
	spec := sh("cat; exit 5")
	spec.Streams = agentapi.WantStdin | agentapi.WantStdout
	p, err := b.Exec(ctx, spec)
	require.NoError(t, err)
	defer p.Close()
	sent := sha256.New()
	go func() {
		block := make([]byte, 1<<20)
		for i := range size / len(block) {
			for j := range block {
				block[j] = byte(i*7 + j*j>>3)
			}
			sent.Write(block)
			if _, err := p.Stdin.Write(block); err != nil {
				break
			}
		}
		p.Stdin.Close()
	}()
	got := sha256.New()
	first := make([]byte, 4096)
	n, err := io.ReadFull(p.Stdout, first)
	require.NoError(t, err)
	time.Sleep(50 * time.Millisecond) // everything between here and there is full now
	got.Write(first[:n])
	rest, err := io.Copy(got, p.Stdout)
	require.NoError(t, err)
	require.EqualValues(t, size, int64(n)+rest)
	require.Equal(t, sent.Sum(nil), got.Sum(nil))
	st, err := p.Wait(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 5, st.Code)
}

// TestNothingIsLostAtTheEnd: a program that ends at once after its last write.
func TestNothingIsLostAtTheEnd(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	for range 20 {
		out, errOut, _ := b.run(sh("head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2"), "")
		require.Len(t, out, 60000)
		require.Len(t, errOut, 60000)
	}
}

// TestDescendantHoldsOutput: a daemon that keeps the output does not keep the
// exit, what was written until then arrives, and the daemon lives on.
func TestDescendantHoldsOutput(t *testing.T) {
	b := start(t, &agentapi.Setup{ExitLinger: 100 * time.Millisecond})
	pidFile := t.TempDir() + "/pid"
	out, errOut, st := b.run(sh("(while :; do echo more; sleep 0.01; done) 2>&1 & echo $! >"+pidFile+"; echo last; echo elast >&2"), "")
	require.True(t, st.Held)
	require.True(t, st.Success())
	require.Contains(t, out, "last\n")
	require.Contains(t, errOut, "elast\n")
	out, _, _ = b.run(sh("sleep 0.2; kill -0 $(cat "+pidFile+") && echo lives"), "")
	require.Equal(t, "lives\n", out)

	// One that is quiet, and one that closes what it does not need.
	_, _, st = b.run(sh("sleep 1000 &"), "")
	require.True(t, st.Held)
	// It has until the linger is over to do that, on however busy a machine.
	b = start(t, &agentapi.Setup{ExitLinger: testTime})
	_, _, st = b.run(sh("sleep 0.2; echo last"), "")
	require.False(t, st.Held)
	_, _, st = b.run(sh("sleep 1000 >/dev/null 2>&1 </dev/null &"), "")
	require.False(t, st.Held)
}

// TestReaderGoesAway: a closed stdout is SIGPIPE to the program, as in a pipeline.
func TestReaderGoesAway(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	ctx := testContext(t)
	p, err := b.Exec(ctx, agentapi.ExecSpec{Args: []string{"yes"}, Streams: agentapi.WantStdout})
	require.NoError(t, err)
	_, err = io.ReadFull(p.Stdout, make([]byte, 10))
	require.NoError(t, err)
	require.NoError(t, p.Close())
	st, err := p.Wait(ctx)
	require.NoError(t, err)
	require.EqualValues(t, unix.SIGPIPE, st.Signal)
}

// TestProgramClosesStdin: the host's writes end with an error, not with a wait.
func TestProgramClosesStdin(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	p, err := b.Exec(testContext(t), agentapi.ExecSpec{Args: []string{"true"}, Streams: agentapi.WantStdin})
	require.NoError(t, err)
	defer p.Close()
	require.Eventually(t, func() bool { _, err := p.Stdin.Write(make([]byte, 1024)); return err != nil }, testTime, time.Millisecond)
}

func TestTerminal(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	ctx := testContext(t)
	spec := sh("tty; stty size; echo $TERM; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all >&2; read a; echo got $a; trap 'stty size; exit 4' WINCH; echo ready; while :; do sleep 0.02; done")
	spec.TTY, spec.Rows, spec.Cols = true, 33, 77
	p, err := b.Exec(ctx, spec)
	require.NoError(t, err)
	defer p.Close()
	require.Nil(t, p.Stderr)
	var out bytes.Buffer
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 256)
		for !strings.Contains(out.String(), want) {
			n, err := p.Stdout.Read(buf)
			require.NoError(t, err, "%q so far", out.String())
			out.Write(buf[:n])
		}
	}
	expect("33 77\r\nxterm\r\nall\r\n")
	_, err = io.WriteString(p.Stdin, "typed\n")
	require.NoError(t, err)
	expect("got typed\r\n")
	expect("ready")
	require.NoError(t, p.Resize(ctx, 44, 88))
	expect("44 88")
	st, err := p.Wait(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 4, st.Code)
	_, err = io.Copy(io.Discard, p.Stdout)
	require.NoError(t, err)

	// Control characters act on the foreground, closing stdin is ^D.
	spec = sh("trap 'echo int; exit 6' INT; echo on; while :; do sleep 0.02; done")
	spec.TTY = true
	q, err := b.Exec(ctx, spec)
	require.NoError(t, err)
	defer q.Close()
	_, err = io.ReadFull(q.Stdout, make([]byte, 2))
	require.NoError(t, err)
	_, err = q.Stdin.Write([]byte{3})
	require.NoError(t, err)
	st, err = q.Wait(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 6, st.Code)

	out2, _, st := b.run(agentapi.ExecSpec{Args: []string{"sh", "-c", "cat; echo end"}, TTY: true}, "line\n")
	require.True(t, st.Success())
	require.Contains(t, out2, "end\r\n")

	// Killed in the middle of output: everything that got out arrives, then the end.
	spec = sh("while :; do echo xxxxxxxxxxxxxxxxxxxx; done")
	spec.TTY = true
	r, err := b.Exec(ctx, spec)
	require.NoError(t, err)
	defer r.Close()
	_, err = io.ReadFull(r.Stdout, make([]byte, 1000))
	require.NoError(t, err)
	require.NoError(t, r.Kill(ctx))
	_, err = io.Copy(io.Discard, r.Stdout)
	require.NoError(t, err)
	st, err = r.Wait(ctx)
	require.NoError(t, err)
	require.EqualValues(t, unix.SIGKILL, st.Signal)
}

// TestShortExecsLeaveNothing: no descriptor, thread of a goroutine or zombie of
// the agent, after hundreds of executions, orphans among them.
func TestShortExecsLeaveNothing(t *testing.T) {
	b := startCgroup(t, &agentapi.Setup{StreamGrace: time.Second}, cgroupBase(t))
	proc := "/proc/" + strconv.Itoa(b.cmd.Process.Pid)
	count := func(what string) int {
		names, err := os.ReadDir(proc + "/" + what)
		require.NoError(t, err)
		return len(names)
	}
	b.run(sh("true"), "")
	fds := count("fd")
	const rounds, width = 125, 4
	errs := make(chan error, width)
	for range rounds {
		for i := range width {
			go func() {
				spec := agentapi.ExecSpec{Args: []string{"true"}}
				switch i {
				case 1:
					spec = sh("(true &) ; true") // an orphan for PID 1
				case 2:
					spec = agentapi.ExecSpec{Args: []string{"/no/such/program"}}
				}
				_, _, _, err := b.tryRun(spec, "")
				if i == 2 && err != nil {
					err = nil
				}
				errs <- err
			}()
		}
		for range width {
			require.NoError(t, <-errs)
		}
	}
	// Connections of the executions that could not start wait for their time;
	// the agent then has what it had.
	require.Eventually(t, func() bool { return count("fd") <= fds }, testTime, 10*time.Millisecond, "descriptors before: %d", fds)
	require.Less(t, count("task"), 40)
	var zombies int
	out, _, _ := b.run(sh("cat /proc/[0-9]*/stat 2>/dev/null"), "")
	for line := range strings.Lines(out) {
		if strings.Contains(line, ") Z ") {
			zombies++
		}
	}
	require.Zero(t, zombies)
	b.mu.Lock()
	require.Empty(t, b.procs)
	require.Empty(t, b.pending)
	b.mu.Unlock()
}

// TestExecIsOneRoundTrip counts what a start costs: while the guest's answer is
// held back, request and all streams must be on their way already.
func TestExecIsOneRoundTrip(t *testing.T) {
	g := newFake(t)
	ctx, cancel := context.WithCancel(testContext(t))
	failed := make(chan error, 1)
	go func() {
		_, err := g.client.Exec(ctx, agentapi.ExecSpec{ID: 7, Args: []string{"x"}, Streams: agentapi.WantAll})
		failed <- err
	}()
	id, m := g.read()
	require.Equal(t, agentapi.TypeExec, m.Type())
	seen := map[agentapi.Stream]bool{}
	for range 3 {
		h := <-g.dialled
		require.EqualValues(t, 7, h.Exec)
		seen[h.Stream] = true
	}
	require.Len(t, seen, 3)
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	// The guest is told to kill what it may have started.
	_, m = g.read()
	require.Equal(t, &agentapi.Kill{ID: 7}, m)
	g.write(id, &agentapi.Started{PID: 1}) // too late; dropped
	require.Eventually(t, func() bool { return g.client.Unasked() == 1 }, testTime, time.Millisecond)
}
