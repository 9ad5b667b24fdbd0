package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/stretchr/testify/require"
)

func TestEvents(t *testing.T) {
	do, ids := madeBoxes(t)
	require.Zero(t, do("rename", "db", "store").code)
	require.Zero(t, do("rm", "web-2").code)
	for name, c := range map[string]struct {
		filters []string
		want    string
	}{
		"all":             {nil, "create web, create web-2, create db, rename store, destroy web-2"},
		"a box":           {[]string{"box=web-2"}, "create web-2, destroy web-2"},
		"docker's word":   {[]string{"container=web"}, "create web"},
		"a box by its id": {[]string{"box=" + ids["db"]}, "create db, rename store"},
		"two boxes":       {[]string{"box=web", "box=store"}, "create web, rename store"},
		"kinds":           {[]string{"event=rename", "event=destroy"}, "rename store, destroy web-2"},
		"both":            {[]string{"event=create", "box=web-2"}, "create web-2"},
		"nothing":         {[]string{"event=die"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"events", "--since", "1h", "--until", "0s", "--format", "{{.Kind}} {{.Name}}"}
			for _, f := range c.filters {
				args = append(args, "--filter", f)
			}
			r := do(args...)
			require.Zero(t, r.code, r.stderr)
			require.Equal(t, c.want, strings.ReplaceAll(strings.TrimSpace(r.stdout), "\n", ", "))
		})
	}
	r := do("events", "--since", "1h", "--until", "0s", "--filter", "event=rename")
	require.Regexp(t, `^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\S+ rename `+ids["db"]+` \(name=store, oldName=db\)\n$`, r.stdout)
	var e runtime.Event
	require.NoError(t, json.NewDecoder(strings.NewReader(do("events", "--since", "1h", "--until", "0s", "--format", "json").stdout)).Decode(&e))
	require.Equal(t, runtime.EventCreate, e.Kind)
	require.Empty(t, do("events", "--until", "0s").stdout, "without --since it is what comes next")
	for _, bad := range [][]string{{"--since", "soon"}, {"--until", "x"}, {"--filter", "box"}, {"--filter", "event=born"}, {"--filter", "type=x"}, {"--format", "{{"}} {
		r := do(append([]string{"events"}, bad...)...)
		require.Equal(t, exitFailed, r.code, bad)
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
	}
}

func TestEventText(t *testing.T) {
	e := &runtime.Event{Time: time.Now(), Kind: runtime.EventDie, BoxID: "01HV", Attributes: map[string]string{"reason": "a\x1b[2J\nb", "exitCode": "1"}}
	require.True(t, strings.HasSuffix(eventText(e), ` die 01HV (exitCode=1, reason="a\x1b[2J\nb")`), eventText(e))
}
