package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLike(t *testing.T) {
	names := []string{"network", "memory", "mount", "name", "rm", "env", "cpus"}
	for word, want := range map[string][]string{
		"net": {"network"}, "memory-mb": {"memory"}, "Memory": {"memory"}, "cpu": {"cpus"}, "env-file": {"env"}, "m": {"memory", "mount"},
		"netowrk": {"network"}, "nmae": {"name"}, "mountt": {"mount"}, "x": nil, "xy": nil, "rmm": {"rm"}, "port": {"env"}, "": nil, "name": {"name"},
	} {
		got := like(word, names, map[string]string{"port": "env", "other": "none of them"})
		require.ElementsMatch(t, want, got, word)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "ab", 2}, {"ab", "", 2}, {"run", "rnu", 1}, {"stop", "stp", 1}, {"kill", "kll", 1}, {"ab", "ba", 1}, {"abc", "cab", 2}, {"same", "same", 0}} {
		require.Equal(t, c.want, distance(c.a, c.b), "%s %s", c.a, c.b)
		require.Equal(t, c.want, distance(c.b, c.a), "%s %s", c.b, c.a)
	}
}
