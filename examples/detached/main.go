// Command detached leaves a box running when it ends. Started again, it finds
// the box by its name, looks at what its command wrote meanwhile, and stops it.
//
//	go run ./examples/detached [IMAGE]    # starts it
//	go run ./examples/detached [IMAGE]    # finds and ends it
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/anthropics/boxlite/pkg/runtime"
)

const name = "detached-example"

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
	defer rt.Close() // leaves detached boxes alone
	box, err := rt.Get(ctx, name)
	if errors.Is(err, runtime.ErrNotFound) {
		return start(ctx, rt, image)
	} else if err != nil {
		return err
	}
	return end(ctx, box)
}

func start(ctx context.Context, rt *runtime.Runtime, image string) error {
	box, err := rt.Create(ctx, runtime.BoxOptions{
		Rootfs: runtime.Image(image),
		Detach: true,
		// The box's own command: it runs as long as the box, and its output is kept.
		Main: &runtime.MainCommand{Args: []string{"sh", "-c", "echo working; while :; do sleep 1; done"}},
	}, name)
	if err != nil {
		return err
	}
	if err := box.Start(ctx); err != nil {
		return err
	}
	fmt.Println("started", name)
	return nil
}

func end(ctx context.Context, box *runtime.LiteBox) error {
	// Its log from the beginning; following waits for what is not there yet.
	for entry, err := range box.Logs(ctx, runtime.LogOptions{Follow: true}) {
		if err != nil {
			return err
		}
		fmt.Printf("it wrote: %s\n", entry.Text)
		break
	}
	ex, err := box.Run(ctx, runtime.Command("sh", "-c", "echo still $(hostname)"))
	if err != nil {
		return err
	}
	if _, err := io.Copy(os.Stdout, ex.Stdout()); err != nil {
		return err
	}
	if _, err := ex.Wait(ctx); err != nil {
		return err
	}
	fmt.Println("stopping", name)
	return box.Stop(ctx) // which removes it, as KeepOnStop is not set
}
