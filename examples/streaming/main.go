// Command streaming talks to a command in a box while it runs: lines go in,
// lines come out, and closing standard input ends it.
//
//	go run ./examples/streaming [IMAGE]
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
	"golang.org/x/sync/errgroup"
)

func main() {
	image := "alpine"
	if len(os.Args) > 1 {
		image = os.Args[1]
	}
	if err := run(context.Background(), image); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, image string) error {
	rt, err := runtime.NewWithDefaults()
	if err != nil {
		return err
	}
	defer rt.Close()
	box, err := rt.Create(ctx, runtime.BoxOptions{Rootfs: runtime.Image(image)}, "")
	if err != nil {
		return err
	}
	// The timeout ends the command and everything it started.
	cmd := runtime.Command("sh", "-c", `while read -r line; do echo "got $line"; done; echo done >&2`).Timeout(time.Minute)
	ex, err := box.Run(ctx, cmd)
	if err != nil {
		return err
	}
	// Both outputs are read at once: a command that fills a stream nobody reads waits.
	var complaints []string
	var reading errgroup.Group
	reading.Go(func() error {
		for line, err := range runtime.Lines(ex.Stderr()) {
			if err != nil {
				return err
			}
			complaints = append(complaints, line)
		}
		return nil
	})
	if err := talk(ex.Stdin(), ex.Stdout()); err != nil {
		return err
	}
	if err := reading.Wait(); err != nil {
		return err
	}
	for _, line := range complaints {
		fmt.Println("stderr:", line)
	}
	result, err := ex.Wait(ctx)
	if err != nil {
		return err
	}
	fmt.Println("exit code", result.ExitCode)
	return box.Stop(ctx)
}

// talk sends a line, waits for the answer, and sends the next.
func talk(stdin io.WriteCloser, stdout io.Reader) error {
	if _, err := fmt.Fprintln(stdin, "line 1"); err != nil {
		return err
	}
	next := 2
	for answer, err := range runtime.Lines(stdout) {
		if err != nil {
			return err
		}
		fmt.Println(answer)
		if next <= 3 {
			_, err = fmt.Fprintln(stdin, "line", next)
		} else {
			err = stdin.Close() // end of file: the loop in the box ends
		}
		if err != nil {
			return err
		}
		next++
	}
	return nil
}
