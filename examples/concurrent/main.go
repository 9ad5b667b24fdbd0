// Command concurrent runs several boxes at once, each with its own kernel. They
// share the image's files: what one writes, no other sees.
//
//	go run ./examples/concurrent [IMAGE]
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"

	"github.com/anthropics/boxlite/pkg/runtime"
	"golang.org/x/sync/errgroup"
)

const boxes = 3

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
	defer rt.Close() // stops the boxes that an error leaves running
	outputs := make([]string, boxes)
	group, ctx := errgroup.WithContext(ctx)
	for i := range boxes {
		group.Go(func() (err error) {
			outputs[i], err = one(ctx, rt, image, i)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, o := range outputs {
		fmt.Println(o)
	}
	return nil
}

// one is the life of one box.
func one(ctx context.Context, rt *runtime.Runtime, image string, i int) (string, error) {
	box, err := rt.Create(ctx, runtime.BoxOptions{Rootfs: runtime.Image(image), CPUs: 1, MemoryMiB: 256}, "")
	if err != nil {
		return "", err
	}
	script := fmt.Sprintf("ls /mark* 2>/dev/null; echo %d > /mark%d; echo box $(cat /mark*)", i, i)
	ex, err := box.Run(ctx, runtime.Command("sh", "-c", script))
	if err != nil {
		return "", err
	}
	out, err := io.ReadAll(ex.Stdout())
	if err != nil {
		return "", err
	}
	result, err := ex.Wait(ctx)
	if err != nil {
		return "", err
	}
	if !result.Success() {
		return "", fmt.Errorf("box %d: the command ended with exit code %d", i, result.ExitCode)
	}
	return strings.TrimSpace(string(out)), box.Stop(ctx)
}
