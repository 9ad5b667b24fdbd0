package vmm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/runtime/internal/boxlog"
	"github.com/stretchr/testify/require"
)

// fakeBox serves a command that the test plays, over a real socket.
type fakeBox struct {
	dir      string
	m        *supervisor
	launched chan *fakeCommand
	refuse   *agentapi.Error
	ended    chan error // run's result
	clients  sync.WaitGroup

	mu         sync.Mutex
	stops      []time.Duration
	adopted    bool
	isDetached bool
	noMain     bool
	network    boxNetwork // nil for none
}

func (b *fakeBox) main() *supervisor {
	if b.noMain {
		return nil
	}
	return b.m
}
func (b *fakeBox) stop(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stops = append(b.stops, d)
}
func (b *fakeBox) adopt() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.adopted = true
	return nil
}
func (b *fakeBox) net() boxNetwork { return b.network }
func (b *fakeBox) detached() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.isDetached
}

// fakeCommand is a command whose other side the test holds.
type fakeCommand struct {
	spec           agentapi.ExecSpec
	stdin          *io.PipeReader
	stdout, stderr *io.PipeWriter
	exit           chan agentapi.ExitStatus

	mu      sync.Mutex
	signals []int
	size    [2]uint16
	killed  bool
}

func (c *fakeCommand) Wait(ctx context.Context) (agentapi.ExitStatus, error) {
	select {
	case s := <-c.exit:
		return s, nil
	case <-ctx.Done():
		return agentapi.ExitStatus{}, ctx.Err()
	}
}
func (c *fakeCommand) Signal(_ context.Context, sig int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.signals = append(c.signals, sig)
	return nil
}
func (c *fakeCommand) Kill(context.Context) error {
	c.mu.Lock()
	c.killed = true
	c.mu.Unlock()
	c.stdout.Close()
	c.stderr.Close()
	c.exit <- agentapi.ExitStatus{Code: -1, Signal: 9}
	return nil
}
func (c *fakeCommand) Resize(_ context.Context, rows, cols uint16) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.size = [2]uint16{rows, cols}
	return nil
}
func (c *fakeCommand) Close() error { return nil }

// end is an orderly end, after all output.
func (c *fakeCommand) end(code int32) {
	c.stdout.Close()
	c.stderr.Close()
	c.exit <- agentapi.ExitStatus{Code: code}
}

func newFakeBox(t *testing.T, main Main, change ...func(*fakeBox)) *fakeBox {
	t.Helper()
	b := &fakeBox{dir: t.TempDir(), launched: make(chan *fakeCommand, 1), ended: make(chan error, 1)}
	if main.Spec.Streams == 0 {
		main.Spec.Streams = agentapi.WantAll
	}
	b.m = newSupervisor(&main, boxlog.NewWriter(b.dir))
	for _, f := range change {
		f(b)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(b.dir, socketName), Net: "unix"})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		b.ended <- b.m.run(ctx, func(_ context.Context, spec agentapi.ExecSpec) (*running, error) {
			if b.refuse != nil {
				return nil, b.refuse
			}
			c := &fakeCommand{spec: spec, exit: make(chan agentapi.ExitStatus, 2)}
			r := &running{command: c}
			c.stdin, r.stdin = io.Pipe()
			r.stdout, c.stdout = io.Pipe()
			r.stderr, c.stderr = io.Pipe()
			b.launched <- c
			return r, nil
		}, func() {})
	}()
	b.clients.Go(func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			b.clients.Go(func() {
				if port, err := readRequest(conn); err != nil || port != servicePort {
					conn.Close()
					return
				}
				_ = serveClient(ctx, conn, b) // what clients do wrong is theirs to know
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		b.m.close()
		b.clients.Wait() // none may be left
	})
	return b
}

func (b *fakeBox) command(t *testing.T) *fakeCommand {
	t.Helper()
	select {
	case c := <-b.launched:
		return c
	case <-time.After(time.Minute):
		t.Fatal("the command was not started")
		return nil
	}
}

