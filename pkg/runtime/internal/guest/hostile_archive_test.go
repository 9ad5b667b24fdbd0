package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/stretchr/testify/require"
)

// stream waits for the connection of an archive and returns the guest's end.
func (g *fake) stream() net.Conn {
	<-g.dialled
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.streams[len(g.streams)-1]
}

// TestHostileArchiveAnswers: whatever a guest does in a copy, the copy ends with
// a typed error, by its context at the latest.
func TestHostileArchiveAnswers(t *testing.T) {
	get := func(ctx context.Context, g *fake) <-chan error {
		result := make(chan error, 1)
		go func() {
			a, err := g.client.ArchiveGet(ctx, "/x", false)
			if err == nil {
				_, err = io.Copy(io.Discard, a)
				a.Close()
			}
			result <- err
		}()
		return result
	}
	for name, c := range map[string]struct {
		guest func(g *fake, id uint32, conn net.Conn)
		want  error
	}{
		"another answer": {func(g *fake, id uint32, conn net.Conn) { go g.write(id, &agentapi.Started{PID: 1}); conn.Close() }, ErrProtocol},
		"refused": {func(g *fake, id uint32, conn net.Conn) {
			go g.write(id, &agentapi.Error{Code: agentapi.CodeNoPath})
			conn.Close()
		}, agentapi.ErrNoPath},
		"no answer":          {func(_ *fake, _ uint32, conn net.Conn) { conn.Close() }, context.Canceled},
		"no end":             {func(_ *fake, _ uint32, conn net.Conn) { go io.Copy(conn, zeros{}) }, context.Canceled},
		"no data":            {func(*fake, uint32, net.Conn) {}, context.Canceled},
		"connection is lost": {func(g *fake, _ uint32, conn net.Conn) { g.conn.Close(); conn.Close() }, ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			g := newFake(t)
			ctx, cancel := context.WithCancel(testContext(t))
			defer cancel()
			result := get(ctx, g)
			id, m := g.read()
			require.IsType(t, &agentapi.ArchiveGet{}, m)
			c.guest(g, id, g.stream())
			if c.want == context.Canceled { // nothing else would end it
				cancel()
			}
			require.ErrorIs(t, <-result, c.want)
		})
	}
}

// TestHostilePut: a guest that says that all is well without having taken the
// archive is not believed.
func TestHostilePut(t *testing.T) {
	g := newFake(t)
	result := make(chan error, 1)
	go func() { result <- g.client.ArchivePut(testContext(t), agentapi.ArchivePut{Path: "/x"}, zeros{}) }()
	id, m := g.read()
	require.IsType(t, &agentapi.ArchivePut{}, m)
	g.stream().Close()
	g.write(id, &agentapi.OK{})
	require.ErrorIs(t, <-result, ErrProtocol)

	// The caller's own error is told, and is not the guest's.
	broken := errors.New("broken")
	go func() {
		result <- g.client.ArchivePut(testContext(t), agentapi.ArchivePut{Path: "/x"}, io.MultiReader(strings.NewReader("x"), errorReader{broken}))
	}()
	g.read()
	go io.Copy(io.Discard, g.stream())
	err := <-result
	require.ErrorIs(t, err, broken)
	require.ErrorIs(t, err, ErrSource)
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

// zeros is a reader without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
