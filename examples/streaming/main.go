// Command streaming talks to a command in a box while it runs: lines go in,
// lines come out, and closing standard input ends it.
//
//	go run ./examples/streaming [IMAGE]
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
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
	errors := make(chan string)
	go func() {
		defer close(errors)
		for line := range runtime.Lines(ex.Stderr()) {
			errors <- line
		}
	}()
	stdin := ex.Stdin()
	if _, err := fmt.Fprintln(stdin, "line 1"); err != nil {
		return err
	}
	n := 1
	for line, err := range runtime.Lines(ex.Stdout()) {
		if err != nil {
			return err
		}
		fmt.Println(line)
		if n++; n <= 3 {
			fmt.Fprintln(stdin, "line", n)
		} else {
			stdin.Close() // end of file: the loop in the box ends
		}
	}
	for line := range errors {
		fmt.Println("stderr:", line)
	}
	result, err := ex.Wait(ctx)
	if err != nil {
		return err
	}
	fmt.Println("exit code", result.ExitCode)
	return box.Stop(ctx)
}
