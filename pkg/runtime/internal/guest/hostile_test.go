package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/stretchr/testify/require"
)

// testTime bounds what should take no time; it is long because a busy machine is.
const testTime = 2 * time.Minute

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	t.Cleanup(cancel)
	return ctx
}

// fake is a guest that the test plays.
type fake struct {
	t       testing.TB
	conn    net.Conn // the guest's end
	r       *agentapi.Reader
	client  *Client
	dialled chan agentapi.StreamHeader
	mu      sync.Mutex
	streams []net.Conn
}

// Dial implements Dialer.
func (g *fake) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	ours, theirs := net.Pipe()
	g.mu.Lock()
	g.streams = append(g.streams, theirs)
	g.mu.Unlock()
	go func() {
		var b [agentapi.StreamHeaderLen]byte
		if _, err := io.ReadFull(theirs, b[:]); err == nil {
			h, _ := agentapi.ParseStreamHeader(b)
			g.dialled <- h
		}
	}()
	return ours, nil
}

func newFake(t testing.TB, opts ...Option) *fake {
	host, guest := net.Pipe()
	g := &fake{t: t, conn: guest, r: agentapi.NewReader(guest), dialled: make(chan agentapi.StreamHeader, 1000)}
	go g.write(0, &agentapi.Hello{Version: agentapi.Version})
	var err error
	g.client, _, err = New(testContext(t), host, g, opts...)
	require.NoError(t, err)
	t.Cleanup(g.close)
	return g
}

func (g *fake) close() {
	g.conn.Close()
	g.client.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.streams {
		c.Close()
	}
}

func (g *fake) write(id uint32, m agentapi.Message) {
	b, err := agentapi.AppendFrame(nil, id, m)
	if err != nil {
		panic(err)
	}
	g.conn.Write(b)
}

func (g *fake) read() (uint32, agentapi.Message) {
	id, m, err := g.r.Read()
	require.NoError(g.t, err)
	return id, m
}

// exec starts an execution that the guest agrees to.
func (g *fake) exec(spec agentapi.ExecSpec) *Process {
	result := make(chan *Process, 1)
	go func() {
		p, err := g.client.Exec(testContext(g.t), spec)
		if err != nil {
			g.t.Error(err)
		}
		result <- p
	}()
	id, _ := g.read()
	g.write(id, &agentapi.Started{PID: 5})
	return <-result
}

// TestHostile42AgentIsReplaced: whatever a hostile program in the agent's place
// sends, every call ends with a typed error and nothing grows.
func TestHostile42AgentIsReplaced(t *testing.T) {
	frame := func(b ...byte) []byte {
		return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)
	}
	garbage := map[string][]byte{
		"length of 4 GiB":        {255, 255, 255, 255},
		"length of 0":            {0, 0, 0, 0},
		"unknown type":           frame(200, 0, 0, 0, 0),
		"cut message":            frame(byte(agentapi.TypeExited), 0, 0, 0, 0, 1, 2, 3),
		"list of 2^32":           frame(append([]byte{byte(agentapi.TypeReady), 9, 0, 0, 0}, 255, 255, 255, 255)...),
		"answer to nothing":      frame(byte(agentapi.TypeStarted), 0, 0, 0, 0, 1, 0, 0, 0),
		"a request from a guest": frame(byte(agentapi.TypePing), 0, 0, 0, 0),
		"text":                   []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
	}
	for name, bytes := range garbage {
		t.Run(name, func(t *testing.T) {
			g := newFake(t)
			p := g.exec(agentapi.ExecSpec{Args: []string{"x"}})
			call := make(chan error, 1)
			go func() { call <- g.client.Ping(testContext(t)) }()
			g.read()
			g.conn.Write(bytes)
			err := <-call
			require.ErrorIs(t, err, ErrProtocol)
			_, err = p.Wait(testContext(t))
			require.ErrorIs(t, err, ErrProtocol)
			<-g.client.Done()
			require.ErrorIs(t, g.client.Ping(testContext(t)), ErrProtocol)
			_, err = g.client.Exec(testContext(t), agentapi.ExecSpec{Args: []string{"x"}, Streams: agentapi.WantAll})
			require.ErrorIs(t, err, ErrProtocol)
		})
	}
	t.Run("hello", func(t *testing.T) {
		for _, c := range []struct {
			bytes []byte
			check func(error) bool
		}{
			{frame(1, 0, 0, 0, 0, 99, 0, 0, 0, 1), func(err error) bool { return errors.Is(err, &agentapi.Error{Code: agentapi.CodeVersion}) }},
			{frame(byte(agentapi.TypePing), 0, 0, 0, 0), func(err error) bool { return errors.Is(err, ErrProtocol) }},
			{nil, func(err error) bool { return errors.Is(err, ErrClosed) }},
		} {
			host, guest := net.Pipe()
			go func() { guest.Write(c.bytes); guest.Close() }()
			_, _, err := New(testContext(t), host, nil)
			require.True(t, c.check(err), "%v", err)
		}
		host, guest := net.Pipe()
		defer guest.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		_, _, err := New(ctx, host, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	t.Run("silence", func(t *testing.T) {
		g := newFake(t)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		go io.Copy(io.Discard, g.conn) // reads, never answers
		require.ErrorIs(t, g.client.Ping(ctx), context.DeadlineExceeded)
		_, err := g.client.Exec(ctx, agentapi.ExecSpec{Args: []string{"x"}, Streams: agentapi.WantAll})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, g.client.Shutdown(ctx, 0), context.DeadlineExceeded)
		require.NoError(t, g.client.Err(), "the connection is as good as before")
	})
	t.Run("deaf", func(t *testing.T) { // does not even read
		g := newFake(t)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, g.client.Ping(ctx), context.DeadlineExceeded)
		go io.Copy(io.Discard, g.conn)
	})
	t.Run("wrong ids", func(t *testing.T) {
		g := newFake(t)
		p := g.exec(agentapi.ExecSpec{ID: 5, Args: []string{"x"}})
		for i := range 10000 {
			g.write(uint32(1000+i), &agentapi.OK{})
			g.write(0, &agentapi.Exited{ID: uint64(1000 + i)})
		}
		g.write(0, &agentapi.Exited{ID: 5, Status: agentapi.ExitStatus{Code: 3}})
		g.write(0, &agentapi.Exited{ID: 5, Status: agentapi.ExitStatus{Code: 4}})
		st, err := p.Wait(testContext(t))
		require.NoError(t, err)
		require.EqualValues(t, 3, st.Code, "the first exit counts")
		require.Eventually(t, func() bool { return g.client.Unasked() == 20001 }, testTime, time.Millisecond)
	})
	t.Run("wrong answer", func(t *testing.T) {
		g := newFake(t)
		call := make(chan error, 1)
		go func() { call <- g.client.Ping(testContext(t)) }()
		id, _ := g.read()
		g.write(id, &agentapi.Ready{})
		require.ErrorIs(t, <-call, ErrProtocol)
	})
	t.Run("exit before start", func(t *testing.T) {
		g := newFake(t)
		call := make(chan error, 1)
		go func() {
			_, err := g.client.Exec(testContext(t), agentapi.ExecSpec{ID: 5, Args: []string{"x"}})
			call <- err
		}()
		g.read()
		g.write(0, &agentapi.Exited{ID: 5})
		require.ErrorIs(t, <-call, ErrProtocol)
	})
	t.Run("steering a terminal", func(t *testing.T) {
		g := newFake(t)
		call := make(chan error, 1)
		go func() { call <- g.client.Ping(testContext(t)) }()
		id, _ := g.read()
		g.write(id, &agentapi.Error{Code: 60000, Op: "\x1b]0;x\a", Msg: strings.Repeat("\n\x1b[2J", 100000)})
		err := <-call
		require.Less(t, len(err.Error()), 3000)
		require.False(t, strings.ContainsAny(err.Error(), "\x1b\n\a"))
	})
	t.Run("gone", func(t *testing.T) {
		g := newFake(t)
		p := g.exec(agentapi.ExecSpec{ID: 5, Args: []string{"x"}, Streams: agentapi.WantAll})
		read := make(chan error, 1)
		go func() { _, err := p.Stdout.Read(make([]byte, 1)); read <- err }()
		g.conn.Close()
		require.Error(t, <-read)
		_, err := p.Wait(testContext(t))
		require.ErrorIs(t, err, ErrClosed)
		require.ErrorIs(t, p.Signal(testContext(t), 1), ErrClosed)
	})
}

