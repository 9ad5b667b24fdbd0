package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
)

// output runs the command line in this process, as call does, and returns what it
// printed, too.
func output(t *testing.T, args ...string) result {
	t.Helper()
	old := os.Stdout
	f, err := os.Create(filepath.Join(t.TempDir(), "stdout"))
	require.NoError(t, err)
	defer f.Close()
	os.Stdout = f
	defer func() { os.Stdout = old }()
	code, stderr := call(t, args...)
	b, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	return result{string(b), stderr, code}
}

// madeBoxes makes a home with boxes that never ran, and returns a function that
// runs a command line on it, and the ids.
func madeBoxes(t *testing.T) (do func(args ...string) result, ids map[string]string) {
	t.Helper()
	home := t.TempDir()
	rt, err := runtime.New(runtime.Options{HomeDir: home})
	require.NoError(t, err)
	ids = make(map[string]string)
	for _, b := range []struct {
		name, image string
		labels      map[string]string
	}{
		{"web", "nginx:1.27", map[string]string{"tier": "front", "team": "a"}},
		{"web-2", "nginx", map[string]string{"tier": "front", "team": "b"}},
		{"db", "ghcr.io/o/postgres:17", map[string]string{"tier": "back"}},
	} {
		box, err := rt.Create(t.Context(), runtime.BoxOptions{
			Rootfs: runtime.Image(b.image), Labels: b.labels, KeepOnStop: true, Env: []runtime.EnvVar{{Name: "A", Value: "<1>"}},
			Main: &runtime.MainCommand{Args: []string{"sh", "-c", "echo a command that is long\x1b[31m"}},
		}, b.name)
		require.NoError(t, err)
		ids[b.name] = string(box.ID())
	}
	require.NoError(t, rt.Close())
	return func(args ...string) result {
		t.Helper()
		return output(t, append([]string{"--home", home}, args...)...)
	}, ids
}

func TestListFilters(t *testing.T) {
	do, ids := madeBoxes(t)
	for name, c := range map[string]struct {
		args []string
		want string // names, newest first
	}{
		"running ones":       {nil, ""},
		"all":                {[]string{"-a"}, "db web-2 web"},
		"last":               {[]string{"-n", "2"}, "db web-2"},
		"last 0":             {[]string{"-n", "0"}, ""},
		"latest":             {[]string{"-l"}, "db"},
		"latest of a filter": {[]string{"-l", "--filter", "name=web"}, "web-2"},
		"status":             {[]string{"--filter", "status=configured"}, "db web-2 web"},
		"docker's status":    {[]string{"--filter", "status=created"}, "db web-2 web"},
		"two statuses":       {[]string{"--filter", "status=running", "--filter", "status=configured"}, "db web-2 web"},
		"other status":       {[]string{"--filter", "status=stopped"}, ""},
		"part of a name":     {[]string{"-a", "--filter", "name=we"}, "web-2 web"},
		"two names":          {[]string{"-a", "--filter", "name=d", "--filter", "name=-2"}, "db web-2"},
		"id":                 {[]string{"-a", "--filter", "id=" + strings.ToLower(ids["db"])}, "db"},
		"label":              {[]string{"-a", "--filter", "label=team"}, "web-2 web"},
		"label's value":      {[]string{"-a", "--filter", "label=team=b"}, "web-2"},
		"all of two labels":  {[]string{"-a", "--filter", "label=tier=front", "--filter", "label=team=a"}, "web"},
		"image":              {[]string{"-a", "--filter", "ancestor=nginx"}, "web-2 web"},
		"image with a tag":   {[]string{"-a", "--filter", "ancestor=nginx:1.27"}, "web"},
		"two kinds":          {[]string{"-a", "--filter", "ancestor=nginx", "--filter", "label=team=b"}, "web-2"},
		"registry is no tag": {[]string{"-a", "--filter", "ancestor=ghcr.io"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := do(append([]string{"ls", "--format", "{{.Name}}"}, c.args...)...)
			require.Equal(t, 0, r.code, r.stderr)
			require.Equal(t, c.want, strings.Join(strings.Fields(r.stdout), " "))
		})
	}
	for _, bad := range []string{"name", "name=", "colour=red", "status=asleep"} {
		r := do("ls", "--filter", bad)
		require.Equal(t, exitFailed, r.code)
		require.Contains(t, r.stderr, "--filter")
	}
}

