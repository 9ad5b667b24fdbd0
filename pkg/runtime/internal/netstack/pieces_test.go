package netstack

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPieces joins messages from their parts, and bounds what stays incomplete.
func TestPieces(t *testing.T) {
	var p pieces
	key := func(n int) pieceKey { return pieceKey{netip.MustParseAddr("192.0.2.1"), uint32(n)} }
	part := func(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

	require.Equal(t, part(1, 8), p.add(key(1), 0, false, part(1, 8)), "one piece is all")
	require.Nil(t, p.add(key(1), 0, true, part(1, 1480)))
	require.Nil(t, p.add(key(2), 0, true, part(2, 8)), "another in between")
	require.Nil(t, p.add(key(1), 1480, true, part(1, 1480)))
	require.Equal(t, append(part(1, 2960), 9), p.add(key(1), 2960, false, []byte{9}))
	require.Equal(t, part(2, 16), p.add(key(2), 8, false, part(2, 8)))
	require.Empty(t, p.open)

	for name, off := range map[string]int{"gap": 1488, "overlap": 1472, "no beginning": 8} {
		if name != "no beginning" {
			require.Nil(t, p.add(key(3), 0, true, part(1, 1480)))
		}
		require.Nil(t, p.add(key(3), off, false, part(1, 8)), name)
		require.Empty(t, p.open, name)
	}
	require.Nil(t, p.add(key(4), 0, true, part(1, 1480)))
	require.Equal(t, part(2, 16), p.add(key(4), 0, false, part(2, 16)), "a beginning begins")

	for off := 0; off < maxMessage; off += 1480 {
		require.Nil(t, p.add(key(5), off, true, part(1, 1480)))
	}
	require.Empty(t, p.open, "a message that is too long")
	for i := range 10 * maxPieced {
		require.Nil(t, p.add(key(i), 0, true, part(1, 8)))
	}
	require.Len(t, p.open, maxPieced)
	require.Len(t, p.order, maxPieced)
	require.Nil(t, p.add(key(8*maxPieced), 8, false, part(1, 8)), "the oldest made room")
}
