package proof

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
)

// newNoise is what tests send: the same each time, and no two parts alike.
func newNoise() *rand.ChaCha8 { return rand.NewChaCha8([32]byte{'p', 'r', 'o', 'o', 'f'}) }

// noise writes so many bytes of it and returns their SHA-256 as sha256sum prints it.
func noise(t *testing.T, w io.Writer, size int64) string {
	t.Helper()
	sum := sha256.New()
	_, err := io.CopyN(io.MultiWriter(w, sum), newNoise(), size)
	assert.NoError(t, err) // whoever waits for the sum gets one, which is wrong
	return fmt.Sprintf("%x", sum.Sum(nil))
}
