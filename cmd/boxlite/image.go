package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func imageCommand(g *globalOptions) *cobra.Command {
	c := &cobra.Command{
		Use:   "image COMMAND",
		Short: "List, fetch, save and remove images",
		Long: `Looks after the images that boxes are made from. images, pull, rmi, save and load
are short for image ls, pull, rm, save and load.`,
		Example: `  boxlite image ls
  boxlite image inspect alpine
  boxlite image save -o alpine.tar alpine
  boxlite image prune -a`,
		RunE: showHelp,
	}
	ls := listImagesCommand(g, "ls")
	ls.Aliases = []string{"list"}
	c.AddCommand(ls, pullCommand(g), removeImageCommand(g, "rm"), inspectImageCommand(g), saveCommand(g), loadCommand(g), pruneImagesCommand(g))
	return c
}

// showHelp is what a group of commands does by itself.
func showHelp(c *cobra.Command, _ []string) error { return c.Help() }

func inspectImageCommand(g *globalOptions) *cobra.Command {
	f := format("json")
	c := &cobra.Command{
		Use:   "inspect [flags] IMAGE...",
		Short: "Show all that is known of images, as JSON",
		Long:  "Prints a JSON array, with an object for each image that is named by reference, digest or the beginning of one.",
		Example: `  boxlite image inspect alpine
  boxlite image inspect --format '{{.Config.Cmd}}' alpine`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f == "table" {
				return errors.New("image inspect: --format table: there is none: see boxlite images")
			}
			return g.do(func(rt *runtime.Runtime) error {
				store, err := rt.Images()
				if err != nil {
					return err
				}
				var failed failures
				images := []imageDetails{}
				for _, a := range args {
					found, err := store.Find(cmd.Context(), a)
					failed.add(plain(called(cmd), err))
					images = mergeNames(images, found)
				}
				if f != "" && f != "json" {
					err = list(&stdout, f, images, nil, nil)
				} else {
					e := json.NewEncoder(&stdout)
					e.SetEscapeHTML(false)
					e.SetIndent("", "  ")
					err = e.Encode(images)
				}
				if err != nil {
					return err
				}
				return failed.code()
			})
		},
	}
	c.Flags().StringVarP((*string)(&f), "format", "f", "json", `json, or a Go template for each image, such as '{{.Config.Cmd}}'`)
	_ = c.RegisterFlagCompletionFunc("format", fixed("json"))
	checkFormat[imageDetails](c, &f)
	return c
}

func saveCommand(g *globalOptions) *cobra.Command {
	var output, form, platform string
	c := &cobra.Command{
		Use:   "save [flags] IMAGE...",
		Short: "Write images to an archive",
		Long: `Writes images, named by reference or digest, to a tar archive that boxlite image
load, docker load and others read. Layers are written anew, uncompressed, with
all that is in them: a saved image has the same files, but other digests.`,
		Example: `  boxlite image save -o alpine.tar alpine
  boxlite image save --format docker-archive alpine | ssh host docker load`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" && isTerminal(os.Stdout) {
				return fmt.Errorf("%s: an archive is not for a terminal: give a file with -o, or a pipe", called(cmd))
			}
			if form != oci.FormatOCI && form != oci.FormatDocker {
				return fmt.Errorf("%s: --format %q: want %s or %s", called(cmd), form, oci.FormatOCI, oci.FormatDocker)
			}
			o := oci.SaveOptions{Format: form, Progress: g.progress()}
			var err error
			if o.Platform, err = parsePlatform(called(cmd), platform); err != nil {
				return err
			}
			return g.do(func(rt *runtime.Runtime) error {
				store, err := rt.Images()
				if err != nil {
					return err
				}
				// An interrupt must not leave half an archive.
				ctx, cancel := untilOneSignal(cmd.Context())
				defer cancel()
				err = writeOutput(called(cmd), output, func(w io.Writer) error { return plain(called(cmd), store.Save(ctx, w, args, o)) })
				return orInterrupted(ctx, err)
			})
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "file to write (default: standard output)")
	c.Flags().StringVar(&form, "format", oci.FormatOCI, oci.FormatOCI+" or "+oci.FormatDocker)
	_ = c.RegisterFlagCompletionFunc("format", fixed(oci.FormatOCI, oci.FormatDocker))
	c.Flags().StringVar(&platform, "platform", "", "platform of the image, as linux/arm64 (default: this host's of an image that was pulled for several, else the only one)")
	return c
}

// writeOutput writes a file that is there whole or not at all, or standard output.
func writeOutput(what, name string, write func(io.Writer) error) (err error) {
	if name == "" || name == "-" {
		return write(&stdout)
	}
	fi, err := os.Stat(name)
	if err == nil && fi.IsDir() {
		return fmt.Errorf("%s: %s is a folder: name a file in it", what, name)
	}
	if err == nil && !fi.Mode().IsRegular() { // a pipe or a device
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".boxlite-save-*")
	if e := (*os.PathError)(nil); errors.As(err, &e) {
		return fmt.Errorf("%s: cannot make a file in %s: %w", what, filepath.Dir(name), e.Err)
	} else if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	if err := errors.Join(write(tmp), tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

func loadCommand(g *globalOptions) *cobra.Command {
	var input, platform string
	var quiet bool
	c := &cobra.Command{
		Use:   "load [flags]",
		Short: "Bring the images of an archive into the store",
		Long: `Reads an archive as boxlite image save, docker save and others write it, plain
or compressed with gzip or zstd. Prints what each image is called: its reference,
or its digest where the archive gives it no name.`,
		Example: `  boxlite image load -i alpine.tar
  docker save alpine | boxlite image load`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g.quiet = quiet
			in := os.Stdin
			if input != "" && input != "-" {
				var err error
				if in, err = os.Open(input); err != nil {
					if e := (*os.PathError)(nil); errors.As(err, &e) {
						err = e.Err // its name is ours
					}
					return &exitError{exitSome, fmt.Errorf("%s: %s: %w", called(cmd), input, err)}
				}
				defer in.Close()
				if fi, err := in.Stat(); err == nil && fi.IsDir() {
					return fmt.Errorf("%s: %s is a folder: give an archive; boxlite pull takes an OCI layout", called(cmd), input)
				}
			} else if isTerminal(in) {
				return fmt.Errorf("%s: no archive: give a file with -i, or one as standard input", called(cmd))
			}
			o := oci.LoadOptions{Progress: g.progress()}
			var err error
			if o.Platform, err = parsePlatform(called(cmd), platform); err != nil {
				return err
			}
			return g.do(func(rt *runtime.Runtime) error {
				store, err := rt.Images()
				if err != nil {
					return err
				}
				images, err := store.Load(cmd.Context(), in, o)
				if g.display != nil {
					g.display.Close()
				}
				for _, img := range images {
					say(img.Reference)
				}
				if err != nil {
					from := "standard input"
					if in != os.Stdin {
						from = input
					}
					return plain(called(cmd)+": "+from, err)
				}
				return nil
			})
		},
	}
	c.Flags().StringVarP(&input, "input", "i", "", "file to read (default: standard input)")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress display")
	c.Flags().StringVar(&platform, "platform", "", "platform of multi-platform images (default: this host's)")
	return c
}
