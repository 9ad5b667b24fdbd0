package guest

import (
	"context"
	"io"
	"net"
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

// exited waits for the agent process.
func (b *box) exited() int {
	b.t.Helper()
	done := make(chan int, 1)
	go func() {
		st, _ := b.cmd.Process.Wait()
		done <- st.ExitCode()
	}()
	select {
	case code := <-done:
		return code
	case <-time.After(testTime):
		b.t.Fatal("the agent did not end")
		return -1
	}
}

func TestShutdown(t *testing.T) {
	events := make(chan agentapi.Message, 10)
	b := start(t, &agentapi.Setup{}, OnEvent(func(m agentapi.Message) { events <- m }))
	file := t.TempDir() + "/ended"
	ctx := testContext(t)
	spec := sh("trap 'sleep 0.1; echo in order >" + file + "; exit 0' TERM; echo on; while :; do sleep 0.02; done")
	spec.Streams = agentapi.WantStdout
	p, err := b.Exec(ctx, spec)
	require.NoError(t, err)
	defer p.Close()
	_, err = io.ReadFull(p.Stdout, make([]byte, 3))
	require.NoError(t, err)
	deaf := sh("trap '' TERM; echo on; while :; do sleep 0.02; done")
	deaf.Streams = agentapi.WantStdout
	q, err := b.Exec(ctx, deaf)
	require.NoError(t, err)
	defer q.Close()
	_, err = io.ReadFull(q.Stdout, make([]byte, 3))
	require.NoError(t, err)
	require.NoError(t, b.Shutdown(ctx, 2*time.Second))
	require.Equal(t, 0, b.exited())
	require.FileExists(t, file)
	require.Equal(t, &agentapi.PowerOff{Reason: "request"}, <-events)
	require.ErrorIs(t, b.Ping(ctx), ErrClosed)
	st, err := p.Wait(ctx)
	require.NoError(t, err)
	require.True(t, st.Success(), "the end of executions is told during a shutdown")
	_, err = b.Exec(ctx, sh("true"))
	require.ErrorIs(t, err, ErrClosed)
}

// TestSignalsToPID1 does what poweroff, halt and reboot do in a guest.
func TestSignalsToPID1(t *testing.T) {
	for sig, reason := range map[unix.Signal]string{unix.SIGUSR2: "poweroff", unix.SIGUSR1: "halt", unix.SIGTERM: "reboot", unix.Signal(38): "poweroff"} {
		b := start(t, &agentapi.Setup{})
		ctx := testContext(t)
		// What must not end PID 1, sent by a program as root in the box can.
		_, _, st := b.run(sh("for s in HUP QUIT ABRT SEGV PIPE ALRM ILL TRAP BUS FPE SYS; do kill -$s 1; done; sleep 0.05"), "")
		require.True(t, st.Success())
		require.NoError(t, b.Ping(ctx))
		_, err := b.Exec(ctx, sh("kill -"+strconv.Itoa(int(sig))+" 1; sleep 1000"))
		require.NoError(t, err)
		<-b.Done()
		require.Equal(t, reason, b.PowerOffReason())
		require.Equal(t, 0, b.exited())
	}
}

// TestClientVanishes: its executions end, detached ones and other clients' do not.
func TestClientVanishes(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	ctx := testContext(t)
	conn, err := dialUnix(b.dir).Dial(ctx, agentapi.PortControl)
	require.NoError(t, err)
	second, hello, err := New(ctx, conn, dialUnix(b.dir))
	require.NoError(t, err)
	require.True(t, hello.Ready)
	_, err = second.Setup(ctx, agentapi.Setup{})
	requireCode(t, agentapi.CodeState, err)

	dir := t.TempDir()
	beat := func(name string) agentapi.ExecSpec {
		return sh("while :; do echo x >>" + dir + "/" + name + "; sleep 0.02; done")
	}
	size := func(name string) int64 {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return 0
		}
		return st.Size()
	}
	detached := beat("detached")
	detached.Detach = true
	for _, spec := range []agentapi.ExecSpec{beat("mine"), detached} {
		_, err = second.Exec(ctx, spec)
		require.NoError(t, err)
	}
	_, err = b.Exec(ctx, beat("other"))
	require.NoError(t, err)
	for _, name := range []string{"mine", "detached", "other"} {
		require.Eventually(t, func() bool { return size(name) > 0 }, testTime, time.Millisecond)
	}
	require.NoError(t, second.Close())
	require.Eventually(t, func() bool {
		was := size("mine")
		time.Sleep(100 * time.Millisecond)
		return size("mine") == was
	}, testTime, time.Millisecond)
	for _, name := range []string{"detached", "other"} {
		was := size(name)
		require.Eventually(t, func() bool { return size(name) > was }, testTime, time.Millisecond)
	}
}

