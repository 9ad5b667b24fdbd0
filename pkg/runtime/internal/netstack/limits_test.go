package netstack

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLimits(t *testing.T) {
	require.Equal(t, limits{tcp: maxTCP, udp: maxUDP, opening: maxOpening, queries: maxQueries, pings: maxPings}, limitsOf(1<<63))
	for n := 64; n <= 1<<16; n *= 2 { // 1024 and 4096 are what systems set
		l := limitsOf(uint64(n))
		for _, some := range []int{int(l.tcp), l.udp, l.opening, int(l.queries), l.pings} {
			require.Positive(t, some, "%d descriptors: %+v", n, l)
		}
		require.LessOrEqual(t, int(l.tcp)+l.udp+l.opening+int(l.queries)+l.pings, n/8*5, "%d descriptors: %+v", n, l)
	}
	require.EqualValues(t, 288, limitsOf(1024).tcp)
	require.EqualValues(t, 1408, limitsOf(4096).tcp)
}
