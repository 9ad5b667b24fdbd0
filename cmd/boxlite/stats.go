package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

// statsInterval is how often figures are taken; a CPU's share is that of the
// time between two of them.
const statsInterval = time.Second

func statsCommand(g *globalOptions) *cobra.Command {
	var f format
	var once bool
	c := &cobra.Command{
		Use:   "stats [flags] [BOX...]",
		Short: "Show what boxes use, all the time",
		Long: `Shows a table of what running boxes use, or the named ones, and takes new
figures every second until it is interrupted.

CPU is the time of the box's VM process, where 100 % is one CPU of this machine.
MEM is what the programs and the kernel in the box hold, of the memory that the
box has; PIDS counts their processes and threads. BLOCK I/O is what the box read
from and wrote to its disks. A box that does not answer shows "--".

--format prometheus prints the figures once, as metrics for Prometheus.`,
		Example: `  boxlite stats
  boxlite stats --no-stream --format '{{.Name}} {{.PIDs}}' web
  boxlite stats --format prometheus`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ctx, cancel := untilOneSignal(cmd.Context())
			defer cancel()
			defer func() { err = orInterrupted(ctx, err) }()
			rt, done, err := g.open()
			if err != nil {
				return err
			}
			defer done()
			defer func() { err = errors.Join(err, rt.Close()) }()
			s := newSampler(rt, args)
			if err := s.resolve(ctx); err != nil {
				return err
			}
			switch {
			case f == "prometheus":
				return s.prometheus(ctx, &stdout)
			case once:
				return s.once(ctx, &stdout, f)
			}
			if err = s.stream(ctx, &stdout, f, isTerminal(os.Stdout)); ctx.Err() != nil {
				return nil // how this command is meant to end
			}
			return err
		},
	}
	c.Flags().StringVar((*string)(&f), "format", "table", `table, json (an object per line), prometheus, or a Go template such as '{{.Name}} {{.CPUPerc}}'`)
	_ = c.RegisterFlagCompletionFunc("format", fixed("table", "json", "prometheus"))
	checkFormat[boxStats](c, &f, "prometheus")
	c.Flags().BoolVar(&once, "no-stream", false, "show figures of one second, and end")
	return c
}

// boxStats is a row.
type boxStats struct {
	ID            string
	Name          string
	Status        runtime.BoxStatus
	Answers       bool    // the guest gave its figures in time; without them those below are 0
	CPUPercent    float64 // of one CPU of the host; 0 also where it is not known
	MemoryUsed    int64   // bytes
	MemoryLimit   int64   // bytes
	MemoryPercent float64
	BlockRead     int64 // bytes since boot
	BlockWrite    int64 // bytes since boot
	PIDs          int   // processes and threads

	cpuKnown bool
}

// unknown is shown for a figure that is not there.
const unknown = "--"

// CPUPerc is the text of the CPU's column; those below are of the others.
func (s boxStats) CPUPerc() string {
	if !s.cpuKnown {
		return unknown
	}
	return fmt.Sprintf("%.2f%%", s.CPUPercent)
}

// MemUsage is what is used, and of how much.
func (s boxStats) MemUsage() string {
	return s.ifAnswers(binarySize(s.MemoryUsed)) + " / " + binarySize(s.MemoryLimit)
}

// MemPerc is the share of the memory that is used.
func (s boxStats) MemPerc() string { return s.ifAnswers(fmt.Sprintf("%.2f%%", s.MemoryPercent)) }

// NetIO is not known yet.
func (s boxStats) NetIO() string { return "-" }

// BlockIO is what was read and written.
func (s boxStats) BlockIO() string {
	return s.ifAnswers(decimalSize(s.BlockRead) + " / " + decimalSize(s.BlockWrite))
}

// Tasks is the number of processes and threads.
func (s boxStats) Tasks() string { return s.ifAnswers(fmt.Sprint(s.PIDs)) }

func (s boxStats) ifAnswers(text string) string {
	if !s.Answers {
		return unknown
	}
	return text
}

// binarySize and decimalSize write bytes as Docker's table does.
func binarySize(n int64) string {
	return sizeText(n, 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"})
}
func decimalSize(n int64) string {
	return sizeText(n, 1000, []string{"B", "kB", "MB", "GB", "TB", "PB"})
}

func sizeText(n int64, base float64, units []string) string {
	v, i := float64(n), 0
	for v >= base && i < len(units)-1 {
		v, i = v/base, i+1
	}
	return fmt.Sprintf("%.4g%s", v, units[i])
}

func showStats(w io.Writer, f format, rows []boxStats) error {
	return list(w, f, rows, []string{"BOX ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"}, func(s boxStats) []string {
		return []string{s.ID, s.Name, s.CPUPerc(), s.MemUsage(), s.MemPerc(), s.NetIO(), s.BlockIO(), s.Tasks()}
	})
}

// once shows the figures of one interval.
func (s *sampler) once(ctx context.Context, w io.Writer, f format) error {
	if _, err := s.sample(ctx); err != nil {
		return err
	}
	select {
	case <-time.After(statsInterval):
	case <-ctx.Done():
		return ctx.Err()
	}
	rows, err := s.sample(ctx)
	if err != nil {
		return err
	}
	return showStats(w, f, rows)
}

// stream shows figures until ctx ends, or until none of the named boxes is left.
func (s *sampler) stream(ctx context.Context, w io.Writer, f format, screen bool) error {
	tick := time.NewTicker(statsInterval)
	defer tick.Stop()
	if screen {
		fmt.Fprint(w, "\x1b[2J")
	}
	for {
		rows, err := s.sample(ctx)
		if err != nil {
			return err
		}
		if s.named && len(rows) == 0 {
			return nil
		}
		var text strings.Builder
		if err := showStats(&text, f, rows); err != nil {
			return err
		}
		out := text.String()
		if screen { // from the corner, each line and the rest of the screen cleared: no flicker
			out = "\x1b[H" + strings.ReplaceAll(out, "\n", "\x1b[K\n") + "\x1b[J"
		}
		if _, err := io.WriteString(w, out); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