func (b *fakeBox) attach(t *testing.T, q AttachRequest) *Attachment {
	t.Helper()
	q.Output = true
	a, err := Attach(t.Context(), b.dir, q)
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	return a
}

func readAll(t *testing.T, a *Attachment) (out, errs string) {
	t.Helper()
	var wait sync.WaitGroup
	wait.Go(func() { b, _ := io.ReadAll(a.Stdout); out = string(b) })
	wait.Go(func() { b, _ := io.ReadAll(a.Stderr); errs = string(b) })
	wait.Wait()
	return out, errs
}

func result(t *testing.T, a *Attachment) *MainResult {
	t.Helper()
	select {
	case <-a.Done():
	case <-time.After(time.Minute):
		t.Fatal("no end")
	}
	r, err := a.Result()
	require.NoError(t, err)
	return r
}

// TestServeLife holds a command, starts it by attaching, and ends it.
func TestServeLife(t *testing.T) {
	b := newFakeBox(t, Main{Hold: true})
	early := b.attach(t, AttachRequest{})
	a := b.attach(t, AttachRequest{Start: true, Rows: 3, Cols: 4})
	c := b.command(t)
	require.EqualValues(t, 3, c.spec.Rows)
	fmt.Fprint(c.stdout, "out")
	fmt.Fprint(c.stderr, "err")
	late := b.attach(t, AttachRequest{Backlog: true, Start: true})
	_, err := a.Stdin.Write([]byte("input"))
	require.NoError(t, err)
	in := make([]byte, 5)
	_, err = io.ReadFull(c.stdin, in)
	require.NoError(t, err)
	require.Equal(t, "input", string(in))
	require.NoError(t, a.Stdin.Close())
	_, err = c.stdin.Read(in)
	require.Equal(t, io.EOF, err)
	require.NoError(t, Signal(t.Context(), b.dir, 10))
	require.NoError(t, Resize(t.Context(), b.dir, 30, 40))
	require.NoError(t, AskStop(t.Context(), b.dir, time.Second))
	require.NoError(t, Adopt(t.Context(), b.dir))
	require.Equal(t, []int{10}, c.signals)
	require.Equal(t, [2]uint16{30, 40}, c.size)
	require.Equal(t, []time.Duration{time.Second}, b.stops)
	require.True(t, b.adopted)
	ended, err := MainEnded(t.Context(), b.dir)
	require.NoError(t, err)
	require.False(t, ended)
	c.end(7)
	for _, a := range []*Attachment{early, a, late} {
		out, errs := readAll(t, a)
		require.Equal(t, "out", out)
		require.Equal(t, "err", errs)
		require.Equal(t, 7, result(t, a).ExitCode())
	}
	require.NoError(t, <-b.ended)
	after := b.attach(t, AttachRequest{Backlog: true})
	out, _ := readAll(t, after)
	require.Equal(t, "out", out)
	require.Equal(t, 7, result(t, after).ExitCode())
	require.ErrorIs(t, Signal(t.Context(), b.dir, 10), agentapi.ErrExited)
	ended, err = MainEnded(t.Context(), b.dir)
	require.NoError(t, err)
	require.True(t, ended)
	text, err := os.ReadFile(filepath.Join(b.dir, boxlog.Name))
	require.NoError(t, err)
	require.Contains(t, string(text), " stdout P out\n")
	require.Contains(t, string(text), " stderr P err\n")
}

func TestServeRefused(t *testing.T) {
	why := &agentapi.Error{Code: agentapi.CodeNotFound, Op: "exec", Msg: strings.Repeat("x", 1<<20)}
	b := newFakeBox(t, Main{Hold: true}, func(b *fakeBox) { b.refuse = why })
	waits := b.attach(t, AttachRequest{})
	_, err := Attach(t.Context(), b.dir, AttachRequest{Start: true})
	require.ErrorIs(t, err, agentapi.ErrNotFound)
	require.Equal(t, 127, result(t, waits).ExitCode())
	require.NoError(t, <-b.ended)
	require.Equal(t, 127, b.m.outcome().ExitCode())
}

