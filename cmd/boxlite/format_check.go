package main

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
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
		choice := append([]format{"json"}, words...)
		if c.Flag("format").DefValue == "table" {
			choice = append([]format{"table"}, choice...)
		}
		if *f == "" || *f == "table" || slices.Contains(choice, *f) {
			return nil
		}
		if !strings.Contains(string(*f), "{{") { // it would print itself for each row
			names := make([]string, len(choice))
			for i, w := range choice {
				names[i] = string(w)
			}
			return fmt.Errorf("%s--format %q: %swant %s or a Go template", prefix(c), *f, didYouMean(like(string(*f), names, nil)), strings.Join(names, ", "))
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
	if name := missingField(t.Root, row, row); name != "" {
		return &formatError{fmt.Errorf("there is no field %s: --format json shows all there are", name)}
	}
	return nil
}

// missingField is the first field in a part of a template that a row, or what a range
// or with makes of it, lacks; empty for none. dot is nil where it is not known.
func missingField(n parse.Node, dot, row reflect.Type) string {
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
		return cmp.Or(missingField(n.Pipe, dot, row), missingField(n.List, element(about(n.Pipe, dot, row)), row), missingField(n.ElseList, dot, row))
	case *parse.WithNode:
		return cmp.Or(missingField(n.Pipe, dot, row), missingField(n.List, about(n.Pipe, dot, row), row), missingField(n.ElseList, dot, row))
	case *parse.PipeNode:
		for _, c := range n.Cmds {
			parts = append(parts, c)
		}
	case *parse.CommandNode:
		parts = n.Args
	case *parse.FieldNode:
		_, name := lookUp(dot, n.Ident)
		return name
	case *parse.VariableNode:
		if n.Ident[0] == "$" {
			_, name := lookUp(row, n.Ident[1:])
			return name
		}
	}
	for _, p := range parts {
		if name := missingField(p, dot, row); name != "" {
			return name
		}
	}
	return ""
}

// about is the type of what a range or with is about, nil for one that is not known.
func about(p *parse.PipeNode, dot, row reflect.Type) (t reflect.Type) {
	if len(p.Cmds) != 1 || len(p.Cmds[0].Args) != 1 {
		return nil
	}
	switch n := p.Cmds[0].Args[0].(type) {
	case *parse.DotNode:
		return dot
	case *parse.FieldNode:
		t, _ = lookUp(dot, n.Ident)
	case *parse.VariableNode:
		if n.Ident[0] == "$" {
			t, _ = lookUp(row, n.Ident[1:])
		}
	}
	return t
}

// element is the type of what a range has of t, nil for one that is not known.
func element(t reflect.Type) reflect.Type {
	if t == nil || t.Kind() != reflect.Slice && t.Kind() != reflect.Array && t.Kind() != reflect.Map {
		return nil
	}
	return t.Elem()
}

// lookUp follows names from a type, as far as types tell what they are, and returns
// the type of the last, nil for one that is not known, or the names up to one that is
// not there.
func lookUp(t reflect.Type, names []string) (_ reflect.Type, missing string) {
	for i, name := range names {
		if t == nil || t.Kind() == reflect.Interface {
			return nil, ""
		}
		if m, ok := t.MethodByName(name); ok {
			t = m.Type.Out(0)
			continue
		}
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() == reflect.Map { // whose keys are known when it is there
			t = t.Elem()
			continue
		}
		if t.Kind() == reflect.Struct {
			if field, ok := t.FieldByName(name); ok && field.IsExported() {
				t = field.Type
				continue
			}
		}
		return nil, "." + strings.Join(names[:i+1], ".")
	}
	return t, ""
}
