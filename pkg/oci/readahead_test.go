package oci

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

func TestReadAhead(t *testing.T) {
	for _, n := range []int{0, 1, aheadSize - 1, aheadSize, 5*aheadSize + 7} {
		want := []byte(noise(uint64(n), n))
		a := newReadAhead(iotest.OneByteReader(bytes.NewReader(want)))
		if n > aheadSize {
			a.Close()
			a = newReadAhead(iotest.HalfReader(bytes.NewReader(want)))
		}
		got, err := io.ReadAll(a)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), n)
		_, err = a.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		a.Close()
	}
	broken := errors.New("broken")
	a := newReadAhead(io.MultiReader(bytes.NewReader([]byte("some")), iotest.ErrReader(broken)))
	got, err := io.ReadAll(a)
	require.ErrorIs(t, err, broken)
	require.Equal(t, "some", string(got))
	a.Close()

	// Closed with everything unread: the source is let go of.
	a = newReadAhead(bytes.NewReader(make([]byte, 100*aheadSize)))
	a.Close()
}