func TestManyWaitersAndEvents(t *testing.T) {
	events := make(chan agentapi.Message, 10)
	g := newFake(t, OnEvent(func(m agentapi.Message) { events <- m }))
	p := g.exec(agentapi.ExecSpec{Args: []string{"x"}})
	got := make(chan agentapi.ExitStatus, 20)
	for range 20 {
		go func() {
			st, _ := p.Wait(testContext(t))
			got <- st
		}()
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := p.Wait(ctx)
	require.ErrorIs(t, err, context.Canceled)
	g.write(0, &agentapi.Log{Level: agentapi.LogInfo, Text: "x"})
	g.write(0, &agentapi.Exited{ID: p.ID, Status: agentapi.ExitStatus{Code: 9}})
	for range 20 {
		require.EqualValues(t, 9, (<-got).Code)
	}
	g.write(0, &agentapi.PowerOff{Reason: "halt"})
	require.Equal(t, agentapi.TypeLog, (<-events).Type())
	require.Equal(t, agentapi.TypePowerOff, (<-events).Type())
	require.Equal(t, "halt", g.client.PowerOffReason())
	_, err = g.client.Exec(testContext(t), agentapi.ExecSpec{ID: p.ID, Args: []string{strings.Repeat("x", agentapi.MaxFrame)}})
	require.ErrorIs(t, err, &agentapi.Error{Code: agentapi.CodeLimit})
}

// FuzzClient: any bytes from the guest end in a typed error or are waited for;
// nothing panics, hangs or leaks.
func FuzzClient(f *testing.F) {
	var b []byte
	for _, m := range []agentapi.Message{&agentapi.Started{PID: 1}, &agentapi.OK{}, &agentapi.Error{Code: 1}, &agentapi.Exited{ID: 3}, &agentapi.Log{}, &agentapi.PowerOff{}} {
		b, _ = agentapi.AppendFrame(b, 1, m)
		b, _ = agentapi.AppendFrame(b, 0, m)
	}
	f.Add(b)
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, wire []byte) {
		g := newFake(t)
		defer g.close()
		go func() {
			g.read2()
			g.conn.Write(wire)
			g.conn.Close()
		}()
		p, err := g.client.Exec(testContext(t), agentapi.ExecSpec{ID: 3, Args: []string{"x"}})
		if err == nil {
			p.Wait(testContext(t))
			p.Close()
		}
		g.client.Ping(testContext(t))
		<-g.client.Done()
	})
}

func (g *fake) read2() { g.r.Read() }
