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