// TestServeGone asks boxes that are there no more, or not for this.
func TestServeGone(t *testing.T) {
	b := newFakeBox(t, Main{Hold: true})
	b.m.close()
	_, err := Attach(t.Context(), b.dir, AttachRequest{})
	require.ErrorContains(t, err, "attach", "the VM is gone")
	_, err = Attach(t.Context(), t.TempDir(), AttachRequest{})
	require.ErrorIs(t, err, ErrGone)
	none := newFakeBox(t, Main{Hold: true}, func(b *fakeBox) { b.noMain = true })
	_, err = Attach(t.Context(), none.dir, AttachRequest{})
	require.ErrorContains(t, err, "no command of its own")
	require.ErrorContains(t, Signal(t.Context(), none.dir, 1), "no command of its own")
	held := newFakeBox(t, Main{Hold: true})
	require.ErrorIs(t, Signal(t.Context(), held.dir, 1), agentapi.ErrState)
}

// TestServeExact has clients of different speed compare a long output.
func TestServeExact(t *testing.T) {
	b := newFakeBox(t, Main{Hold: true})
	var all []*Attachment
	for i := range 3 {
		all = append(all, b.attach(t, AttachRequest{Start: i == 2}))
	}
	c := b.command(t)
	want := make([]byte, 3<<20)
	for i := range want {
		want[i] = byte(i * 7 >> 3)
	}
	go func() {
		for p := want; len(p) > 0; {
			n := min(len(p), 1+len(p)%70_001)
			c.stdout.Write(p[:n])
			p = p[n:]
		}
		c.end(0)
	}()
	var wait sync.WaitGroup
	for i, a := range all {
		wait.Go(func() {
			var got bytes.Buffer
			p := make([]byte, 1000+i*50_000)
			for n := 0; ; n++ {
				m, err := a.Stdout.Read(p)
				got.Write(p[:m])
				if err != nil {
					break
				}
				if i == 0 && n%100 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("client %d got other bytes: %d of %d", i, got.Len(), len(want))
			}
		})
	}
	wait.Wait()
	for _, a := range all {
		require.Zero(t, result(t, a).ExitCode())
	}
}

// TestServeVanished has a client take nothing, and go.
func TestServeVanished(t *testing.T) {
	b := newFakeBox(t, Main{Hold: true})
	raw, _, err := ask(t.Context(), b.dir, request{Op: opAttach, Attach: &AttachRequest{Output: true}})
	require.NoError(t, err)
	a := b.attach(t, AttachRequest{Start: true})
	c := b.command(t)
	written := make(chan struct{})
	go func() {
		c.stdout.Write(make([]byte, 4<<20))
		close(written)
	}()
	go io.Copy(io.Discard, a.Stdout)
	select {
	case <-written:
		t.Fatal("a client that reads nothing slows the command")
	case <-time.After(200 * time.Millisecond):
	}
	require.NoError(t, raw.Close())
	<-written
	c.end(0)
	require.Zero(t, result(t, a).ExitCode())
}

// TestServeStop stops a command that a client keeps from ending.
func TestServeStop(t *testing.T) {
	b := newFakeBox(t, Main{})
	raw, _, err := ask(t.Context(), b.dir, request{Op: opAttach, Attach: &AttachRequest{Output: true}})
	require.NoError(t, err)
	defer raw.Close()
	c := b.command(t)
	go c.stdout.Write(make([]byte, 4<<20)) // more than the client's socket takes
	p := newPatience(time.Hour)
	go func() {
		time.Sleep(10 * time.Millisecond)
		p.shorten(10 * time.Millisecond)
		p.shorten(time.Hour)
	}()
	b.m.stop(t.Context(), 2, p.over)
	require.Equal(t, []int{2, sigCont}, c.signals)
	require.True(t, c.killed)
	require.NoError(t, <-b.ended)
	require.Equal(t, -9, b.m.outcome().ExitCode())
	require.Zero(t, p.left())
}

