package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func networkCommand(g *globalOptions) *cobra.Command {
	c := &cobra.Command{
		Use:     "network COMMAND",
		Short:   "Look at the networks of boxes",
		Long:    `Shows what went over the network of a box, and what was denied.`,
		Example: `  boxlite network log web`,
		RunE:    showHelp,
	}
	c.AddCommand(networkLogCommand(g))
	return c
}

func networkLogCommand(g *globalOptions) *cobra.Command {
	var follow bool
	var tail, since string
	var f format
	c := &cobra.Command{
		Use:     "log [flags] BOX",
		Aliases: []string{"logs"},
		Short:   "Show the connections of a box, and what it was denied",
		Long: `Shows each connection of a box, stream of datagrams and run of echo requests when
it has ended, in this run of the box and in those before: both ends, the name that
the box looked up, the verdict and the rule or reason for it, bytes, and how long
it lasted. Names that the box was not to look up are there as dns. The last 4 to
8 MiB of them are kept with the box.

The fields of a --format are Time (of its begin), Seconds (that it lasted),
Protocol (tcp, udp, icmp or dns), From, To, Name (of To, as the box looked it
up), Action (allow or deny), Rule (that decided), Reason (for the action: rule,
default, answer, private network, ...), Sent and Received (bytes, as the box sees
it), Error (how it failed or was cut), Inbound (true of what came in by a port of
this machine) and Lost (how many before it there was no time to note).`,
		Example: `  boxlite network log -f web
  boxlite network log --since 10m -n 20 web
  boxlite network log --format '{{.Action}} {{.Name}} {{.To}}' web`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := logOptions("network log", tail, since, follow)
			if err != nil {
				return err
			}
			return onBox(cmd.Context(), g, args[0], func(ctx context.Context, box *runtime.LiteBox) error {
				return quietPipe(printFlows(ctx, box, o, f))
			})
		},
	}
	addFormat[flowRow](c, &f, "", "{{.Action}} {{.To}}")
	fl := c.Flags()
	fl.BoolVarP(&follow, "follow", "f", false, "go on until the box stops")
	fl.StringVarP(&tail, "tail", "n", "all", "show only so many before the end")
	fl.StringVar(&since, "since", "", "show none that ended before: a time (RFC 3339), seconds since 1970, or a duration such as 10m")
	return c
}

var flowHeader = []string{"TIME", "PROTOCOL", "FROM", "TO", "NAME", "VERDICT", "SENT", "RECEIVED", "LASTED"}

// printFlows prints them in a format. Columns of a table that grows are as wide as
// is usual, of others as they have to be.
func printFlows(ctx context.Context, b *runtime.LiteBox, o runtime.LogOptions, f format) error {
	table := f == "table" || f == ""
	if !o.Follow && (table || f.inColumns()) {
		var rows []flowRow
		for flow, err := range b.Flows(ctx, o) {
			if err != nil {
				return err
			}
			rows = append(rows, rowOf(flow))
		}
		return list(&stdout, f, rows, flowHeader, flowCells)
	}
	w := bufio.NewWriterSize(&stdout, 64<<10)
	if table {
		growingRow(w, flowHeader)
		if err := w.Flush(); err != nil {
			return err
		}
	}
	for flow, err := range b.Flows(ctx, o) {
		if err != nil {
			return errors.Join(w.Flush(), err)
		}
		switch {
		case table:
			growingRow(w, flowCells(rowOf(flow)))
		case f == "json":
			err = list(w, f, []runtime.Flow{flow}, nil, nil)
		default:
			err = f.layout().each(w, 1, func(int) any { return rowOf(flow) })
		}
		if err == nil && o.Follow { // who follows waits for none
			err = w.Flush()
		}
		if err != nil {
			return err
		}
	}
	return w.Flush()
}

// flowWidths are what the columns of a table that grows take at least.
var flowWidths = []int{24, 8, 20, 20, 24, 30, 8, 8, 6}

func growingRow(w io.Writer, cells []string) {
	var line strings.Builder
	for i, c := range cells {
		fmt.Fprintf(&line, "%-*s   ", flowWidths[i], c)
	}
	fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
}

// flowRow is a flow as it is shown: there is no port where the protocol has none, and
// no address where a name was looked up.
type flowRow struct {
	runtime.Flow
	From string `json:",omitempty"`
	To   string `json:",omitempty"`
}

func rowOf(f runtime.Flow) flowRow {
	r := flowRow{Flow: f}
	if f.From.IsValid() {
		r.From = endText(f.From, f.Protocol)
	}
	if f.To.IsValid() {
		r.To = endText(f.To, f.Protocol)
	}
	return r
}

// flowCells are a row of the table. Nothing in it can work a terminal, whatever the
// box looked up.
func flowCells(f flowRow) []string {
	verdict := f.Action
	switch {
	case f.Rule != "":
		verdict = f.Rule // it begins with the action
	case f.Reason != "":
		verdict += " (" + f.Reason + ")"
	}
	if f.Error != "" {
		verdict += ": " + f.Error
	}
	from, to := cmp.Or(f.From, "-"), cmp.Or(f.To, "-")
	if f.Inbound {
		verdict = "port" // what leads to the box was asked for
		if f.Error != "" {
			verdict += ": " + f.Error
		}
	}
	cells := []string{
		f.Time.UTC().Format("2006-01-02T15:04:05.000Z"), string(f.Protocol), from, to, f.Name, verdict,
		decimalSize(int64(f.Sent)), decimalSize(int64(f.Received)), time.Duration(f.Seconds * float64(time.Second)).Round(time.Millisecond).String(),
	}
	for i := range cells {
		cells[i] = printable(cells[i])
	}
	return cells
}

// endText is an end of a flow; echo requests have no ports, names no ends.
func endText(a netip.AddrPort, p runtime.FlowProtocol) string {
	switch {
	case !a.IsValid():
		return "-"
	case p == runtime.ProtocolICMP:
		return a.Addr().String()
	}
	return a.String()
}
