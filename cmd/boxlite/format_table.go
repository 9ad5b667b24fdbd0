package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"text/tabwriter"
)

// table prints rows through a template as columns with a header, as docker's
// --format 'table {{.ID}}\t{{.Name}}' does. A tab begins a column, and the last
// field that a column shows is its header.
func (f format) table(w io.Writer, n int, row func(int) any) error {
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	var header []string
	for column := range strings.SplitSeq(unescape(string(f)), "\t") {
		name := ""
		if fields := shownField().FindAllStringSubmatch(column, -1); len(fields) > 0 {
			name = strings.ToUpper(fields[len(fields)-1][1])
		}
		header = append(header, name)
	}
	fmt.Fprintln(tw, strings.Join(header, "\t"))
	if err := f.each(tw, n, row); err != nil {
		return err
	}
	return tw.Flush()
}

// shownField is a field in a template, or one of another. It is not compiled
// before somebody needs it.
var shownField = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\.([A-Za-z]\w*)`) })

// unescape makes the tabs and line feeds that a shell's quotes keep as \t and \n
// real ones. Inside of {{ and }} they are the template's.
func unescape(f string) string {
	var out strings.Builder
	for f != "" {
		text, rest, found := strings.Cut(f, "{{")
		out.WriteString(escapes.Replace(text))
		if !found {
			break
		}
		action, after, ended := strings.Cut(rest, "}}")
		out.WriteString("{{" + action)
		if ended {
			out.WriteString("}}")
		}
		f = after
	}
	return out.String()
}

var escapes = strings.NewReplacer(`\t`, "\t", `\n`, "\n")