// TestServeStuck has a client take nothing of a command's output, whose end is only
// told once all of it was taken, as the agent does. A stop drops the client.
func TestServeStuck(t *testing.T) {
	b := newFakeBox(t, Main{})
	raw, _, err := ask(t.Context(), b.dir, request{Op: opAttach, Attach: &AttachRequest{Output: true}})
	require.NoError(t, err)
	defer raw.Close()
	c := b.command(t)
	const size = 4 << 20
	go func() {
		c.stdout.Write(make([]byte, size))
		c.end(7)
	}()
	b.m.stop(t.Context(), 2, newPatience(time.Hour).over)
	require.NoError(t, <-b.ended)
	require.False(t, c.killed, "it needs no more than that somebody takes its output")
	require.Equal(t, 7, b.m.outcome().ExitCode())
	logged := 0
	for e, err := range boxlog.Read(t.Context(), b.dir, boxlog.Options{Tail: -1}) {
		require.NoError(t, err)
		logged += len(e.Text)
	}
	require.Equal(t, size, logged)
}

// TestServeCloseOutput closes a reader, which only a box in the foreground takes
// for more.
func TestServeCloseOutput(t *testing.T) {
	for _, detached := range []bool{false, true} {
		b := newFakeBox(t, Main{Hold: true}, func(b *fakeBox) { b.isDetached = detached })
		a := b.attach(t, AttachRequest{Start: true})
		c := b.command(t)
		_, err := c.stdout.Write([]byte("first"))
		require.NoError(t, err)
		require.NoError(t, a.Stdout.Close())
		_, err = a.Stdout.Read(make([]byte, 1))
		require.Error(t, err)
		if detached {
			for range 10 {
				_, err := c.stdout.Write(make([]byte, 100<<10))
				require.NoError(t, err)
			}
		} else {
			require.Eventually(t, func() bool {
				_, err := c.stdout.Write(make([]byte, 100<<10))
				return errors.Is(err, io.ErrClosedPipe)
			}, time.Minute, time.Millisecond)
		}
		c.end(1)
		require.Equal(t, 1, result(t, a).ExitCode())
	}
}

// TestServeStdinBusy has the command read nothing while others want something of it.
func TestServeStdinBusy(t *testing.T) {
	b := newFakeBox(t, Main{Hold: true})
	a := b.attach(t, AttachRequest{Start: true})
	c := b.command(t)
	stuck := make(chan struct{})
	go func() {
		a.Stdin.Write(make([]byte, 8<<20))
		close(stuck)
	}()
	time.Sleep(20 * time.Millisecond)
	require.NoError(t, Signal(t.Context(), b.dir, 15), "although input waits")
	fmt.Fprint(c.stdout, "still here\n")
	line := make([]byte, 11)
	_, err := io.ReadFull(a.Stdout, line)
	require.NoError(t, err)
	c.stdin.Close() // the command takes no more
	<-stuck
	require.Eventually(t, func() bool { _, err := a.Stdin.Write([]byte("x")); return err != nil }, time.Minute, time.Millisecond)
	c.end(0)
	require.Zero(t, result(t, a).ExitCode())
}

// TestServeBacklog keeps the latest output only, in whole records.
func TestServeBacklog(t *testing.T) {
	var h hub
	n := 0
	for i := range 10_000 {
		rec := record(recStdout, []byte(fmt.Sprintf("%d\n", i)+strings.Repeat("x", i%977)))
		h.output(rec)
		n += len(rec)
		require.LessOrEqual(t, len(h.ring), backlogLimit)
	}
	require.Greater(t, n, 4*backlogLimit)
	require.Greater(t, len(h.ring), backlogLimit/4)
	r, last := bytes.NewReader(h.ring), ""
	for {
		kind, n, err := readHead(r)
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		require.EqualValues(t, recStdout, kind)
		b := make([]byte, n)
		_, err = io.ReadFull(r, b)
		require.NoError(t, err)
		last, _, _ = strings.Cut(string(b), "\n")
	}
	require.Equal(t, "9999", last)
	require.LessOrEqual(t, cap(h.ring), 2*backlogLimit)
}

