package runtime

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestGuestMetrics counts what it does and compares that with what is counted,
// also by another runtime of the same home and after the box has stopped.
func TestGuestMetrics(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	before, err := rt.Metrics(ctx)
	require.NoError(t, err)
	opts := smallBox(t)
	opts.KeepOnStop = true
	box, err := rt.Create(ctx, opts, "")
	require.NoError(t, err)
	m, err := box.Metrics(ctx)
	require.NoError(t, err)
	require.Equal(t, BoxMetrics{}, m, "nothing is known of a box that was never started")

	const size = 1 << 20
	ex, err := box.Run(ctx, Command("cat"))
	require.NoError(t, err)
	in := ex.Stdin()
	go func() {
		in.Write(make([]byte, size))
		in.Close()
	}()
	n, err := io.Copy(io.Discard, ex.Stdout())
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	_, err = ex.Wait(ctx)
	require.NoError(t, err)
	_, err = box.Run(ctx, Command("no-such-program"))
	require.ErrorIs(t, err, ErrRun)
	busy, err := box.Run(ctx, sh("while :; do :; done"))
	require.NoError(t, err)

	m, err = box.Metrics(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 3, m.CommandsRunTotal)
	require.EqualValues(t, 1, m.RunErrorsTotal)
	require.EqualValues(t, size, m.BytesSentTotal)
	require.EqualValues(t, size, m.BytesReceivedTotal)
	require.NotNil(t, m.CPUPercent)
	require.Positive(t, *m.CPUPercent)
	require.NotNil(t, m.MemoryBytes)
	require.Greater(t, *m.MemoryBytes, uint64(16<<20))
	require.Less(t, *m.MemoryBytes, uint64(512<<20))
	for name, d := range map[string]*time.Duration{
		"create": m.TotalCreateDuration, "boot": m.GuestBootDuration, "image": m.StageImagePrepare, "rootfs": m.StageGuestRootfs,
		"config": m.StageBoxConfig, "spawn": m.StageBoxSpawn, "init": m.StageContainerInit,
	} {
		require.NotNil(t, d, name)
		require.Positive(t, *d, name)
		require.LessOrEqual(t, *d, *m.TotalCreateDuration, name)
	}
	require.NotNil(t, m.StageFilesystemSetup)
	for _, p := range []*uint64{m.NetworkBytesSent, m.NetworkBytesReceived, m.NetworkTCPConnections, m.NetworkTCPErrors} {
		require.NotNil(t, p)
	}
	i, err := box.Info(ctx)
	require.NoError(t, err)
	cpu, ok := i.CPUTime()
	require.True(t, ok)
	require.Positive(t, cpu)
	// A guest that spins uses its CPU between two looks.
	require.Eventually(t, func() bool {
		m, err := box.Metrics(ctx)
		return err == nil && m.CPUPercent != nil && *m.CPUPercent > 1
	}, testTimeout, 100*time.Millisecond)
	require.NoError(t, busy.Kill(ctx))

	other, err := New(Options{HomeDir: rt.HomeDir()})
	require.NoError(t, err)
	defer other.Close()
	now, err := other.Metrics(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, now.NumRunningBoxes)
	require.NoError(t, box.Stop(ctx))
	after, err := box.Metrics(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 3, after.CommandsRunTotal)
	require.Nil(t, after.CPUPercent)
	require.Nil(t, after.MemoryBytes)

	bad, err := rt.Create(ctx, BoxOptions{Rootfs: RootfsPath("/no/such/folder")}, "")
	require.NoError(t, err)
	require.Error(t, bad.Start(ctx))
	require.NoError(t, rt.Remove(ctx, string(bad.ID()), true))
	require.NoError(t, rt.Remove(ctx, string(box.ID()), true))
	now, err = rt.Metrics(ctx) // writes what other runtimes see a moment later
	require.NoError(t, err)
	require.Equal(t, RuntimeMetrics{
		BoxesCreatedTotal: before.BoxesCreatedTotal + 2, BoxesFailedTotal: before.BoxesFailedTotal + 1, NumRunningBoxes: 0,
		TotalCommandsRun: before.TotalCommandsRun + 3, TotalRunErrors: before.TotalRunErrors + 1,
	}, now)
}

// TestGuestShutdown ends a runtime with boxes that run, one of them detached, and
// one that does not end by itself in the time that is given.
func TestGuestShutdown(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	other, err := New(Options{HomeDir: rt.HomeDir(), StopGrace: time.Hour})
	require.NoError(t, err)
	opts := smallBox(t)
	opts.KeepOnStop = true
	var ids []string
	for i := range 3 {
		opts.Detach = i == 0
		box, err := other.Create(ctx, opts, "")
		require.NoError(t, err)
		ids = append(ids, string(box.ID()))
		ex, err := box.Run(ctx, sh("trap '' TERM; echo up; while :; do sleep 1; done"))
		require.NoError(t, err)
		_, err = io.ReadFull(ex.Stdout(), make([]byte, 3))
		require.NoError(t, err)
	}
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	require.NoError(t, other.Shutdown(short), "those left are killed")
	require.NoError(t, other.Close())
	for i, id := range ids {
		info, err := rt.GetInfo(ctx, id)
		require.NoError(t, err)
		require.Equal(t, i == 0, info.Status.IsRunning(), "box %d is %s", i, info.Status)
		require.NoError(t, rt.Remove(ctx, id, true))
	}
}
