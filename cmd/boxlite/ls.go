package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func listCommand(g *globalOptions) *cobra.Command {
	var quiet, all, whole, latest bool
	var last int
	var filters []string
	var f format
	c := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"ps"},
		Short:   "List boxes",
		Long: `Lists the boxes that run, newest first; with -a, and where the number or the
status is given, all others, too. Ids are shortened to what tells the boxes
apart; -q and --no-trunc give them whole. The fields of a template are those of
boxlite inspect, without Options.

A --filter is name=TEXT or id=TEXT (part of it), status=STATUS, label=NAME,
label=NAME=VALUE or ancestor=IMAGE (with any tag unless it has one). A box has to
pass one of those of each kind, except labels, of which it must have all.`,
		Example: `  boxlite ls -a
  boxlite ls --filter status=stopped --filter label=job
  boxlite ls --format '{{.Name}} {{.Status}}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if latest {
				last = 1
			}
			want, err := parseFilters(filters)
			if err != nil {
				return err
			}
			return g.do(func(rt *runtime.Runtime) error {
				boxes, err := rt.ListInfo(cmd.Context())
				if err != nil {
					return err
				}
				short := 0 // of ids: whole
				if !whole {
					short = unambiguous(boxes)
				}
				boxes = choose(boxes, want, all || last >= 0 || want.status != nil, last)
				if quiet {
					for _, b := range boxes {
						say(b.ID)
					}
					return nil
				}
				for i := range boxes {
					boxes[i] = asShell(boxes[i])
				}
				now := time.Now()
				return list(&stdout, f, boxes, []string{"ID", "NAME", "IMAGE", "COMMAND", "STATUS", "CREATED", "PORTS"}, func(b runtime.BoxInfo) []string {
					id, command := string(b.ID), commandText(b.Command, whole)
					if short > 0 {
						id = id[:min(short, len(id))]
					}
					return []string{id, b.Name, b.Image, command, statusText(b, now), age(b.CreatedAt), portsText(b.Ports)}
				})
			})
		},
	}
	addFormat[runtime.BoxInfo](c, &f, "", "{{.ID}} {{.Name}}")
	fl := c.Flags()
	fl.BoolVarP(&all, "all", "a", false, "list boxes that do not run, too")
	fl.BoolVarP(&quiet, "quiet", "q", false, "ids only")
	fl.BoolVar(&whole, "no-trunc", false, "whole ids and commands")
	fl.IntVarP(&last, "last", "n", -1, "list the last so many that were made, running or not")
	fl.BoolVarP(&latest, "latest", "l", false, "list the one that was made last, running or not")
	fl.StringArrayVarP(&filters, "filter", "f", nil, "list only boxes with this: see above")
	_ = c.RegisterFlagCompletionFunc("filter", completeFilter)
	return c
}

// choose takes the boxes that are wanted, at most last of them if that is not negative.
func choose(boxes []runtime.BoxInfo, want *filter, all bool, last int) []runtime.BoxInfo {
	out := boxes[:0:0]
	for _, b := range boxes {
		if last >= 0 && len(out) >= last {
			break
		}
		if (all || b.Status.IsActive()) && want.match(&b) {
			out = append(out, b)
		}
	}
	return out
}

// shortID is the usual length of an id in a list.
const shortID = 12

// unambiguous is how much of an id tells all boxes apart. Boxes are sorted by id.
func unambiguous(boxes []runtime.BoxInfo) int {
	n := shortID
	for i := 1; i < len(boxes); i++ {
		a, b := string(boxes[i-1].ID), string(boxes[i].ID)
		for n < min(len(a), len(b)) && a[:n] == b[:n] {
			n++
		}
	}
	return n
}

// commandWidth is what a command may take in a list, as docker has it.
const commandWidth = 20

// commandText is a command as a list shows it. It may be an image's, so nothing
// in it reaches the terminal as it is.
func commandText(argv []string, whole bool) string {
	if len(argv) == 0 {
		return ""
	}
	text := []rune(strings.Join(argv, " "))
	if !whole && len(text) > commandWidth {
		text = append(text[:commandWidth-1:commandWidth-1], '…')
	}
	return strconv.Quote(string(text))
}

// portsText are the ports of this machine that lead to a box, as docker has them.
func portsText(ports []runtime.PortSpec) string {
	list := make([]string, len(ports))
	for i, p := range ports {
		list[i] = p.String()
	}
	return strings.Join(list, ", ")
}

// statusText is a box's status and how long it has been so.
func statusText(b runtime.BoxInfo, now time.Time) string {
	s := string(b.Status)
	switch {
	case b.Status.IsRunning() && !b.StartedAt.IsZero():
		return s + " " + span(now.Sub(b.StartedAt))
	case b.Status.IsStopped():
		if b.ExitCode != nil {
			s += fmt.Sprintf(" (%d)", shellCode(*b.ExitCode))
		}
		since := b.FinishedAt
		if since.IsZero() {
			since = b.LastUpdated
		}
		return s + " " + span(now.Sub(since)) + " ago"
	}
	return s
}

// shellCode is an exit code, or minus the number of a signal, as a shell has it.
func shellCode(code int) int {
	if code < 0 {
		return 128 - code
	}
	return code
}

// span is a length of time in the largest unit that fits.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	for _, u := range []struct {
		name string
		d    time.Duration
	}{{"year", 365 * day}, {"month", 30 * day}, {"week", 7 * day}, {"day", day}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}} {
		if n := int(d / u.d); n > 0 {
			return fmt.Sprintf("%d %s%s", n, u.name, strings.Repeat("s", min(n-1, 1)))
		}
	}
	return "less than a second"
}