func TestListShows(t *testing.T) {
	do, ids := madeBoxes(t)
	r := do("ps", "-aq")
	require.Equal(t, result{ids["db"] + "\n" + ids["web-2"] + "\n" + ids["web"] + "\n", "", 0}, r)
	lines := strings.Split(do("ls", "-a").stdout, "\n")
	require.Equal(t, strings.Fields("ID NAME IMAGE COMMAND STATUS CREATED PORTS"), strings.Fields(lines[0]))
	id := strings.Fields(lines[1])[0]
	require.GreaterOrEqual(t, len(id), shortID)
	require.Equal(t, id+"\n", do("inspect", "-f", "{{slice .ID 0 "+fmtInt(len(id))+"}}", id).stdout, "a shown id names its box")
	require.NotContains(t, lines[1], "\x1b")
	require.Contains(t, lines[1], `"sh -c echo a comman…"`)
	require.Contains(t, lines[1], "configured")
	require.Contains(t, lines[1], "just now")
	whole := do("ls", "-a", "--no-trunc").stdout
	require.Contains(t, whole, ids["web"])
	require.Contains(t, whole, `"sh -c echo a command that is long\x1b[31m"`)
	var row runtime.BoxInfo
	require.NoError(t, json.NewDecoder(strings.NewReader(do("ls", "-a", "--format", "json").stdout)).Decode(&row))
	require.Equal(t, "db", row.Name)
}

func fmtInt(n int) string { b, _ := json.Marshal(n); return string(b) }

func TestUnambiguous(t *testing.T) {
	boxes := func(ids ...string) (out []runtime.BoxInfo) {
		for _, id := range ids {
			out = append(out, runtime.BoxInfo{ID: runtime.BoxID(id)})
		}
		return out
	}
	require.Equal(t, 12, unambiguous(nil))
	require.Equal(t, 12, unambiguous(boxes("01HV0000000000000000000002")))
	require.Equal(t, 12, unambiguous(boxes("01HV0000000100000000000002", "01HV0000000000000000000001")))
	require.Equal(t, 20, unambiguous(boxes("01HV0000000000000001000000", "01HV0000000000000000000000")))
	require.Equal(t, 26, unambiguous(boxes("01HV0000000000000000000002", "01HV0000000000000000000001")))
}

func TestStatusText(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	code := func(n int) *int { return &n }
	for want, b := range map[string]runtime.BoxInfo{
		"configured":                 {Status: runtime.StatusConfigured},
		"running 5 minutes":          {Status: runtime.StatusRunning, StartedAt: now.Add(-5*time.Minute - 59*time.Second)},
		"running less than a second": {Status: runtime.StatusRunning, StartedAt: now.Add(time.Minute)}, // the clock was set back
		"running":                    {Status: runtime.StatusRunning},
		"stopping":                   {Status: runtime.StatusStopping, StartedAt: now},
		"stopped (3) 2 hours ago":    {Status: runtime.StatusStopped, ExitCode: code(3), StartedAt: now.Add(-72 * time.Hour), FinishedAt: now.Add(-2 * time.Hour)},
		"stopped (137) 1 week ago":   {Status: runtime.StatusStopped, ExitCode: code(-9), FinishedAt: now.Add(-8 * 24 * time.Hour)},
		"stopped 1 second ago":       {Status: runtime.StatusStopped, LastUpdated: now.Add(-time.Second)},
		"unknown":                    {Status: runtime.StatusUnknown},
	} {
		require.Equal(t, want, statusText(b, now))
	}
	for want, d := range map[string]time.Duration{"1 minute": time.Minute, "13 days": 0, "2 weeks": 14 * 24 * time.Hour, "1 month": 30 * 24 * time.Hour, "3 years": 1100 * 24 * time.Hour} {
		if d != 0 {
			require.Equal(t, want, span(d))
		}
	}
}

