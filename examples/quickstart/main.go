// Command quickstart runs one command in a box and prints what it says.
//
//	go run ./examples/quickstart [IMAGE]
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"

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
	// Close stops the boxes that are still running. If this program dies
	// instead, they notice and stop by themselves.
	defer rt.Close()

	// A box costs nothing yet: no image is pulled, no VM started.
	box, err := rt.Create(ctx, runtime.BoxOptions{Rootfs: runtime.Image(image)}, "")
	if err != nil {
		return err
	}
	// The first command boots it.
	run, err := box.Run(ctx, runtime.Command("sh", "-c", "echo hello from $(uname -s); exit 3"))
	if err != nil {
		return err
	}
	if _, err := io.Copy(os.Stdout, run.Stdout()); err != nil {
		return err
	}
	result, err := run.Wait(ctx)
	if err != nil {
		return err
	}
	fmt.Println("exit code", result.ExitCode)
	return box.Stop(ctx)
}
