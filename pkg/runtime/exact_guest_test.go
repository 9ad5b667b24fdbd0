package runtime

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/stretchr/testify/require"
)

// exactBytes is how much the test below sends each way: 10 GB with BOXLITE_SOAK,
// less in a quick run.
func exactBytes() int64 {
	if machinetest.Soak() {
		return 10e9
	}
	return 16 << 20
}

// positions reads as 8-byte words, each of which only ever stands at its place. It
// costs little beside what carries the bytes. Reads have to be of whole words.
type positions struct{ next uint64 }

func (p *positions) Read(b []byte) (int, error) {
	n := len(b) &^ 7
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], p.next*0x9e3779b97f4a7c15) // odd, so no two are the same
		p.next++
	}
	return n, nil
}

// TestGuestExact sends very many bytes into a command and takes them out again:
// each has to be the one that was sent, at its place, and the end to be the end.
func TestGuestExact(t *testing.T) {
	box, _ := startedBox(t)
	ctx := t.Context() // the amount decides how long it takes
	ex, err := box.Run(ctx, Command("cat"))
	require.NoError(t, err)
	size := exactBytes()
	sent := make(chan error, 1)
	in := ex.Stdin()
	go func() {
		_, err := io.Copy(in, io.LimitReader(new(positions), size))
		sent <- errors.Join(err, in.Close())
	}()
	same := new(positions)
	out, got, want := ex.Stdout(), make([]byte, 64<<10), make([]byte, 64<<10)
	var total int64
	for {
		n, err := io.ReadFull(out, got)
		same.Read(want) // more than n only at the end
		if !bytes.Equal(got[:n], want[:n]) {
			t.Fatalf("bytes %d to %d are not those that were sent", total, total+int64(n))
		}
		total += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		require.NoError(t, err)
	}
	require.Equal(t, size, total)
	require.NoError(t, <-sent)
	r, err := ex.Wait(ctx)
	require.NoError(t, err)
	require.True(t, r.Success())
}