func TestInspect(t *testing.T) {
	do, ids := madeBoxes(t)
	r := do("inspect", "db", "gone", ids["web"][:25], "lost") // ids of one millisecond begin alike
	require.Equal(t, exitSome, r.code)
	require.Equal(t, "boxlite: no box has the id or name \"gone\": boxlite ls -a lists them\nboxlite: no box has the id or name \"lost\": boxlite ls -a lists them\n", r.stderr)
	var got []inspected
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &got))
	require.Len(t, got, 2)
	require.Equal(t, "db", got[0].Name)
	require.Equal(t, ids["web"], string(got[1].ID))
	require.Equal(t, "<1>", got[1].Options.Env[0].Value)
	require.Equal(t, "nginx:1.27", got[1].Options.Rootfs.Image)
	require.Contains(t, r.stdout, "<1>", "text is not escaped for web pages")
	require.Equal(t, result{"[]\n", "boxlite: no box has the id or name \"gone\": boxlite ls -a lists them\n", exitSome}, do("inspect", "gone"))
	require.Equal(t, result{"configured db\nconfigured web\n", "", 0}, do("inspect", "-f", "{{.Status}} {{.Name}}", "db", "web"))
	require.Equal(t, 2, strings.Count(do("inspect", "-f", "json", "db", "web").stdout, "\n"))
	require.Equal(t, exitFailed, do("inspect", "-f", "{{.Nothing}}", "db").code)
}

// TestManyBoxes looks at commands on several boxes of which some fail.
func TestManyBoxes(t *testing.T) {
	do, ids := madeBoxes(t)
	none := "boxlite: no box has the id or name \"gone\": boxlite ls -a lists them\n"
	require.Equal(t, result{"db\nweb\n", none, exitSome}, do("stop", "db", "gone", "web"), "stopping what does not run is no failure")
	r := do("kill", "db", "gone")
	require.Equal(t, exitSome, r.code)
	require.Contains(t, r.stderr, "is configured, not running: there is nothing to kill\n"+none)
	require.Contains(t, do("kill", "-s", "HUP", "db").stderr, "start it first")
	require.Equal(t, result{"", none, exitSome}, do("restart", "gone"))
	require.Equal(t, result{"", none, exitSome}, do("start", "gone"))
	require.Equal(t, result{"", none, exitSome}, do("wait", "gone"))
	for _, bad := range [][]string{{"stop", "-t", "-1", "db"}, {"kill", "-s", "NONE", "db"}, {"restart", "-t", "x", "db"}, {"stop"}, {"rm"}, {"rm", "-a", "db"}} {
		require.Equal(t, exitFailed, do(bad...).code, bad)
	}

	require.Equal(t, result{}, do("rename", "db", "store"))
	r = do("rename", "store", "web")
	require.Equal(t, exitSome, r.code)
	require.Contains(t, r.stderr, `"web" belongs to box `+ids["web"])
	require.Equal(t, exitSome, do("rename", "gone", "x").code)
	require.Contains(t, do("rename", "store", "a/b").stderr, `name "a/b"`)
	require.Equal(t, "store\n", do("inspect", "-f", "{{.Name}}", ids["db"]).stdout)

	require.Equal(t, result{"store\n", none, exitSome}, do("rm", "gone", "store"))
	require.Equal(t, result{"", none, 0}, do("rm", "-f", "gone"), "as docker has it")
	r = do("rm", "-a")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.stderr, "add -f")
	require.Equal(t, result{ids["web-2"] + "\n" + ids["web"] + "\n", "", 0}, do("rm", "-a", "-f"))
	require.Equal(t, result{}, do("rm", "-a"), "there are none left to ask about")
}

// TestRemoveAllAsks answers on a terminal.
func TestRemoveAllAsks(t *testing.T) {
	do, ids := madeBoxes(t)
	answer := func(text string) result {
		ours, theirs, err := pty.Open()
		require.NoError(t, err)
		defer ours.Close()
		defer theirs.Close()
		old := os.Stdin
		os.Stdin = theirs
		defer func() { os.Stdin = old }()
		_, err = ours.WriteString(text)
		require.NoError(t, err)
		return do("rm", "--all")
	}
	for _, no := range []string{"\n", "n\n", "yess\n", "\x04"} {
		r := answer(no)
		require.Equal(t, exitSome, r.code, no)
		require.Contains(t, r.stderr, "all 3 boxes")
		require.Contains(t, r.stderr, "nothing was removed")
	}
	require.Equal(t, result{ids["db"] + "\n" + ids["web-2"] + "\n" + ids["web"] + "\n", "Remove all 3 boxes with their disks? [y/N] ", 0}, answer("Y\n"))
}

