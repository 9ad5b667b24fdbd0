package netstack

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLimits(t *testing.T) {
	require.Equal(t, limits{tcp: maxTCP, udp: maxUDP, opening: maxOpening}, limitsOf(1<<63))
	for n := uint64(64); n <= 1<<16; n *= 2 {
		l := limitsOf(n)
		require.Positive(t, l.opening)
		require.LessOrEqual(t, uint64(l.tcp)+uint64(l.udp), n-n/4, "%d descriptors", n)
	}
}
