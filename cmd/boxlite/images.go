package main

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/anthropics/boxlite/pkg/runtime"
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
			if args[0] == "" {
				return fmt.Errorf("%s: the image's name is empty", called(cmd))
			}
			if err := oci.CheckReference(args[0]); err != nil {
				return plain(called(cmd), err)
			}
			o := oci.PullOptions{Policy: oci.PullAlways, Progress: g.progress()}
			var err error
			if o.Platform, err = parsePlatform(called(cmd), platform); err != nil {
				return err
			}
			rt, done, err := g.open()
			if err != nil {
				return err
			}
			defer done()
			store, err := rt.Images()
			if err != nil {
				return err
			}
			img, err := store.Pull(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			if _, err := store.Rootfs(cmd.Context(), img, o.Progress); err != nil {
				return err
			}
			done()
			say(img.Digest)
			return nil
		},
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress display")
	c.Flags().StringVar(&platform, "platform", "", "platform of a multi-platform image, as linux/arm64 (default: this host's)")
	return c
}

// parsePlatform reads a --platform flag; empty is this host's.
func parsePlatform(what, s string) (p oci.Platform, err error) {
	if s == "" {
		return p, nil
	}
	if p, err = oci.ParsePlatform(s); err != nil {
		return p, fmt.Errorf("%s: --platform %q: want OS/ARCHITECTURE[/VARIANT], such as linux/arm64", what, s)
	}
	return p, nil
}

// listImagesCommand is `boxlite images` and `boxlite image ls`.
func listImagesCommand(g *globalOptions, use string) *cobra.Command {
	var quiet, whole bool
	var f format
	var filters []string
	c := &cobra.Command{
		Use:   use + " [flags] [NAME]",
		Short: "List the images in the store",
		Long: `Lists the images in the store, or those called NAME, which may have * and ?.
Images that no name leads to, because their tag means another by now, or because
they came from an archive without a name, show <none>.`,
		Example: `  boxlite images
  boxlite images --filter 'reference=alpine:*'
  boxlite images --filter dangling=true -q
  boxlite images --format '{{.Repository}}:{{.Tag}} {{.Size}}'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				filters = append(filters, "reference="+args[0])
			}
			keep, err := imageFilter(called(cmd), filters)
			if err != nil {
				return err
			}
			return g.do(func(rt *runtime.Runtime) error {
				store, err := rt.Images()
				if err != nil {
					return err
				}
				var images []oci.Image
				for img, err := range store.Images(cmd.Context()) {
					if err != nil {
						return err
					}
					if keep(img) {
						images = append(images, img)
					}
				}
				if quiet {
					for _, img := range images {
						say(img.Digest)
					}
					return nil
				}
				if f == "" || f == "table" {
					return list(&stdout, f, images, []string{"IMAGE", "DIGEST", "PLATFORM", "PULLED", "SIZE"}, func(img oci.Image) []string {
						digest := img.Digest.Short()
						if whole {
							digest = string(img.Digest)
						}
						return []string{imageName(img), digest, img.Platform.String(), age(img.PulledAt), size(img.Size)}
					})
				}
				rows := make([]imageRow, len(images))
				for i, img := range images {
					rows[i] = newImageRow(img)
				}
				return list(&stdout, f, rows, nil, nil)
			})
		},
	}
	addFormat[imageRow](c, &f, "", "{{.Repository}}:{{.Tag}}")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "digests only")
	c.Flags().BoolVar(&whole, "no-trunc", false, "whole digests")
	c.Flags().BoolP("all", "a", false, "")
	_ = c.Flags().MarkHidden("all") // docker's; nothing is left out that it would add
	c.Flags().StringArrayVarP(&filters, "filter", "f", nil, "only those with reference=PATTERN, dangling=true|false or label=NAME[=VALUE]; all of several")
	_ = c.RegisterFlagCompletionFunc("filter", func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		offers := []string{"reference=", "dangling=true", "dangling=false", "label="}
		return beginning(offers, typed), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
	return c
}

// imageFilter makes one test of the --filter flags.
func imageFilter(what string, filters []string) (func(oci.Image) bool, error) {
	var wanted tests[oci.Image]
	for _, f := range filters {
		key, value, ok := strings.Cut(f, "=")
		switch {
		case ok && key == "reference":
			if _, err := path.Match(value, ""); err != nil {
				return nil, fmt.Errorf("%s: --filter %q: not a pattern: it may have * and ?, and [a-z] for one of some", what, f)
			}
			wanted = append(wanted, func(img oci.Image) bool { return matchesReference(value, img.Reference) })
		case ok && key == "dangling":
			want, err := strconv.ParseBool(value)
			if err != nil {
				return nil, fmt.Errorf("%s: --filter %q: want true or false", what, f)
			}
			wanted = append(wanted, func(img oci.Image) bool { return img.Dangling == want })
		case ok && key == "label" && value != "":
			wanted = append(wanted, func(img oci.Image) bool { return hasLabel(img.Config.Labels, value) })
		default:
			return nil, fmt.Errorf("%s: --filter %q: want reference=PATTERN, dangling=true|false or label=NAME[=VALUE]", what, f)
		}
	}
	return wanted.pass, nil
}

// matchesReference compares with the reference in full, without its tag, and
// with either as people write it.
func matchesReference(pattern, ref string) bool {
	short := strings.TrimPrefix(strings.TrimPrefix(ref, "docker.io/"), "library/")
	for _, name := range []string{ref, short} {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
		if i := strings.LastIndexAny(name, ":@"); i > strings.LastIndexByte(name, '/') {
			if ok, _ := path.Match(pattern, name[:i]); ok {
				return true
			}
		}
	}
	return false
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