func TestServeTooMany(t *testing.T) {
	b := newFakeBox(t, Main{Hold: true})
	for range maxAttached {
		b.attach(t, AttachRequest{})
	}
	_, err := Attach(t.Context(), b.dir, AttachRequest{})
	require.ErrorContains(t, err, "too many")
}

// TestHostileClient sends the service what no client of ours would.
func TestHostileClient(t *testing.T) {
	b := newFakeBox(t, Main{})
	c := b.command(t)
	frame := func(n uint32, body string) []byte {
		return append(binary.LittleEndian.AppendUint32(appendRequest(nil, servicePort), n), body...)
	}
	attached, err := appendFrame(appendRequest(nil, servicePort), request{Op: opAttach, Attach: &AttachRequest{Output: true}})
	require.NoError(t, err)
	head := func(kind byte, n int) []byte {
		h := make([]byte, recordHead)
		putHead(h, kind, n)
		return append(bytes.Clone(attached), h...)
	}
	for name, sent := range map[string][]byte{
		"nothing":           appendRequest(nil, servicePort),
		"huge frame":        frame(1<<31, "{}"),
		"too large frame":   frame(requestLimit+1, strings.Repeat(" ", requestLimit+1)),
		"not JSON":          frame(5, "hello"),
		"JSON of no object": frame(2, "[]"),
		"unknown op":        frame(12, `{"Op":"none"}`[:12]),
		"attach to nothing": frame(15, `{"Op":"attach"}`),
		"record too long":   head(recStdin, recordLimit+1),
		"longest length":    head(recStdin, -1),
		"unknown record":    head(0x55, 0),
		"record cut short":  append(head(recStdin, 100), "ten bytes."...),
		"a record of ours":  head(recExit, 0),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("unix", filepath.Join(b.dir, socketName))
			require.NoError(t, err)
			defer conn.Close()
			_, err = conn.Write(sent)
			require.NoError(t, err)
			require.NoError(t, conn.(*net.UnixConn).CloseWrite())
			conn.SetReadDeadline(time.Now().Add(time.Minute))
			_, err = io.Copy(io.Discard, conn)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("the connection is still open")
			}
		})
	}
	a := b.attach(t, AttachRequest{})
	c.end(3)
	require.Equal(t, 3, result(t, a).ExitCode(), "the service goes on")
}

// FuzzRecords has a client receive any bytes.
func FuzzRecords(f *testing.F) {
	f.Add(append(record(recStdout, []byte("out")), record(recExit, []byte(`{"Status":{"Code":3}}`))...))
	f.Add(record(recStdinEnd, nil))
	f.Add([]byte{recStdout, 0xff, 0xff, 0xff, 0xff})
	f.Add(record(recExit, []byte("null")))
	f.Fuzz(func(t *testing.T, sent []byte) {
		ours, theirs := net.Pipe()
		a := &Attachment{conn: ours, noInput: make(chan struct{}), done: make(chan struct{})}
		a.out[0], a.out[1] = newBuffer(), newBuffer()
		go a.receive()
		go io.Copy(io.Discard, a.out[0])
		a.out[1].discard()
		go func() {
			theirs.Write(sent)
			theirs.Close()
		}()
		select {
		case <-a.done:
		case <-time.After(time.Minute):
			t.Fatal("no end")
		}
		if (a.result == nil) == (a.err == nil) {
			t.Fatalf("result %v, error %v", a.result, a.err)
		}
	})
}
