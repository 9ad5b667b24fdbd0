package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRelocate(t *testing.T) {
	for in, want := range map[string]string{
		"/rig":                        "/t",
		"/rig/a":                      "/t/a",
		"K=/rig/a:/rig/b":             "K=/t/a:/t/b",
		"cat /rig/a >/rig/b; ls /rig": "cat /t/a >/t/b; ls /t",
		"/rigged /x/rig /rig.d":       "/rigged /x/rig /rig.d",
		"":                            "",
	} {
		require.Equal(t, want, relocate(in, "/t"), in)
	}
}

func TestNewest(t *testing.T) {
	require.Equal(t, "linux-image-6.12.117+deb12-cloud-amd64", newest([]string{
		"linux-image-6.12.99+deb12-cloud-amd64", "linux-image-6.12.117+deb12-cloud-amd64", "linux-image-6.1.0-48-cloud-amd64"}))
	require.Equal(t, "linux-image-6.12.117+deb13+1-cloud-amd64", newest([]string{
		"linux-image-6.12.117+deb13+1-cloud-amd64", "linux-image-6.12.117+deb13-cloud-amd64"}))
	require.Empty(t, newest(nil))
}

// The archive is judged by another implementation.
func TestArchiveIsWhatCpioReads(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		require.NoError(t, need(map[string]string{"/bin/cpio": "cpio"}))
	}
	src := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(src, "a/b"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(src, "a/b/odd"), []byte("12345"), 0o640))
	require.NoError(t, os.WriteFile(filepath.Join(src, "empty"), nil, 0o755))
	require.NoError(t, os.Symlink("a/b/odd", filepath.Join(src, "link")))
	var out bytes.Buffer
	c := newCPIO(&out)
	require.NoError(t, c.tree("/rig/tree", src))
	require.NoError(t, c.bytes("job.json", 0o644, []byte("{}")))
	require.NoError(t, c.close())
	require.Zero(t, out.Len()%512)

	to := t.TempDir()
	cpio := exec.Command("cpio", "-i", "--quiet", "--no-absolute-filenames")
	cpio.Dir, cpio.Stdin = to, &out
	said, err := cpio.CombinedOutput()
	require.NoError(t, err, string(said))
	data, err := os.ReadFile(filepath.Join(to, "rig/tree/link"))
	require.NoError(t, err)
	require.Equal(t, "12345", string(data))
	info, err := os.Stat(filepath.Join(to, "rig/tree/a/b/odd"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
	info, err = os.Stat(filepath.Join(to, "rig/tree/empty"))
	require.NoError(t, err)
	require.Zero(t, info.Size())
}

func TestSlimHidesTablesAndCutsTheSignature(t *testing.T) {
	body := append([]byte("\x7fELF rest \x00.rela__mcount_loc\x00.BTF\x00.BTF_ids\x00"), make([]byte, 8)...)
	module := append(bytes.Clone(body), "signature!"...)
	module = append(module, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 10)
	module = append(module, "~Module signature appended~\n"...)
	got := slim(module)
	require.Len(t, got, len(body))
	require.Contains(t, string(got), ".relaX_mcount_loc\x00XBTF\x00.BTF_ids\x00")
	require.Equal(t, body, append(bytes.ReplaceAll(bytes.ReplaceAll(got, []byte("X_mcount"), []byte("__mcount")), []byte("XBTF"), []byte(".BTF")), nil...))
	require.NotPanics(t, func() { slim([]byte("~Module signature appended~\n")) })
}

func TestParseRefusesNonsense(t *testing.T) {
	for _, args := range [][]string{{}, {"-c", "0", "x"}, {"-c", "99", "x"}, {"-m", "1", "x"}, {"-t", "0", "x"}} {
		_, err := parse(args)
		require.Error(t, err, args)
	}
	o, err := parse([]string{"-i", "-c", "4", "--", "a", "b c"})
	require.NoError(t, err)
	require.Equal(t, 1, o.cpus)
	require.Equal(t, []string{"a", "b c"}, o.argv)
}
