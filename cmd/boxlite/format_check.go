package main

import (
	"fmt"
	"reflect"
	"text/template/parse"

	"github.com/spf13/cobra"
)

// addFormat gives a command that lists T's the --format flag.
func addFormat[T any](c *cobra.Command, f *format, short, example string) {
	f.add(c, short, example)
	checkFormat[T](c, f)
}

// checkFormat looks at the value of a command's --format before anything is done:
// a wrong template must not pass because there is nothing to list just now.
// Beside table and json the words are none that a template is made of.
func checkFormat[T any](c *cobra.Command, f *format, words ...format) {
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		for _, w := range append(words, "", "table", "json") {
			if *f == w {
				return nil
			}
		}
		if err := f.check(reflect.TypeFor[T]()); err != nil {
			return fmt.Errorf("%s%w", prefix(c), err)
		}
		return nil
	}
}

// check parses the template and looks up the fields that it takes of a row.
func (f format) check(row reflect.Type) error {
	t, err := f.layout().parse()
	if err != nil {
		return err
	}
	if t.Tree == nil { // nothing but blanks
		return nil
	}
	if name := missingField(t.Root, row); name != "" {
		return fmt.Errorf("--format: there is no field %s: --format json shows all there are", name)
	}
	return nil
}

// missingField is the first field in a part of a template that a row lacks, empty
// for none. What a range or with is about has other fields, which are seen when
// there is something.
func missingField(n parse.Node, row reflect.Type) string {
	var parts []parse.Node
	switch n := n.(type) {
	case *parse.ListNode:
		if n != nil {
			parts = n.Nodes
		}
	case *parse.ActionNode:
		parts = []parse.Node{n.Pipe}
	case *parse.IfNode:
		parts = []parse.Node{n.Pipe, n.List, n.ElseList}
	case *parse.RangeNode:
		parts = []parse.Node{n.Pipe, n.ElseList}
	case *parse.WithNode:
		parts = []parse.Node{n.Pipe, n.ElseList}
	case *parse.PipeNode:
		for _, c := range n.Cmds {
			parts = append(parts, c)
		}
	case *parse.CommandNode:
		parts = n.Args
	case *parse.FieldNode:
		return lookUp(row, n.Ident)
	case *parse.VariableNode:
		if n.Ident[0] == "$" {
			return lookUp(row, n.Ident[1:])
		}
	}
	for _, p := range parts {
		if name := missingField(p, row); name != "" {
			return name
		}
	}
	return ""
}

// lookUp follows names from a row, as far as its type tells what they are.
func lookUp(t reflect.Type, names []string) string {
	path := ""
	for _, name := range names {
		path += "." + name
		if m, ok := t.MethodByName(name); ok {
			t = m.Type.Out(0)
			continue
		}
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return "" // a map or such, whose fields are known when it is there
		}
		field, ok := t.FieldByName(name)
		if !ok || !field.IsExported() {
			return path
		}
		t = field.Type
	}
	return ""
}
