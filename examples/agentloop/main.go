// Command agentloop is the loop of a program that lets a model write Python and
// runs it: each snippet runs in the same box, with a time limit, and what came
// out goes into the model's next turn. The model here is a script.
//
//	go run ./examples/agentloop [IMAGE]    # an image with python3
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
)

// model stands in for a language model: given what happened, it writes the next snippet.
func model(turn int, last outcome) (code string, done bool) {
	switch turn {
	case 0:
		return "open('/work.txt', 'w').write('1 2 3'); print('saved')", false
	case 1: // files last from turn to turn; this one has a mistake
		return "print(sum(int(n) for n in open('/work.txt').read()))", false
	case 2:
		if strings.Contains(last.stderr, "ValueError") { // it reads the error, and mends it
			return "print(sum(int(n) for n in open('/work.txt').read().split()))", false
		}
		return "", true
	case 3: // it hangs: the time limit ends it, and the box goes on
		return "while True: pass", false
	case 4:
		return "print('still here')", false
	}
	return "", true
}

// outcome is what the model is told about a snippet.
type outcome struct {
	stdout, stderr string
	code           int
	timedOut       bool
}

func main() {
	image := "python:3.12"
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
	defer rt.Close() // stops the box, whatever happens
	box, err := rt.Create(ctx, runtime.BoxOptions{Rootfs: runtime.Image(image), MemoryMiB: 512}, "")
	if err != nil {
		return err
	}
	var last outcome
	for turn := 0; ; turn++ {
		code, done := model(turn, last)
		if done {
			return nil
		}
		if last, err = execute(ctx, box, code); err != nil {
			return err
		}
		fmt.Printf("turn %d: code %d, timed out %v: %s\n", turn, last.code, last.timedOut, lastLine(last.stdout+last.stderr))
	}
}

// outputLimit is how much of a snippet's output is kept: it may print without end.
const outputLimit = 64 << 10

// execute runs one snippet. The code goes in by standard input, so that no
// quoting can go wrong.
func execute(ctx context.Context, box *runtime.LiteBox, code string) (outcome, error) {
	ex, err := box.Run(ctx, runtime.Command("python3", "-").Timeout(5*time.Second))
	if err != nil {
		return outcome{}, err
	}
	stdin := ex.Stdin()
	if _, err := io.WriteString(stdin, code); err != nil {
		return outcome{}, err
	}
	if err := stdin.Close(); err != nil {
		return outcome{}, err
	}
	var stdout, stderr bytes.Buffer
	var outputs sync.WaitGroup
	outputs.Go(func() { keep(&stdout, ex.Stdout()) })
	outputs.Go(func() { keep(&stderr, ex.Stderr()) })
	outputs.Wait()
	r, err := ex.Wait(ctx)
	return outcome{stdout.String(), stderr.String(), r.ExitCode, r.TimedOut}, err
}

// keep takes the beginning of a stream and drops the rest. Why a stream broke is
// for Wait to tell.
func keep(into *bytes.Buffer, from io.Reader) {
	io.Copy(into, io.LimitReader(from, outputLimit))
	io.Copy(io.Discard, from)
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