// TestHostGone: without any control connection the agent calls the host again,
// and ends the box when nobody answers.
func TestHostGone(t *testing.T) {
	b := start(t, &agentapi.Setup{Orphan: 500 * time.Millisecond})
	ctx := testContext(t)
	b.Client.Close()
	conn, err := b.l.Accept()
	require.NoError(t, err)
	again, hello, err := New(ctx, conn, dialUnix(b.dir))
	require.NoError(t, err)
	require.True(t, hello.Ready)
	require.NoError(t, again.Ping(ctx))
	b.l.Close()
	require.NoError(t, again.Close())
	require.Equal(t, 0, b.exited())
}

// TestHostileHost: garbage on the guest's ports ends that connection and nothing
// else.
func TestHostileHost(t *testing.T) {
	b := start(t, &agentapi.Setup{StreamGrace: 300 * time.Millisecond})
	ctx := testContext(t)
	dial := func(port uint32) net.Conn {
		conn, err := dialUnix(b.dir).Dial(ctx, port)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	ends := func(conn net.Conn) {
		t.Helper()
		conn.SetReadDeadline(time.Now().Add(testTime))
		_, err := io.Copy(io.Discard, conn)
		require.False(t, os.IsTimeout(err))
	}
	for _, garbage := range []string{"GET / HTTP/1.1\r\n\r\n", "\xff\xff\xff\xff", strings.Repeat("\x00", 100)} {
		for _, port := range []uint32{agentapi.PortControl, agentapi.PortStream} {
			conn := dial(port)
			io.WriteString(conn, garbage)
			ends(conn)
		}
	}
	ends(dial(agentapi.PortStream)) // says nothing
	h := agentapi.StreamHeader{Exec: 99, Stream: agentapi.Stdout}.Bytes()
	first, second := dial(agentapi.PortStream), dial(agentapi.PortStream)
	first.Write(h[:])
	second.Write(h[:])
	ends(first)
	ends(second)
	many := make([]net.Conn, 1200) // more than the agent parks
	for i := range many {
		many[i] = dial(agentapi.PortStream)
		h := agentapi.StreamHeader{Exec: uint64(1000 + i)}.Bytes()
		many[i].Write(h[:])
	}
	out, _, _ := b.run(sh("echo fine"), "")
	require.Equal(t, "fine\n", out)
	for _, conn := range many {
		ends(conn)
	}

	// A program whose streams never come is told by SIGPIPE, and its end is told.
	conn := dial(agentapi.PortControl)
	r := agentapi.NewReader(conn)
	_, _, err := r.Read()
	require.NoError(t, err)
	frame, err := agentapi.AppendFrame(nil, 1, &agentapi.ExecSpec{ID: 5, Args: []string{"yes"}, Streams: agentapi.WantAll})
	require.NoError(t, err)
	frame, err = agentapi.AppendFrame(frame, 2, &agentapi.ExecSpec{ID: 5, Args: []string{"yes"}}) // the same id
	require.NoError(t, err)
	conn.Write(frame)
	seen := map[agentapi.Type]agentapi.Message{}
	for range 3 {
		_, m, err := r.Read()
		require.NoError(t, err)
		seen[m.Type()] = m
	}
	require.Equal(t, agentapi.CodeExists, seen[agentapi.TypeError].(*agentapi.Error).Code)
	require.Contains(t, seen, agentapi.TypeStarted)
	require.EqualValues(t, unix.SIGPIPE, seen[agentapi.TypeExited].(*agentapi.Exited).Status.Signal)
}

// TestCloseDuringEverything has a client close while calls of all kinds run.
func TestCloseDuringEverything(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	ctx := testContext(t)
	ended := make(chan error, 40)
	for i := range cap(ended) {
		go func() {
			if i%2 == 0 {
				ended <- b.Ping(ctx)
				return
			}
			p, err := b.Exec(ctx, agentapi.ExecSpec{Args: []string{"sleep", "1000"}, Streams: agentapi.WantAll})
			if err == nil {
				_, err = p.Wait(ctx)
				p.Close()
			}
			ended <- err
		}()
	}
	time.Sleep(20 * time.Millisecond)
	require.NoError(t, b.Client.Close())
	require.NoError(t, b.Client.Close())
	for range cap(ended) {
		if err := <-ended; err != nil {
			require.ErrorIs(t, err, ErrClosed)
			require.NotErrorIs(t, err, context.DeadlineExceeded)
		}
	}
}
