package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/spf13/cobra"
)

func pullCommand(g *globalOptions) *cobra.Command {
	var quiet bool
	var platform string
	c := &cobra.Command{
		Use:   "pull [flags] IMAGE",
		Short: "Bring an image into the store",
		Long: `Downloads IMAGE, or imports it from an OCI layout or archive, and makes it ready
to boot. Layers that are there already are not fetched again, and a download
that was interrupted goes on where it ended. Prints the image's digest.`,
		Example: `  boxlite pull alpine
  boxlite pull ghcr.io/owner/name:tag
  boxlite pull oci-archive:image.tar`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			g.quiet = quiet
			rt, done, err := g.open()
			if err != nil {
				return err
			}
			defer done()
			store, err := rt.Images()
			if err != nil {
				return err
			}
			o := oci.PullOptions{Policy: oci.PullAlways, Progress: g.progress()}
			if platform != "" {
				if o.Platform, err = oci.ParsePlatform(platform); err != nil {
					return err
				}
			}
			img, err := store.Pull(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			if _, err := store.Rootfs(cmd.Context(), img, o.Progress); err != nil {
				return err
			}
			done()
			fmt.Println(img.Digest)
			return nil
		},
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress display")
	c.Flags().StringVar(&platform, "platform", "", "platform of a multi-platform image, as linux/arm64 (default: this host's)")
	return c
}

func imagesCommand(g *globalOptions) *cobra.Command {
	var quiet bool
	var f format
	c := &cobra.Command{
		Use:   "images [flags]",
		Short: "List the images in the store",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rt, done, err := g.open()
			if err != nil {
				return err
			}
			defer done()
			store, err := rt.Images()
			if err != nil {
				return err
			}
			var images []oci.Image
			for img, err := range store.Images(cmd.Context()) {
				if err != nil {
					return err
				}
				images = append(images, img)
			}
			if quiet {
				for _, img := range images {
					fmt.Println(img.Digest)
				}
				return nil
			}
			return list(os.Stdout, f, images, []string{"IMAGE", "DIGEST", "PLATFORM", "PULLED", "SIZE"}, func(img oci.Image) []string {
				return []string{img.Reference, img.Digest.Short(), img.Platform.String(), age(img.PulledAt), size(img.Size)}
			})
		},
	}
	f.add(c)
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "digests only")
	return c
}

// age says how long ago something was, in the largest unit that fits.
func age(t time.Time) string {
	d := time.Since(t)
	for _, u := range []struct {
		name string
		d    time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}} {
		if n := int(d / u.d); n > 0 {
			return fmt.Sprintf("%d %s%s ago", n, u.name, strings.Repeat("s", min(n-1, 1)))
		}
	}
	return "just now"
}

// size is a number of bytes in decimal units, as disks and registries count.
func size(n int64) string {
	v, unit := float64(n), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB"} {
		if v < 1000 {
			break
		}
		v, unit = v/1000, u
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}
