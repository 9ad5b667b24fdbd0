package runtime

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestValidName(t *testing.T) {
	for _, s := range []string{"a", "Z", "0", "web-1", "a_b.c-", strings.Repeat("x", 128)} {
		require.True(t, validName(s), s)
	}
	for _, s := range []string{"", "-a", ".a", "_a", "..", "a/b", "a b", "a\n", "a\x00", "é", "a\xff", "a:b", strings.Repeat("x", 129)} {
		require.False(t, validName(s), "%q", s)
	}
}
