package runtime

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBytes(t *testing.T) {
	require.Equal(t, Bytes(1_000_000), FromBytes(1_000_000))
	require.EqualValues(t, 512*1024, FromKiB(512).AsBytes())
	require.EqualValues(t, 128*1024, FromMiB(128).AsKiB())
	require.EqualValues(t, 2048, FromGiB(2).AsMiB())
	for b, want := range map[Bytes]string{
		0: "0 bytes", 1: "1 bytes", 1000: "1000 bytes", FromKiB(3): "3 KiB", FromMiB(512): "512 MiB",
		FromMiB(1536): "1536 MiB", FromGiB(2): "2 GiB", FromMiB(1) + 1: "1048577 bytes",
	} {
		require.Equal(t, want, b.String())
	}
}

func TestSeconds(t *testing.T) {
	require.EqualValues(t, 30, FromSeconds(30).AsSeconds())
	require.EqualValues(t, 300, FromMinutes(5).AsSeconds())
	require.EqualValues(t, 60, FromHours(1).AsMinutes())
	for s, want := range map[Seconds]string{
		0: "0 seconds", 90: "90 seconds", 60: "1 minutes", FromMinutes(30): "30 minutes", FromHours(2): "2 hours", FromMinutes(90): "90 minutes",
	} {
		require.Equal(t, want, s.String())
	}
}

func TestBoxID(t *testing.T) {
	id := NewBoxID()
	require.Len(t, id.String(), 26)
	require.Equal(t, id.String()[:8], id.Short())
	got, ok := ParseBoxID(strings.ToLower(id.String()))
	require.True(t, ok)
	require.Equal(t, id, got)
	require.Greater(t, NewBoxID(), id, "they sort by time")
	for _, bad := range []string{"", "too-short", strings.Repeat("U", 26), id.String() + "0", "8" + strings.Repeat("0", 25)} {
		_, ok := ParseBoxID(bad)
		require.False(t, ok, bad)
	}
}

func TestContainerID(t *testing.T) {
	id := NewContainerID()
	require.True(t, id.IsValid())
	require.Equal(t, id.String()[:12], id.Short())
	require.NotEqual(t, id, NewContainerID())
	require.True(t, ContainerID(strings.Repeat("a", 64)).IsValid())
	for _, bad := range []string{"", strings.Repeat("a", 63), strings.Repeat("A", 64), strings.Repeat("g", 64)} {
		require.False(t, ContainerID(bad).IsValid(), bad)
	}
}
