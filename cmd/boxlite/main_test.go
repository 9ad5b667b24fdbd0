package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// call runs the command line in this process and returns the exit code and what
// was printed as an error.
func call(t *testing.T, args ...string) (code int, stderr string) {
	t.Helper()
	return callWith(t, new(bytes.Buffer), args...)
}

// stderrOf returns what do prints as errors.
func stderrOf(t *testing.T, do func()) string {
	t.Helper()
	old := os.Stderr
	r, w, err := os.Pipe()
	require.NoError(t, err)
	os.Stderr = w
	defer func() { os.Stderr = old }()
	text := make(chan string)
	go func() {
		b, _ := io.ReadAll(r)
		text <- string(b)
	}()
	do()
	w.Close()
	return <-text
}

// callWith is call with a writer for what cobra itself prints.
func callWith(t *testing.T, out io.Writer, args ...string) (code int, stderr string) {
	t.Helper()
	stderr = stderrOf(t, func() {
		c := root()
		c.SetArgs(args)
		c.SetOut(out)
		c.SetErr(os.Stderr)
		code = exitCode(c.Execute())
	})
	return code, stderr
}

// TestMessagesPrintable has errors with a guest's text in them.
func TestMessagesPrintable(t *testing.T) {
	hostile := errors.New("no \x1b]0;title\a file\r\u202e\u009b2J\nnext")
	for _, err := range []error{hostile, &exitError{exitSome, hostile}} {
		require.Equal(t, "boxlite: no .]0;title. file..2J\nnext\n", stderrOf(t, func() { exitCode(err) }))
	}
	c := new(copier)
	require.Equal(t, "boxlite: cp: a.[2Jb\n", stderrOf(t, func() { c.warn("a\x1b[2Jb") }))
	long := stderrOf(t, func() { warn(errors.New(strings.Repeat("é", maxMessage))) })
	require.Less(t, len(long), maxMessage+100)
	require.Contains(t, long, "é... (and 4096 bytes more)\n")
}

