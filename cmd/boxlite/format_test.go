package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFormat(t *testing.T) {
	type row struct{ ID, Name string }
	rows := []row{{"1", "one<"}, {"2", ""}}
	for f, want := range map[format]string{
		"table":              "ID   NAME\n1    one<\n2    \n",
		"json":               `{"ID":"1","Name":"one<"}` + "\n" + `{"ID":"2","Name":""}` + "\n",
		"{{.ID}}={{.Name}}":  "1=one<\n2=\n",
		`{{.ID}}\t{{.Name}}`: "1\tone<\n2\t\n",
		`{{.ID}}{{"\n"}}`:    "1\n2\n",
		`table {{.Name}}\t{{.ID}}\tx{{json .Name}}`: "NAME   ID   NAME\none<   1    x\"one\\u003c\"\n       2    x\"\"\n",
		"{{json .Name}}": `"one\u003c"` + "\n" + `""` + "\n",
	} {
		var b strings.Builder
		require.NoError(t, list(&b, f, rows, []string{"ID", "NAME"}, func(r row) []string { return []string{r.ID, r.Name} }))
		require.Equal(t, want, b.String(), f)
	}
	for _, bad := range []format{"{{", "{{.Nothing}}", "table {{", "table {{.Nothing}}", `{{"\t`} {
		require.ErrorContains(t, list(&strings.Builder{}, bad, rows, nil, nil), "--format")
	}
}

// TestFormatOfRows has templates that only rows tell to be wrong, or right.
func TestFormatOfRows(t *testing.T) {
	do, _ := madeBoxes(t)
	require.Equal(t, result{"db:\nweb-2:b\nweb:a\n", "", 0}, do("ls", "-a", "--format", "{{.Name}}:{{.Labels.team}}"), "db has no such label")
	for template, want := range map[string]string{
		"{{.Mounts.Foo}}":                          "ls: --format: there is no field .Mounts.Foo: --format json shows all there are",
		"{{.Name.Foo}}":                            "ls: --format: there is no field .Name.Foo:",
		"{{range .Ports}}{{.Foo}}{{end}}":          "ls: --format: there is no field .Foo:",
		"{{with .CreatedAt}}{{.Foo}}{{end}}":       "ls: --format: there is no field .Foo:",
		"{{range .Mounts}}{{$.Foo}}{{end}}":        "ls: --format: there is no field .Foo:",
		"{{slice .Name 0 99}}":                     `ls: --format: at <slice .Name 0 99>: error calling slice`,
		"tabel":                                    `ls: --format "tabel": did you mean table? want table, json or a Go template`,
		"{{range $k, $v := .Labels}}{{.X}}{{end}}": "ls: --format: there is no field .X",
	} {
		r := do("ls", "-a", "--format", template)
		require.Equal(t, exitFailed, r.code, template)
		require.Contains(t, r.stderr, want)
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
	}
	require.Contains(t, do("inspect", "-f", "JSON", "web").stderr, `inspect: --format "JSON": did you mean json? want json or a Go template`)
	require.Contains(t, do("stats", "--format", "promeheus").stderr, `did you mean prometheus? want table, json, prometheus or a Go template`)
}
