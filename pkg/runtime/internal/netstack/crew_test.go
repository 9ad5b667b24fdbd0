package netstack

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCrew has one goroutine do one job after the other, and none after the end.
func TestCrew(t *testing.T) {
	var c crew
	for range 100 {
		done := make(chan struct{})
		require.True(t, c.spawn(func() { close(done) }))
		<-done
		require.Eventually(t, func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.idle) == 1
		}, waitLong, tick)
	}
	started, release := make(chan struct{}), make(chan struct{})
	for range 3 * crewIdle { // together, more than may be idle afterwards
		require.True(t, c.spawn(func() {
			started <- struct{}{}
			<-release
		}))
	}
	for range 3 * crewIdle {
		<-started
	}
	close(release)
	require.Eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.idle) == crewIdle
	}, waitLong, tick)
	require.True(t, c.close())
	require.False(t, c.close())
	require.False(t, c.spawn(func() { t.Error("a job after the end") }))
	c.wait()
}
