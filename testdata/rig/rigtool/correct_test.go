package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCorrect(t *testing.T) {
	program := bytes.Join([][]byte{[]byte("before"), injection, note, []byte("after")}, nil)
	want := bytes.Clone(program)
	copy(want[6+11:], nothing)
	require.True(t, correct(program))
	require.Equal(t, want, program)
	require.False(t, correct(program), "done already")
	twice := append(bytes.Clone(injection), injection...)
	require.False(t, correct(twice), "not clear which")
	require.Equal(t, append(bytes.Clone(injection), injection...), twice)
	require.False(t, correct(nil))
}

// TestCorrectedQEMU makes a copy of a program that it knows, once.
func TestCorrectedQEMU(t *testing.T) {
	dir, modules, cache := t.TempDir(), t.TempDir(), t.TempDir()
	known, other := filepath.Join(dir, "known"), filepath.Join(dir, "other")
	require.NoError(t, os.WriteFile(known, injection, 0o755))
	require.NoError(t, os.WriteFile(other, []byte("another version"), 0o755))

	path, err := correctedQEMU(known, modules, cache)
	require.NoError(t, err)
	require.Equal(t, known, path, "a copy would find no modules")
	require.NoError(t, os.WriteFile(filepath.Join(modules, "accel-tcg-x86_64.so"), nil, 0o644))
	path, err = correctedQEMU(known, modules, cache)
	require.NoError(t, err)
	copied, err := os.ReadFile(path)
	require.NoError(t, err)
	want := bytes.Clone(injection)
	require.True(t, correct(want))
	require.Equal(t, want, copied)
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.NotZero(t, fi.Mode()&0o100)
	again, err := correctedQEMU(known, modules, cache)
	require.NoError(t, err)
	require.Equal(t, path, again)

	path, err = correctedQEMU(other, modules, cache)
	require.NoError(t, err)
	require.Equal(t, other, path)
	_, err = correctedQEMU(filepath.Join(dir, "none"), modules, cache)
	require.Error(t, err)
}
