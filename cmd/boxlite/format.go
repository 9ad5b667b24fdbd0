package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"

	"github.com/spf13/cobra"
)

// format is the --format flag of commands that list.
type format string

// add gives a command the flag, with an example of a template. short is a letter
// for it, or empty.
func (f *format) add(c *cobra.Command, short, example string) {
	c.Flags().StringVarP((*string)(f), "format", short, "table", fmt.Sprintf(`table, json (an object per line), or a Go template such as '%s'; with "table " before it in columns that \t separates`, example))
	_ = c.RegisterFlagCompletionFunc("format", fixed("table", "json"))
}

// list prints rows in a format: as a table with a header, as a line of JSON
// each, or each through a template that has T's fields, in columns or not.
func list[T any](w io.Writer, f format, rows []T, header []string, cells func(T) []string) error {
	switch f {
	case "table", "":
		tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
		fmt.Fprintln(tw, strings.Join(header, "\t"))
		for _, r := range rows {
			fmt.Fprintln(tw, strings.Join(cells(r), "\t"))
		}
		return tw.Flush()
	case "json":
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		for _, r := range rows {
			if err := e.Encode(r); err != nil {
				return err
			}
		}
		return nil
	}
	row := func(i int) any { return rows[i] }
	if f.inColumns() {
		return f.layout().table(w, len(rows), row)
	}
	return f.each(w, len(rows), row)
}

// columns is what a template begins with that is shown as a table.
const columns = "table "

func (f format) inColumns() bool { return strings.HasPrefix(string(f), columns) }

// layout is the template itself.
func (f format) layout() format {
	if layout, ok := strings.CutPrefix(string(f), columns); ok {
		return format(strings.TrimSpace(layout))
	}
	return f
}

func (f format) parse() (*template.Template, error) {
	t, err := template.New("format").Funcs(template.FuncMap{
		"json": func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
		"join": func(list []string, sep string) string { return strings.Join(list, sep) },
	}).Option("missingkey=zero").Parse(unescape(string(f))) // a label that a box does not have is empty
	if err != nil {
		return nil, &formatError{fmt.Errorf("want table, json or a Go template: %w", err)}
	}
	return t, nil
}

// formatError is of a --format that is wrong, which for some is seen only when there is
// something to show.
type formatError struct{ err error }

func (e *formatError) Error() string {
	text := e.err.Error()
	if _, what, ok := strings.Cut(text, `: executing "format" at `); ok {
		text = "at " + what // where in Go's library it went wrong is of no use here
	}
	return "--format: " + text
}

func (e *formatError) Unwrap() error { return e.err }

// each runs the template for n things, a line each.
func (f format) each(w io.Writer, n int, thing func(int) any) error {
	t, err := f.parse()
	if err != nil {
		return err
	}
	for i := range n {
		var line strings.Builder
		if err := t.Execute(&line, thing(i)); err != nil {
			return &formatError{err}
		}
		if _, err := fmt.Fprintln(w, strings.TrimSuffix(line.String(), "\n")); err != nil {
			return err
		}
	}
	return nil
}