// TestWrongInputs looks at what a user gets for each mistake that needs no guest:
// one line that names the thing, code 125, and nothing left behind.
func TestWrongInputs(t *testing.T) {
	home := t.TempDir()
	file := filepath.Join(home, "file")
	require.NoError(t, os.WriteFile(file, []byte("text"), 0o600))
	// The command line itself is right: what it is about is not there, or refuses.
	later := []string{
		"attach no such box", "logs no such box", "exec no such box", "cp no such box", "top no such box", "stats no such box",
		"load from nowhere", "missing layout", "archive is a file", "registry down", "remove no such image", "save no such image", "save to nowhere", "save onto a folder", "load text", "inspect no such image",
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"two groups":            {[]string{"run", "-u", "a:b:c", "127.0.0.1:1/image"}, `user "a:b:c": want NAME or UID`},
		"no such size":          {[]string{"create", "-m", "1x", "x"}, `--memory "1x": want a size such as 512m`},
		"cp no such box":        {[]string{"cp", "gone:/a", home}, `"gone"`},
		"cp both here":          {[]string{"cp", "a", "b"}, "neither path is in a box"},
		"top no such box":       {[]string{"top", "gone"}, `"gone"`},
		"stats no such box":     {[]string{"stats", "--no-stream", "gone"}, `"gone"`},
		"stats template":        {[]string{"stats", "--format", "{{.Nope}}"}, "--format: there is no field .Nope"},
		"template":              {[]string{"ls", "--format", "{{.Name"}, "--format: want table, json or a Go template"},
		"field":                 {[]string{"ls", "--format", "table {{.Name}}\t{{.Nope}}"}, "--format: there is no field .Nope: --format json shows"},
		"inspect as a table":    {[]string{"inspect", "-f", "table", "x"}, "see boxlite ls"},
		"since after until":     {[]string{"events", "--since", "2h", "--until", "3h"}, "--since 2h is later than --until 3h"},
		"console's times":       {[]string{"logs", "--console", "-t", "x"}, "--console goes with -f and -n only"},
		"save as what":          {[]string{"image", "save", "--format", "zip", "x"}, "oci-archive or docker-archive"},
		"df in detail as JSON":  {[]string{"system", "df", "-v", "--format", "json"}, "leave it or --format out"},
		"prune nobody asked":    {[]string{"prune"}, "add -f"},
		"remove no such image":  {[]string{"rmi", "nope"}, "no such image"},
		"save no such image":    {[]string{"image", "save", "-o", filepath.Join(home, "o"), "nope"}, "nope"},
		"inspect no such image": {[]string{"image", "inspect", "nope"}, "nope"},
		"load from nowhere":     {[]string{"image", "load", "-i", filepath.Join(home, "none")}, "load: " + filepath.Join(home, "none") + ": no such file or directory\n"},
		"filter of images":      {[]string{"images", "--filter", "dangling=perhaps"}, "want true or false"},
		"kill with what":        {[]string{"kill", "-s", "NOPE", "x"}, "NOPE"},
		"cp one":                {[]string{"cp", "x"}, "cp: too few arguments: boxlite cp [flags] BOX:SRC DEST|-, or boxlite cp [flags] SRC|- BOX:DEST"},
		"exec empty command":    {[]string{"exec", "x", ""}, "the command is empty: boxlite exec BOX COMMAND"},
		"save to nowhere":       {[]string{"save", "-o", filepath.Join(home, "none", "o"), "nope"}, "cannot make a file in " + filepath.Join(home, "none") + ": no such file"},
		"load text":             {[]string{"load", "-i", file}, "load: " + file + ": not a tar archive"},
		"images of what":        {[]string{"images", "a["}, `"reference=a[": not a pattern`},
		"rename one":            {[]string{"rename", "x"}, "too few arguments"},
		"no image":              {[]string{"run"}, "no image given"},
		"image without a name":  {[]string{"run", "", "true"}, "the image's name is empty"},
		"0 CPUs":                {[]string{"run", "--cpus", "0", "x"}, "--cpus 0"},
		"1000 CPUs":             {[]string{"run", "--cpus", "1000", "x"}, "run: --cpus 1000: choose 1 to 64"},
		"CPUs not a number":     {[]string{"run", "--cpus", "two", "x"}, `"two"`},
		"1 MiB":                 {[]string{"run", "--memory", "1", "x"}, "run: --memory 1: choose 64m to 511g"},
		"1 TiB":                 {[]string{"run", "--memory", "1048576", "x"}, "run: --memory 1048576: choose 64m to 511g"},
		"bad name":              {[]string{"run", "--name", "a/b", "x"}, `name "a/b"`},
		"bad variable":          {[]string{"run", "-e", "=x", "x"}, `-e "=x"`},
		"relative directory":    {[]string{"run", "-w", "tmp", "x"}, `run: -w "tmp": want an absolute path, such as /tmp` + "\n"},
		"exec's directory":      {[]string{"exec", "-w", "a/b", "x", "true"}, `exec: -w "a/b": want an absolute path, such as /a/b` + "\n"},
		"no memory":             {[]string{"create", "-m", "0", "x"}, "create: --memory 0: choose 64m to 511g\n"},
		"no disk":               {[]string{"create", "--disk-size", "0", "x"}, "create: --disk-size 0: choose 1g to 16t\n"},
		"huge disk":             {[]string{"create", "--disk-size", "100000t", "x"}, "create: --disk-size 100000t: choose 1g to 16t\n"},
		"rootfs and image":      {[]string{"create", "--rootfs", home, "oci:./x"}, "create: --rootfs and an image: leave one of them out\n"},
		"no rootfs":             {[]string{"create", "--rootfs", "./nope"}, "create: --rootfs ./nope: there is no such folder\n"},
		"volume's form":         {[]string{"create", "-v", "relative", "x"}, `create: -v "relative": want HOST:PATH, NAME:PATH or /PATH` + "\n"},
		"volume's colons":       {[]string{"create", "-v", "./a:b:/x", "x"}, "a path with a colon in it can be given with --mount\n"},
		"volume over the root":  {[]string{"create", "-v", ".:/", "x"}, "over the box's root: --rootfs gives it another\n"},
		"mount over the root":   {[]string{"create", "--mount", "type=bind,src=.,dst=//", "x"}, "over the box's root: --rootfs gives it another\n"},
		"tmpfs over the root":   {[]string{"create", "--tmpfs", "/:size=1m", "x"}, "over the box's root: --rootfs gives it another\n"},
		"tmpfs's comma":         {[]string{"create", "--tmpfs", "/x,size=1m", "x"}, `create: --tmpfs "/x,size=1m": want PATH[:size=`},
		"nocopy of a folder":    {[]string{"create", "-v", ".:/x:nocopy", "x"}, "nocopy is for volumes of the home"},
		"pull capitals":         {[]string{"pull", "FOO"}, `pull: "FOO" is not an image reference`},
		"name of a volume":      {[]string{"volume", "create", "a b"}, `volume create: volume name "a b": use letters`},
		"rename to what":        {[]string{"rename", "x", "bad name"}, `rename: name "bad name": use letters`},
		"empty command":         {[]string{"run", "x", ""}, "the command is empty"},
		"terminal in a pipe":    {[]string{"run", "-it", "x"}, "-it needs a terminal"},
		"bad label":             {[]string{"run", "-l", "=x", "x"}, `--label "=x"`},
		"bad detach keys":       {[]string{"run", "--detach-keys", "ctrl-", "x"}, "--detach-keys"},
		"create no image":       {[]string{"create"}, "no image given"},
		"create missing layout": {[]string{"create", "./no-such-folder"}, "no-such-folder"},
		"start nothing":         {[]string{"start"}, "arg"},
		"start -a of two":       {[]string{"start", "-a", "x", "y"}, "for one box"},
		"attach no such box":    {[]string{"attach", "gone"}, `"gone"`},
		"logs no such box":      {[]string{"logs", "gone"}, `"gone"`},
		"logs of how many":      {[]string{"logs", "-n", "x", "gone"}, `-n "x"`},
		"logs since when":       {[]string{"logs", "--since", "x", "gone"}, `"x" is no time`},
		"exec nothing":          {[]string{"exec", "gone"}, "arg"},
		"exec no such box":      {[]string{"exec", "gone", "true"}, `"gone"`},
		"exec -it in a pipe":    {[]string{"exec", "-it", "gone", "true"}, "-it needs a terminal"},
		"unknown flag":          {[]string{"run", "--no-such", "x"}, "--no-such"},
		"unknown command":       {[]string{"rum", "x"}, `"rum"`},
		"bad reference":         {[]string{"pull", "UPPER CASE"}, "UPPER CASE"},
		"missing layout":        {[]string{"pull", "./no-such-folder"}, "no-such-folder"},
		"missing rootfs":        {[]string{"run", "--rootfs", filepath.Join(home, "gone")}, "gone"},
		"rootfs is a file":      {[]string{"run", "--rootfs", file}, "not a folder"},
		"archive is a file":     {[]string{"pull", "oci-archive:" + file}, file},
		"registry down":         {[]string{"pull", "127.0.0.1:1/image"}, "127.0.0.1:1"},
		"bad platform":          {[]string{"pull", "--platform", "a/b/c/d", "x"}, "a/b/c/d"},
		"kernel missing":        {[]string{"vm", "--kernel", filepath.Join(home, "none")}, "none"},
		"kernel not given":      {[]string{"vm"}, "kernel"},
		"kernel is text":        {[]string{"vm", "--kernel", file}, "kernel"},
		"kernel is a folder":    {[]string{"vm", "--kernel", home}, home},
		"disk missing":          {[]string{"vm", "--kernel", file, "--disk", filepath.Join(home, "none")}, "none"},
		"disk without a name":   {[]string{"vm", "--kernel", file, "--disk", ":ro"}, "--disk"},
		"vm memory":             {[]string{"vm", "--kernel", file, "--memory", "1"}, "1 MiB of memory"},
		"vm CPUs":               {[]string{"vm", "--kernel", file, "--cpus", "0"}, "0 CPUs"},
		"home is a file":        {[]string{"--home", file, "ls"}, "choose another folder with --home or BOXLITE_HOME"},
		"save onto a folder":    {[]string{"save", "-o", home, "nope"}, "save: " + home + " is a folder: name a file in it"},
		"load a folder":         {[]string{"load", "-i", home}, "load: " + home + " is a folder: give an archive"},
		"pull no name":          {[]string{"pull", ""}, "pull: the image's name is empty"},
		"create with capitals":  {[]string{"create", "Alpine"}, `"Alpine" is not an image reference: want [REGISTRY/]NAME[:TAG][@sha256:DIGEST], the name in lower case`},
		"two tags":              {[]string{"create", "a:b:c"}, `"a:b:c" is not an image reference: want [REGISTRY/]NAME`},
		"capture to a folder":   {[]string{"create", "--pcap", home, "x"}, "capture file " + home + ": it is no regular file"},
		"capture to nowhere":    {[]string{"create", "--pcap", filepath.Join(home, "none", "f"), "x"}, "there is no folder " + filepath.Join(home, "none") + ": make it first"},
		"no such event":         {[]string{"events", "--filter", "event=born"}, "choose create, start, kill, die, stop, rename, destroy, exec_start or exec_die"},
		"field of volumes":      {[]string{"volume", "ls", "--format", "{{.Nope}}"}, "volume ls: --format: there is no field .Nope"},
		"keys of run":           {[]string{"run", "--detach-keys", "ctrl-é", "x"}, `run: --detach-keys "ctrl-é": want characters`},
		"no command":            {[]string{""}, `there is no command "": see boxlite --help`},
		"platform of what":      {[]string{"image", "load", "--platform", "a/b/c/d"}, `image load: --platform "a/b/c/d": want OS/ARCHITECTURE[/VARIANT], such as linux/arm64`},
		"version takes nothing": {[]string{"version", "x"}, "x"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stderr := call(t, append([]string{"--home", filepath.Join(home, "h")}, c.args...)...)
			want := exitFailed
			if slices.Contains(later, name) {
				want = exitSome
			}
			require.Equal(t, want, code, stderr)
			require.Contains(t, stderr, c.want)
			require.Equal(t, 1, strings.Count(stderr, "\n"), "one line, not:\n%s", stderr)
			left, err := filepath.Glob(filepath.Join(home, "h", "boxes", "*"))
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

func TestHelp(t *testing.T) {
	for _, c := range append(root().Commands(), root()) {
		require.NotEmpty(t, c.Short, c.Name())
		require.Equal(t, strings.TrimSuffix(c.Short, "."), c.Short, "%s: no full stop in short help", c.Name())
	}
}

func TestUnits(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 1_550_000: "1.6 MB", 2e12: "2.0 TB", 5e16: "50000.0 TB"} {
		require.Equal(t, want, size(n))
	}
}

// TestProbe is the doctor for scripts, which says nothing of a host that can run boxes.
func TestProbe(t *testing.T) {
	r := output(t, "doctor", "--probe")
	if r.code == 0 {
		require.Equal(t, result{}, r)
		return
	}
	require.Equal(t, exitSome, r.code)
	require.Empty(t, r.stdout)
	require.Regexp(t, "^boxlite: this host cannot run boxes: .+\n$", r.stderr)
}

// TestNoHome has nothing that says where boxes are.
func TestNoHome(t *testing.T) {
	t.Setenv("HOME", "")
	t.Setenv("BOXLITE_HOME", "")
	require.Equal(t, result{"", "boxlite: no home directory: choose a folder with --home or BOXLITE_HOME\n", exitFailed}, output(t, "ls"))
	require.Zero(t, output(t, "--home", t.TempDir(), "ls").code)
}
