package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func logsCommand(g *globalOptions) *cobra.Command {
	var follow, timestamps, console bool
	var tail, since string
	c := &cobra.Command{
		Use:   "logs [flags] BOX",
		Short: "Show what the command of a box wrote",
		Long: `Shows what the box's command wrote to standard output and standard error, each
on our own, in this run of the box and in those before. The last 20 to 30 MB are
kept with the box. With --console it is what the box's kernel printed.`,
		Example: `  boxlite logs -f web
  boxlite logs --since 10m -n 100 -t web
  boxlite logs --console -f web`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := logOptions("logs", tail, since, follow)
			if err != nil {
				return err
			}
			if console && (since != "" || timestamps) {
				return errors.New("logs: --console goes with -f and -n only: what the kernel prints has no times")
			}
			return g.do(func(rt *runtime.Runtime) error {
				b, err := rt.Get(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if !console {
					return quietPipe(printLogs(cmd, b, o, timestamps))
				}
				if follow {
					lines := -1
					if tail != "all" {
						lines = o.Tail
					}
					return b.FollowConsole(cmd.Context(), &stdout, lines)
				}
				text, err := b.ConsoleLog(cmd.Context())
				if err != nil {
					return err
				}
				if tail != "all" {
					text = lastLines(text, o.Tail)
				}
				_, err = io.WriteString(&stdout, text)
				return err
			})
		},
	}
	f := c.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on until the box stops")
	f.StringVarP(&tail, "tail", "n", "all", "show only so many lines before the end")
	f.StringVar(&since, "since", "", "show nothing older: a time (RFC 3339), seconds since 1970, or a duration such as 10m")
	f.BoolVarP(&timestamps, "timestamps", "t", false, "begin each line with its time")
	f.BoolVar(&console, "console", false, "show what the kernel and init printed instead")
	return c
}

// logOptions are what -f, -n and --since of a command say.
func logOptions(what, tail, since string, follow bool) (o runtime.LogOptions, err error) {
	o.Follow = follow
	if tail != "all" {
		n, err := strconv.Atoi(tail)
		if err != nil || n < 0 {
			return o, fmt.Errorf("%s: -n %q: want a number of lines, or all", what, tail)
		}
		if o.Tail = n; n == 0 {
			o.Since = time.Now()
		}
	}
	if since != "" {
		at, err := parseTime(since, time.Now())
		if err != nil {
			return o, fmt.Errorf("%s: --since: %w", what, err)
		}
		if at.After(o.Since) {
			o.Since = at
		}
	}
	return o, nil
}

// printLogs copies a log's streams to ours.
func printLogs(cmd *cobra.Command, b *runtime.LiteBox, o runtime.LogOptions, timestamps bool) error {
	out := map[runtime.Stream]*bufio.Writer{
		runtime.StreamStdout: bufio.NewWriterSize(&stdout, 64<<10),
		runtime.StreamStderr: bufio.NewWriterSize(os.Stderr, 64<<10),
	}
	flush := func() error { return errors.Join(out[runtime.StreamStdout].Flush(), out[runtime.StreamStderr].Flush()) }
	amid := map[runtime.Stream]bool{} // the stream is in the middle of a line
	for e, err := range b.Logs(cmd.Context(), o) {
		if err != nil {
			return errors.Join(flush(), err)
		}
		w := out[e.Stream]
		if timestamps && !amid[e.Stream] {
			w.WriteString(e.Time.UTC().Format(time.RFC3339Nano))
			w.WriteByte(' ')
		}
		amid[e.Stream] = e.Partial
		w.Write(e.Text)
		if !e.Partial {
			w.WriteByte('\n')
		}
		// Lines of the two streams keep their order where they go to one place, and a follower waits for none.
		if err := flush(); err != nil {
			return err
		}
	}
	return flush()
}

// quietPipe drops the error of a reader that has gone.
func quietPipe(err error) error {
	if errors.Is(err, unix.EPIPE) {
		return nil
	}
	return err
}

func lastLines(text string, n int) string {
	if n == 0 || text == "" {
		return ""
	}
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "") + "\n"
}

// parseTime reads a moment as Docker takes it: RFC 3339, with less of it where
// that is clear, seconds since 1970, or a duration before now.
func parseTime(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	if n, err := strconv.ParseFloat(s, 64); err == nil && n >= 0 && n < 1e11 {
		return time.UnixMicro(int64(n * 1e6)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: want 2006-01-02T15:04:05Z, seconds since 1970, or a duration such as 10m", s)
}
