package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

// filter is what --filter asks of boxes: one of each list that is not empty, and
// all labels.
type filter struct {
	name, id, ancestor []string
	status             []runtime.BoxStatus
	label              []string
}

var statuses = []runtime.BoxStatus{
	runtime.StatusConfigured, runtime.StatusRunning, runtime.StatusStopping, runtime.StatusStopped, runtime.StatusUnknown,
}

// dockerStatus are docker's words for them.
var dockerStatus = map[string]runtime.BoxStatus{
	"created": runtime.StatusConfigured, "exited": runtime.StatusStopped, "dead": runtime.StatusUnknown, "removing": runtime.StatusStopping,
}

func parseFilters(list []string) (*filter, error) {
	f := new(filter)
	for _, s := range list {
		key, value, ok := strings.Cut(s, "=")
		if !ok || value == "" {
			return nil, fmt.Errorf("ls: --filter %q: want KEY=VALUE with the key name, id, status, label or ancestor", s)
		}
		switch key {
		case "name":
			f.name = append(f.name, value)
		case "id":
			f.id = append(f.id, strings.ToUpper(value))
		case "status":
			status, ok := dockerStatus[strings.ToLower(value)]
			if !ok {
				status = runtime.BoxStatus(strings.ToLower(value))
			}
			if !slices.Contains(statuses, status) {
				return nil, fmt.Errorf("ls: --filter %q: there is no such status: choose configured, running, stopping, stopped or unknown", s)
			}
			f.status = append(f.status, status)
		case "label":
			f.label = append(f.label, value)
		case "ancestor":
			f.ancestor = append(f.ancestor, value)
		default:
			return nil, fmt.Errorf("ls: --filter %q: there is no key %q: choose name, id, status, label or ancestor", s, key)
		}
	}
	return f, nil
}

func (f *filter) match(b *runtime.BoxInfo) bool {
	contains := func(s string) func(string) bool { return func(part string) bool { return strings.Contains(s, part) } }
	switch {
	case len(f.name) > 0 && !slices.ContainsFunc(f.name, contains(b.Name)),
		len(f.id) > 0 && !slices.ContainsFunc(f.id, contains(string(b.ID))),
		len(f.status) > 0 && !slices.Contains(f.status, b.Status),
		len(f.ancestor) > 0 && !slices.ContainsFunc(f.ancestor, func(image string) bool { return isImage(b.Image, image) }):
		return false
	}
	return !slices.ContainsFunc(f.label, func(l string) bool { return !hasLabel(b.Labels, l) })
}

// hasLabel reports whether there is a label NAME, or NAME=VALUE, as label= of a
// --filter has it, be they of a box, an image or a volume.
func hasLabel(labels map[string]string, want string) bool {
	name, value, valued := strings.Cut(want, "=")
	got, ok := labels[name]
	return ok && (!valued || got == value)
}

// tests are what several --filter flags ask of a thing: all of them.
type tests[T any] []func(T) bool

func (t tests[T]) pass(thing T) bool {
	for _, test := range t {
		if !test(thing) {
			return false
		}
	}
	return true
}

// isImage reports whether a box's image is the one asked for: by the same words,
// by its name without tag and digest, or by a path from here.
func isImage(image, asked string) bool {
	if image == asked {
		return true
	}
	if strings.HasPrefix(asked, ".") {
		abs, err := filepath.Abs(asked)
		return err == nil && image == abs
	}
	rest, ok := strings.CutPrefix(image, asked)
	return ok && (rest[0] == '@' || rest[0] == ':' && !strings.Contains(rest, "/"))
}

// completeFilter completes the value of --filter.
func completeFilter(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	var out []string
	if strings.HasPrefix(typed, "status=") {
		for _, s := range statuses {
			out = append(out, "status="+string(s))
		}
		return beginning(out, typed), cobra.ShellCompDirectiveNoFileComp
	}
	for _, key := range []string{"name", "id", "status", "label", "ancestor"} {
		out = append(out, key+"=")
	}
	return beginning(out, typed), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
