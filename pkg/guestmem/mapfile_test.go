package guestmem

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// mapUnit is the granularity of file mappings on this host.
var mapUnit = max(PageSize, os.Getpagesize())

func mapFileFixture(t *testing.T, size int) (*os.File, []byte) {
	t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i/mapUnit)*16 + byte(i%13) | 1
	}
	path := filepath.Join(t.TempDir(), "image")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	f, err := os.Open(path) // read-only is enough: the mapping is private
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f, data
}

func TestMapFile(t *testing.T) {
	m := newMemory(t, Range{testBase, 1 << 20})
	f, data := mapFileFixture(t, 3*mapUnit+100)
	at := GPA(testBase + mapUnit)
	require.NoError(t, m.Write([]byte("gone"), at))
	require.NoError(t, m.MapFile(at, f, int64(mapUnit), 2*mapUnit+100))
	f.Close() // the mapping does not need the file

	got := make([]byte, 3*mapUnit)
	require.NoError(t, m.Read(got, at))
	require.True(t, bytes.Equal(data[mapUnit:], got[:2*mapUnit+100]))
	require.True(t, bytes.Equal(make([]byte, mapUnit-100), got[2*mapUnit+100:]), "zero beyond the end of the file")

	// the pages around are still RAM
	for _, around := range []GPA{at - 1, at + GPA(3*mapUnit)} {
		require.NoError(t, m.Read(got[:1], around))
		require.Zero(t, got[0])
	}
}

// A mapping that ends inside the file shows the rest of its last page: callers
// that must not show it copy the tail.
func TestMapFileTail(t *testing.T) {
	m := newMemory(t, Range{testBase, 1 << 20})
	f, data := mapFileFixture(t, 3*mapUnit)
	require.NoError(t, m.MapFile(testBase, f, 0, 1))
	got := make([]byte, mapUnit+1)
	require.NoError(t, m.Read(got, testBase))
	require.True(t, bytes.Equal(data[:mapUnit], got[:mapUnit]))
	require.Zero(t, got[mapUnit])
}

func TestMapFileIsPrivate(t *testing.T) {
	f, data := mapFileFixture(t, 2*mapUnit)
	a := newMemory(t, Range{testBase, 1 << 20})
	b := newMemory(t, Range{testBase, 1 << 20})
	require.NoError(t, a.MapFile(testBase, f, 0, 2*mapUnit))
	require.NoError(t, b.MapFile(testBase, f, 0, 2*mapUnit))
	require.NoError(t, a.Write([]byte("mine"), testBase+10))
	got := make([]byte, 2*mapUnit)
	require.NoError(t, a.Read(got, testBase))
	require.Equal(t, "mine", string(got[10:14]))
	require.True(t, bytes.Equal(data[mapUnit:], got[mapUnit:]))
	require.NoError(t, b.Read(got, testBase))
	require.True(t, bytes.Equal(data, got), "another guest does not see it")
	onDisk, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, onDisk), "nor does the file")
}

func TestMapFileRefuses(t *testing.T) {
	m := newMemory(t, Range{testBase, 1 << 20}, Range{testBase + 1<<21, 1 << 20})
	f, _ := mapFileFixture(t, 2*mapUnit)
	unit := int64(mapUnit)
	for _, c := range []struct {
		name string
		at   GPA
		off  int64
		n    int
	}{
		{"below RAM", 0, 0, mapUnit},
		{"behind the region", testBase + 1<<20, 0, mapUnit},
		{"over the end", testBase + 1<<20 - GPA(unit), 0, mapUnit + 1},
		{"over the hole", testBase, 0, 1<<21 + mapUnit},
		{"crooked address", testBase + 512, 0, mapUnit},
		{"crooked offset", testBase, 512, mapUnit},
		{"negative offset", testBase, -unit, mapUnit},
		{"nothing", testBase, 0, 0},
		{"negative length", testBase, 0, -1},
		{"a negative page", testBase, 0, -mapUnit},
		{"length that wraps", testBase, 0, math.MaxInt},
		{"length that wraps to 0", testBase, 0, math.MaxInt - mapUnit + 2},
		{"least length", testBase, 0, math.MinInt},
	} {
		require.Error(t, m.MapFile(c.at, f, c.off, c.n), c.name)
	}
	// RAM is whole: every page can be touched.
	for _, r := range m.Regions() {
		for i := 0; i < len(r.Bytes); i += PageSize {
			require.Zero(t, r.Bytes[i])
			r.Bytes[i] = 1
		}
	}
	null, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer null.Close()
	require.Error(t, m.MapFile(testBase, null, 0, mapUnit), "a directory cannot be mapped")
	require.EqualValues(t, 1, m.Regions()[0].Bytes[0], "and RAM is still there")
}
