package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

// eventKinds are the words for --filter event=.
var eventKinds = []runtime.EventKind{
	runtime.EventCreate, runtime.EventStart, runtime.EventKill, runtime.EventDie, runtime.EventStop, runtime.EventRename,
	runtime.EventDestroy, runtime.EventExecStart, runtime.EventExecDie,
}

func eventsCommand(g *globalOptions) *cobra.Command {
	var since, until string
	var filters []string
	var f format
	c := &cobra.Command{
		Use:   "events [flags]",
		Short: "Show what happens to boxes, as it happens",
		Long: `Prints a line for each thing that happens to a box of this home directory, by
whatever program, from now on until it is interrupted: create, start, kill, die,
stop, rename, destroy, and exec_start and exec_die of commands run in it. With
--since what happened before comes first; with --until it ends then. The last
10,000 events are kept. An exitCode is 128+n when signal n ended the command.

A --filter is box=NAME (or id, or the beginning of one) or event=KIND. An event
has to pass one of those of each kind.`,
		Example: `  boxlite events --since 1h --until 0s
  boxlite events --filter box=web --filter event=die
  boxlite events --format '{{.Kind}} {{.Name}} {{json .Attributes}}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, boxes, err := eventOptions(since, until, filters, time.Now())
			if err != nil {
				return err
			}
			write := eventWriter(&stdout, f)
			return g.do(func(rt *runtime.Runtime) error {
				for e, err := range rt.Events(cmd.Context(), o) {
					if err != nil {
						return err
					}
					if len(boxes) > 0 && !slices.ContainsFunc(boxes, func(key string) bool { return isAbout(&e, key) }) {
						continue
					}
					codeAsShell(&e)
					if err := write(&e); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	addFormat[*runtime.Event](c, &f, "", "{{.Kind}} {{.Name}}")
	fl := c.Flags()
	fl.StringVar(&since, "since", "", "begin with what happened then: a time (RFC 3339), seconds since 1970, or a duration such as 10m")
	fl.StringVar(&until, "until", "", "end then, in the same words; 0s is now")
	fl.StringArrayVarP(&filters, "filter", "f", nil, "show only events with this: see above")
	_ = c.RegisterFlagCompletionFunc("filter", func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return completeEventFilter(cmd, g, typed)
	})
	return c
}

// eventOptions reads the flags. Events of no other boxes than the named ones are
// wanted, if any is named.
func eventOptions(since, until string, filters []string, now time.Time) (o runtime.EventOptions, boxes []string, err error) {
	o.Follow = true
	for _, at := range []struct {
		flag, text string
		to         *time.Time
	}{{"since", since, &o.Since}, {"until", until, &o.Until}} {
		if at.text == "" {
			continue
		}
		if *at.to, err = parseTime(at.text, now); err != nil {
			return o, nil, fmt.Errorf("events: --%s: %w", at.flag, err)
		}
	}
	if since != "" && until != "" && o.Since.After(o.Until) {
		return o, nil, fmt.Errorf("events: --since %s is later than --until %s: exchange them; a duration is a time so long ago", since, until)
	}
	for _, s := range filters {
		key, value, ok := strings.Cut(s, "=")
		switch {
		case !ok || value == "":
			return o, nil, fmt.Errorf("events: --filter %q: want box=NAME or event=KIND", s)
		case key == "box" || key == "container":
			boxes = append(boxes, value)
		case key == "event":
			if !slices.Contains(eventKinds, runtime.EventKind(value)) {
				return o, nil, fmt.Errorf("events: --filter %q: there is no such event: choose %s", s, oneOf(eventKinds))
			}
			o.Kinds = append(o.Kinds, runtime.EventKind(value))
		default:
			return o, nil, fmt.Errorf("events: --filter %q: there is no key %q: choose box or event", s, key)
		}
	}
	return o, boxes, nil
}

// isAbout reports whether an event's box had this name, or has this id.
func isAbout(e *runtime.Event, key string) bool {
	id := string(e.BoxID)
	return key == e.Name || len(key) >= 4 && strings.HasPrefix(id, strings.ToUpper(key))
}

// codeAsShell is [asShell] of an event's exitCode.
func codeAsShell(e *runtime.Event) {
	const key = "exitCode"
	if code, err := strconv.Atoi(e.Attributes[key]); err == nil {
		e.Attributes = maps.Clone(e.Attributes)
		e.Attributes[key] = strconv.Itoa(shellCode(code))
	}
}

// eventWriter makes what prints events, each in a line.
func eventWriter(w io.Writer, f format) func(*runtime.Event) error {
	switch f {
	case "table", "":
		return func(e *runtime.Event) error { _, err := fmt.Fprintln(w, eventText(e)); return err }
	case "json":
		return func(e *runtime.Event) error { return list(w, f, []*runtime.Event{e}, nil, nil) }
	}
	return func(e *runtime.Event) error { return f.layout().each(w, 1, func(int) any { return e }) }
}

// eventText is an event as a line: time, kind, id, and the rest in parentheses.
func eventText(e *runtime.Event) string {
	var attributes []string
	for name, value := range e.Attributes {
		attributes = append(attributes, name+"="+printable(value))
	}
	if e.Name != "" {
		attributes = append(attributes, "name="+e.Name)
	}
	slices.Sort(attributes)
	text := fmt.Sprintf("%s %s %s", e.Time.Local().Format("2006-01-02T15:04:05.000000Z07:00"), e.Kind, e.BoxID)
	if len(attributes) > 0 {
		text += " (" + strings.Join(attributes, ", ") + ")"
	}
	return text
}

// printable is a text that may be a box's own, such that it cannot work a terminal.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

func completeEventFilter(cmd *cobra.Command, g *globalOptions, typed string) ([]string, cobra.ShellCompDirective) {
	var out []string
	switch {
	case strings.HasPrefix(typed, "event="):
		for _, k := range eventKinds {
			out = append(out, "event="+string(k))
		}
	case strings.HasPrefix(typed, "box="):
		for _, b := range completeBoxes(cmd.Context(), g, completer{boxes: anyStatus}, nil) {
			out = append(out, "box="+b)
		}
	default:
		return beginning([]string{"box=", "event="}, typed), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
	return beginning(out, typed), cobra.ShellCompDirectiveNoFileComp
}
