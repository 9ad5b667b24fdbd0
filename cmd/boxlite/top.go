package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func topCommand(g *globalOptions) *cobra.Command {
	var f format
	c := &cobra.Command{
		Use:   "top [flags] BOX",
		Short: "List the processes of a box",
		Long: `Lists the processes of a running box, as ps -ef would in it. The guest's kernel
threads and boxlite's own agent are left out. C is the share of one CPU that a
process has had over its life, in percent.`,
		Example: `  boxlite top web
  boxlite top --format '{{.PID}} {{.Command}}' web`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onBox(cmd.Context(), g, args[0], func(ctx context.Context, box *runtime.LiteBox) error {
				processes, err := box.Processes(ctx)
				if err != nil {
					return err
				}
				now := time.Now()
				return list(&stdout, f, processes, []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}, func(p runtime.Process) []string {
					return processRow(p, now)
				})
			})
		},
	}
	addFormat[runtime.Process](c, &f, "", "{{.PID}} {{.Command}}")
	return c
}

// processRow is a line of ps -ef.
func processRow(p runtime.Process, now time.Time) []string {
	user := strconv.FormatUint(uint64(p.UID), 10)
	if p.UID == 0 {
		user = "root" // whose name is the same in every image
	}
	share := 0
	if life := now.Sub(p.Start); life > 0 {
		share = int(min(max(100*p.CPU.Seconds()/life.Seconds(), 0), 9999)) // the guest's word
	}
	tty := p.TTY
	if tty == "" {
		tty = "?"
	}
	return []string{user, strconv.Itoa(p.PID), strconv.Itoa(p.PPID), strconv.Itoa(share), startTime(p.Start.Local(), now), tty, cpuTime(p.CPU), p.Command}
}

// startTime is the time of a process that began today, otherwise its day.
func startTime(t, now time.Time) string {
	switch y, m, d := now.Date(); {
	case t.Year() == y && t.Month() == m && t.Day() == d:
		return t.Format("15:04")
	case t.Year() == y:
		return t.Format("Jan02")
	}
	return t.Format("2006")
}

func cpuTime(d time.Duration) string {
	s := int64(d / time.Second)
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}
