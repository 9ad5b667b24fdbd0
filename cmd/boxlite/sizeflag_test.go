package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSizeFlag(t *testing.T) {
	for text, want := range map[string]int{
		"512": 512, "512m": 512, "512M": 512, "512mb": 512, "512MiB": 512, "1g": 1024, "1.5g": 1536, "1.5GiB": 1536, "2Gb": 2048,
		"0": 0, "0.25t": 1 << 18, "1k": 1, "1025k": 2, "1048577b": 2, "268435456b": 256, ".5g": 512,
	} {
		var got int
		require.NoError(t, newSizeFlag(&got, 'm', 7).Set(text), text)
		require.Equal(t, want, got, text)
	}
	for text, want := range map[string]int{"20": 20, "20g": 20, "20480m": 20, "1025m": 2, "1t": 1024} {
		var got int
		require.NoError(t, newSizeFlag(&got, 'g', 0).Set(text), text)
		require.Equal(t, want, got, text)
	}
	for _, bad := range []string{"", "g", "b", "ib", "-1", "-1g", "1x", "1 g", "1e3", "0x10", "inf", "nan", "1_0", "1.2.3g", ".", "1gg", "1gi", "1bb", "99999999t", "1e999"} {
		got := 0
		require.Error(t, newSizeFlag(&got, 'm', 7).Set(bad), bad)
		require.Equal(t, 7, got, "%q changed it", bad)
	}
	var got int
	require.Equal(t, "512m", newSizeFlag(&got, 'm', 512).String())
	require.Empty(t, newSizeFlag(&got, 'g', 0).String())
}

// TestSizeErrors looks for the accepted forms in what a wrong size is answered with.
func TestSizeErrors(t *testing.T) {
	for _, args := range [][]string{{"run", "-m", "lots", "x"}, {"create", "--memory", "lots", "x"}, {"vm", "--kernel", "x", "-m", "lots"}} {
		r := output(t, args...)
		require.Equal(t, exitFailed, r.code)
		require.Equal(t, "boxlite: "+args[0]+": --memory \"lots\": want a size such as 512m, 1.5g or 2GiB, or a plain number of MiB: see boxlite "+args[0]+" --help\n", r.stderr)
	}
	require.Contains(t, output(t, "run", "--disk-size", "big", "x").stderr, `--disk-size "big": want a size such as 512m, 1.5g or 2GiB, or a plain number of GiB`)
	require.Contains(t, output(t, "run", "-m", "9999999t", "x").stderr, "want a smaller size")
	require.Contains(t, output(t, "run", "-m", "1k", "x").stderr, "--memory 1k: choose 64m to", "as it was given")
	require.Contains(t, output(t, "run", "-m", "0", "x").stderr, "--memory 0")
	require.Contains(t, output(t, "run", "--disk-size", "0", "x").stderr, "--disk-size 0")
}
