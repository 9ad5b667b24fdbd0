package virtio_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio"
)

func TestStatusAdvance(t *testing.T) {
	const ack, driver, ok, features, failed = virtio.StatusAcknowledge, virtio.StatusDriver,
		virtio.StatusDriverOK, virtio.StatusFeaturesOK, virtio.StatusFailed
	accept := func(virtio.Status) bool { return true }
	refuse := func(s virtio.Status) bool { return s != features }
	for _, c := range []struct {
		name           string
		from, to, want virtio.Status
		accept         func(virtio.Status) bool
		breaks         bool
	}{
		{"first step", 0, ack, ack, accept, false},
		{"two at once", 0, ack | driver, ack | driver, accept, false},
		{"all at once", 0, ack | driver | features | ok, ack | driver | features | ok, accept, false},
		{"driver first", 0, driver, 0, accept, true},
		{"features without driver", ack, ack | features, ack, accept, true},
		{"start without features", ack | driver, ack | driver | ok, ack | driver, accept, true},
		{"features refused", ack | driver, ack | driver | features, ack | driver, refuse, false},
		{"features refused, started", ack | driver, ack | driver | features | ok, ack | driver, refuse, true},
		{"a bit goes away", ack | driver, ack, ack | driver, accept, true},
		{"the same again", ack | driver, ack | driver, ack | driver, accept, false},
		{"giving up", ack, ack | failed, ack | failed, accept, false},
		{"after giving up", ack | failed, ack | failed | driver, ack | failed, accept, true},
		{"the device's bit", ack | driver, ack | driver | virtio.StatusNeedsReset, ack | driver, accept, false},
		{"unknown bits", ack, ack | 0x100 | 0x10, ack, accept, true},
	} {
		got, detail := c.from.Advance(c.to, c.accept)
		require.Equal(t, c.want, got, c.name)
		require.Equal(t, c.breaks, detail != "", "%s: %s", c.name, detail)
	}
}

func TestDoorbellRemembersRings(t *testing.T) {
	b, err := virtio.NewDoorbell()
	require.NoError(t, err)
	b.Ring()
	b.Ring()
	require.True(t, b.Wait())
	woken := make(chan bool)
	go func() { woken <- b.Wait() }()
	b.Ring()
	require.True(t, <-woken)
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
}

func TestLogLimit(t *testing.T) {
	var l virtio.LogLimit
	var mu sync.Mutex
	var lines []string
	log := func(f string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, fmt.Sprintf(f, args...))
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 10_000 {
				l.Log(log, "line %d", 1)
			}
		})
	}
	all.Wait()
	require.GreaterOrEqual(t, len(lines), 8)
	require.Less(t, len(lines), 40, "8 and one each 10 seconds")
	require.Equal(t, "line 1", lines[0])
	l.Log(nil, "silence")
}

func TestNames(t *testing.T) {
	require.Equal(t, "blk", virtio.IDBlock.String())
	require.Equal(t, "device 77", virtio.DeviceID(77).String())
	err := &virtio.DriverError{Dev: virtio.IDEntropy, Section: "5.4", Detail: "why"}
	require.EqualError(t, err, "virtio: rng: driver breaks §5.4: why")
	require.True(t, virtio.Features(7).Has(5))
	require.False(t, virtio.Features(4).Has(5))
}
