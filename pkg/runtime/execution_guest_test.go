package runtime

import (
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGuestExecution is what an Execution promises beyond what its command does:
// names, streams that are given out once, lines, any number of waiters, and the
// size of a terminal.
func TestGuestExecution(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	box, err := rt.Create(ctx, smallBox(t), "")
	require.NoError(t, err)
	require.NoError(t, box.Start(ctx))
	first, err := box.State(ctx)
	require.NoError(t, err)
	require.Equal(t, StatusRunning, first.Status)
	require.Positive(t, first.PID)
	require.NoError(t, box.Start(ctx), "it runs")
	same, err := box.State(ctx)
	require.NoError(t, err)
	require.Equal(t, first, same, "nothing was done")

	a, err := box.Run(ctx, sh("cat; echo err >&2; exit 7"))
	require.NoError(t, err)
	b, err := box.Run(ctx, Command("cat"))
	require.NoError(t, err)
	require.NotEqual(t, a.ID(), b.ID())
	in, out, errs := a.Stdin(), a.Stdout(), a.Stderr()
	require.Nil(t, a.Stdin())
	require.Nil(t, a.Stdout())
	require.Nil(t, a.Stderr())
	require.NotNil(t, in)

	// Waiters of all kinds, before and after the end.
	var waiters sync.WaitGroup
	for range 8 {
		waiters.Go(func() {
			if r, err := a.Wait(ctx); err != nil || r.Code() != 7 || r.Success() || r.ShellCode() != 7 {
				t.Errorf("%+v %v", r, err)
			}
		})
	}
	_, err = io.WriteString(in, "one\ntwo\n\nno end")
	require.NoError(t, err)
	require.NoError(t, in.Close(), "end of file to the command")
	var lines []string
	for l, err := range Lines(out) {
		require.NoError(t, err)
		lines = append(lines, l)
	}
	require.Equal(t, []string{"one", "two", "", "no end"}, lines)
	for l, err := range Lines(errs) {
		require.NoError(t, err)
		require.Equal(t, "err", l)
	}
	waiters.Wait()
	r, err := a.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, 7, r.ExitCode)
	require.Positive(t, r.Wall)

	require.NoError(t, b.Kill(ctx))
	r, err = b.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, -9, r.ExitCode)
	require.Equal(t, 9, r.Signal)
	require.Equal(t, 137, r.ShellCode())

	tty, err := box.Run(ctx, sh("stty size; read x; stty size").WithTTY(10, 20).WithStdin(true))
	require.NoError(t, err)
	require.Nil(t, tty.Stderr(), "a terminal has one output")
	screen := tty.Stdout()
	size := make([]byte, len("10 20\r\n"))
	_, err = io.ReadFull(screen, size)
	require.NoError(t, err)
	require.Equal(t, "10 20\r\n", string(size))
	require.NoError(t, tty.ResizeTTY(ctx, 33, 44))
	require.ErrorIs(t, tty.ResizeTTY(ctx, -1, 44), ErrInvalidArgument)
	_, err = io.WriteString(tty.Stdin(), "\n")
	require.NoError(t, err)
	rest, err := io.ReadAll(screen)
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(string(rest), "33 44\r\n"), "%q", rest)
	require.NoError(t, box.Stop(ctx))
}