func TestInfo(t *testing.T) {
	t.Setenv("BOXLITE_KERNEL", "/some/kernel")
	do, _ := madeBoxes(t)
	r := do("info", "--format", "json")
	require.Equal(t, 0, r.code, r.stderr)
	var got hostInfo
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &got))
	require.Equal(t, 3, got.Boxes)
	require.Equal(t, 0, got.BoxesRunning)
	require.Equal(t, 0, got.BoxesStopped, "none was started yet")
	require.Equal(t, "/some/kernel", got.Kernel.Reference)
	require.Equal(t, got.Virtualization, got.VirtualizationHelp == "")
	require.Equal(t, got.Home+"\n", do("info", "--format", "{{.Home}}").stdout)
	text := do("info").stdout
	require.Regexp(t, `(?m)^Kernel: +/some/kernel$`, text)
	require.Regexp(t, `(?m)^Boxes: +3, 0 of them running$`, text)
}

func TestVersion(t *testing.T) {
	require.Regexp(t, `^boxlite \S+ \w+/\w+ go\S+\n$`, output(t, "version").stdout)
	var v versionInfo
	require.NoError(t, json.Unmarshal([]byte(output(t, "version", "--format", "json").stdout), &v))
	require.Equal(t, versionString(), v.Version)
}

func TestUnknownCommand(t *testing.T) {
	for word, want := range map[string]string{"rnu": "run", "stp": "stop", "inspct": "inspect", "remove": "did you mean rm?", "--x": "--x"} {
		r := output(t, word)
		require.Equal(t, exitFailed, r.code)
		require.Empty(t, r.stdout)
		require.Contains(t, r.stderr, want)
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
	}
}

// complete returns what the shell is offered.
func complete(t *testing.T, args ...string) []string {
	t.Helper()
	c := root()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(new(bytes.Buffer))
	c.SetArgs(append([]string{"__completeNoDesc"}, args...))
	require.NoError(t, c.Execute())
	lines := strings.Fields(out.String())
	return lines[:len(lines)-1] // the last is cobra's directive
}

func TestCompletion(t *testing.T) {
	for shell := range shells {
		r := output(t, "completion", shell)
		require.Equal(t, 0, r.code, r.stderr)
		require.Contains(t, r.stdout, "__complete", shell)
	}
	require.Equal(t, exitFailed, output(t, "completion", "tcsh").code)
	require.Equal(t, exitFailed, output(t, "completion").code)

	do, ids := madeBoxes(t)
	home := strings.TrimSpace(do("info", "--format", "{{.Home}}").stdout)
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"commands":          {[]string{"re"}, []string{"rename", "restart"}},
		"boxes":             {[]string{"rm", ""}, []string{"db", "web-2", "web"}},
		"beginning":         {[]string{"rm", "w"}, []string{"web-2", "web"}},
		"not twice":         {[]string{"rm", "web", ids["db"], ""}, []string{"web-2"}},
		"only one":          {[]string{"logs", "web", ""}, nil},
		"that can start":    {[]string{"start", "d"}, []string{"db"}},
		"that run":          {[]string{"stop", ""}, nil},
		"formats":           {[]string{"ls", "--format", ""}, []string{"table", "json"}},
		"filters":           {[]string{"ls", "--filter", "st"}, []string{"status="}},
		"images' filters":   {[]string{"images", "-f", "dan"}, []string{"dangling=true", "dangling=false"}},
		"statuses":          {[]string{"ls", "--filter", "status=st"}, []string{"status=stopping", "status=stopped"}},
		"signals":           {[]string{"kill", "-s", "H"}, []string{"HUP"}},
		"shells":            {[]string{"completion", "z"}, []string{"zsh"}},
		"events' filters":   {[]string{"events", "--filter", ""}, []string{"box=", "event="}},
		"boxes of events":   {[]string{"events", "--filter", "box=d"}, []string{"box=db"}},
		"kinds of events":   {[]string{"events", "--filter", "event=r"}, []string{"event=rename"}},
		"nothing to name":   {[]string{"version", ""}, nil},
		"images, none here": {[]string{"run", ""}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := complete(t, append([]string{"--home", home}, c.args...)...)
			require.ElementsMatch(t, c.want, got)
		})
	}
	missing := filepath.Join(t.TempDir(), "none")
	require.Empty(t, complete(t, "--home", missing, "rm", ""))
	require.NoDirExists(t, missing, "a completion makes no home")
	broken := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(broken, "boxlite.db"), []byte(strings.Repeat("garbage ", 1000)), 0o600))
	require.Empty(t, complete(t, "--home", broken, "rm", ""))
}

// TestCommandsAreComplete holds every command to what users expect of it.
func TestCommandsAreComplete(t *testing.T) {
	root := root()
	for name, how := range completers {
		if c, _, err := root.Find(strings.Fields(name)); err == nil && c != root {
			want := "IMAGE|NAME"
			if how.boxes != nil {
				want = "BOX"
			} else if how.volumes {
				want = "VOLUME"
			}
			require.Regexp(t, want, c.Use, name)
		}
	}
	for _, c := range root.Commands() {
		if strings.Contains(c.Use, "BOX") {
			require.NotEmpty(t, c.Long, "%s: no long help", c.Name())
			require.NotEmpty(t, c.Example, "%s: no example", c.Name())
			require.NotNil(t, c.ValidArgsFunction, "%s: completes no boxes", c.Name())
		}
	}
}

func homeOf(do func(...string) result) string {
	folder := strings.TrimSpace(do("inspect", "-f", "{{.Folder}}", "web").stdout)
	return filepath.Dir(filepath.Dir(folder)) // of HOME/boxes/ID; info would probe the host
}

// TestMissingBox has the same answer of every command to a box that is not there.
func TestMissingBox(t *testing.T) {
	do, _ := madeBoxes(t)
	for _, args := range []string{
		"start gone", "start -a gone", "attach gone", "logs gone", "logs --console gone", "logs --console -f gone", "wait gone", "exec gone true", "exec -d gone true", "inspect gone",
		"inspect -f {{.ID}} gone", "stop gone", "restart gone", "kill gone", "kill -s HUP gone", "rm gone", "rename gone new", "top gone", "stats gone", "stats --no-stream gone", "cp gone:/a -", "cp - gone:/a",
	} {
		r := do(strings.Fields(args)...)
		require.Equal(t, exitSome, r.code, args)
		require.Equal(t, "boxlite: no box has the id or name \"gone\": boxlite ls -a lists them\n", r.stderr, args)
		require.Empty(t, strings.Trim(r.stdout, "[]\n"), args)
	}
}

// TestCopyLooksHereFirst has boxes that do not run, and cannot be started here.
func TestCopyLooksHereFirst(t *testing.T) {
	do, _ := madeBoxes(t)
	dir := t.TempDir()
	require.NoError(t, os.Symlink(dir, filepath.Join(dir, "link")))
	for want, args := range map[string][]string{
		"nowhere: no such file": {"web:/etc/hosts", filepath.Join(dir, "nowhere", "x")},
		"is a symbolic link":    {"web:/etc/hosts", filepath.Join(dir, "link")},
		"none: no such file":    {filepath.Join(dir, "none"), "web:/"},
	} {
		r := do(append([]string{"cp"}, args...)...)
		require.Equal(t, exitSome, r.code)
		require.Contains(t, r.stderr, want)
	}
	require.Equal(t, "create\ncreate\ncreate\n", do("events", "--since", "1h", "--until", "0s", "--format", "{{.Kind}}").stdout, "nothing was started")
}

// TestFormatIsChecked has templates that nothing is listed through.
func TestFormatIsChecked(t *testing.T) {
	do, _ := madeBoxes(t)
	for _, command := range []string{"ls", "images", "image ls", "system df", "kernel ls", "events --until 0s", "stats --no-stream", "info", "version", "inspect web", "top web", "image inspect x"} {
		for template, want := range map[string]string{
			"{{.Nope": "want table, json or a Go template", "{{nope}}": `function "nope" not defined`, "{{.Nope}}": "there is no field .Nope",
			"table {{.Nope}}": "there is no field .Nope", "{{if .Nope}}{{end}}": "there is no field .Nope", "{{json .Nope}}": "there is no field .Nope", "{{range .X}}{{.Y}}{{end}}": "there is no field .X",
			"{{$.Nope}}": "there is no field .Nope", "{{with .Nope}}{{end}}": "there is no field .Nope", "{{len (print .Nope)}}": "there is no field .Nope",
			"JSON": `--format "JSON": did you mean json? want`, "x": `--format "x": want`, "table x": "or a Go template",
		} {
			r := do(append(strings.Fields(command), "--format", template)...)
			require.Equal(t, exitFailed, r.code, "%s %s", command, template)
			require.Contains(t, r.stderr, want, command)
			require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
		}
	}
	for _, good := range []string{"", "json", "table", "{{.Name}} {{.Labels.tier}} {{range $k, $v := .Labels}}{{$k}}={{$v}}{{end}}", "{{.CreatedAt.Unix}}", "{{with .Name}}{{.}}{{end}}", "{{.Status.IsRunning}}", "{{/**/}}", "x{{.ID}}", "{{range .Mounts}}{{.Name}}{{$.ID}}{{end}}"} {
		r := do("ls", "--format", good)
		require.Zero(t, r.code, "%s: %s", good, r.stderr)
	}
}

// TestKeysAreDockers looks at the JSON of every list.
func TestKeysAreDockers(t *testing.T) {
	do, _ := madeBoxes(t)
	for _, command := range []string{"ls -a", "system df", "kernel ls", "events --since 1h --until 0s", "info", "version", "inspect web"} {
		for line := range strings.Lines(do(append(strings.Fields(command), "--format", "json")...).stdout) {
			requireUpper(t, []byte(line), command)
		}
	}
	row, err := json.Marshal(newImageRow(oci.Image{Layers: []oci.Layer{{}}, Platform: oci.Platform{Variant: "v8"}}))
	require.NoError(t, err)
	requireUpper(t, row, "images")
	row, err = json.Marshal(boxStats{})
	require.NoError(t, err)
	requireUpper(t, row, "stats")
	row, err = json.Marshal(runtime.Process{})
	require.NoError(t, err)
	requireUpper(t, row, "top")
}

// requireUpper looks for keys that do not begin with a capital letter.
func requireUpper(t *testing.T, text []byte, of string) {
	t.Helper()
	var v any
	require.NoError(t, json.Unmarshal(text, &v), "%s: %s", of, text)
	var look func(v any)
	look = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				look(e)
			}
		case map[string]any:
			for key, e := range v {
				if key != "Labels" && key != "Attributes" { // whose keys are users'
					look(e)
				}
				require.Equal(t, strings.ToUpper(key[:1]), key[:1], "%s: %s", of, key)
			}
		}
	}
	look(v)
}

// TestCodesAreShells has a command that a signal ended.
func TestCodesAreShells(t *testing.T) {
	code := -9
	info := runtime.BoxInfo{ExitCode: &code}
	require.Equal(t, 137, *asShell(info).ExitCode)
	require.Equal(t, -9, code, "the caller's is the caller's")
	require.Nil(t, asShell(runtime.BoxInfo{}).ExitCode)
	for text, want := range map[string]string{"-9": "137", "0": "0", "3": "3", "": "", "x": "x"} {
		e := runtime.Event{Attributes: map[string]string{"exitCode": text, "signal": "-9"}}
		codeAsShell(&e)
		require.Equal(t, want, e.Attributes["exitCode"])
		require.Equal(t, "-9", e.Attributes["signal"])
	}
	codeAsShell(&runtime.Event{})
}

// TestKernelsAreCounted has kernels of several kinds in the home.
func TestKernelsAreCounted(t *testing.T) {
	do, _ := madeBoxes(t)
	row := func() string {
		return strings.TrimSpace(do("system", "df", "--format", `{{if eq .Type "Kernels"}}{{.Total}} {{.Active}} {{.Size}} {{.Reclaimable}}{{end}}`).stdout)
	}
	require.Equal(t, "0 0 0 0", row())
	dir := filepath.Join(homeOf(do), "kernel")
	old := time.Now().AddDate(0, 0, -2)
	for name, at := range map[string]time.Time{"vmlinux": old, "vmlinux-0123456789abcdef": time.Now(), "initramfs.cpio-0123456789abcdef": time.Now(), "vmlinux-fedcba9876543210": old} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("x"), 4096), 0o600))
		require.NoError(t, os.Chtimes(filepath.Join(dir, name), at, at))
	}
	require.Regexp(t, `^3 2 \d+ \d+$`, row(), "initramfs belongs to a kernel")
}

// TestNameOfAnId has names that would hide another box from who calls it by its id.
func TestNameOfAnId(t *testing.T) {
	do, ids := madeBoxes(t)
	whole := ids["db"]
	for _, name := range []string{whole, strings.ToLower(whole)[:25]} {
		want := `name "` + name + `" is the beginning of the id of box db: choose another` + "\n"
		require.Equal(t, result{"", "boxlite: " + want, exitFailed}, do("create", "--name", name, "--rootfs", "internal", "true"))
		require.Equal(t, result{"", "boxlite: " + want, exitSome}, do("rename", "web", name))
	}
	require.Zero(t, do("rename", "web", whole[:3]).code, "nobody calls a box by so little of its id")
	require.Zero(t, do("rename", "web-2", "0000").code, "no id begins like that")
	require.Zero(t, do("rename", "db", whole).code, "it hides nothing but itself")
}
