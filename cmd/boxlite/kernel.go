package main

import (
	"fmt"
	"os"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func kernelCommand(g *globalOptions) *cobra.Command {
	c := &cobra.Command{
		Use:   "kernel COMMAND",
		Short: "List, install and publish guest kernels",
		Long: `A guest kernel with its initramfs is built into this program, or else an OCI
artifact in a registry: a release is pinned to one by digest and pulls it when a
box is first started. BOXLITE_KERNEL_IMAGE names a mirror of it.`,
		Example: `  boxlite kernel ls
  boxlite kernel install`,
		RunE: showHelp,
	}
	c.AddCommand(listKernelsCommand(g), installKernelCommand(g), pushKernelCommand(g))
	return c
}

func listKernelsCommand(g *globalOptions) *cobra.Command {
	var f format
	c := &cobra.Command{
		Use:   "ls [flags]",
		Short: "List the guest kernels at hand",
		Long: `Lists the kernel that is built into this program and those that are installed in
the home directory, and tells which of them boxes boot.`,
		Example: `  boxlite kernel ls
  boxlite kernel ls --format '{{.Reference}} {{.Digest}}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.do(func(rt *runtime.Runtime) error {
				kernels, err := rt.Kernels(cmd.Context())
				if err != nil {
					return err
				}
				return list(&stdout, f, kernels, []string{"SOURCE", "DIGEST", "VERSION", "SIZE", "IN USE"}, func(k runtime.KernelInfo) []string {
					use, bytes := "", ""
					if k.InUse {
						use = "yes"
					}
					if k.Size > 0 {
						bytes = size(k.Size)
					}
					return []string{k.Reference, k.Digest, k.Version, bytes, use}
				})
			})
		},
	}
	addFormat[runtime.KernelInfo](c, &f, "", "{{.Reference}} {{.Digest}}")
	return c
}

func installKernelCommand(g *globalOptions) *cobra.Command {
	var quiet bool
	c := &cobra.Command{
		Use:   "install [flags] [REF]",
		Short: "Bring a guest kernel into the home directory",
		Long: `Pulls the kernel artifact REF from a registry, or takes it from an OCI layout,
oci:DIR; without REF it is the one this release is pinned to. It boots boxes
where no kernel is built in; a release takes none but the one it is pinned to.
Prints the artifact's digest.`,
		Example: `  boxlite kernel install
  boxlite kernel install registry.example.com/boxlite/kernel:v1.0.0
  boxlite kernel install oci:build/kernel-artifact`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			g.quiet = quiet
			return g.do(func(rt *runtime.Runtime) error {
				var ref string
				if len(args) > 0 {
					ref = args[0]
				}
				k, err := rt.InstallKernel(cmd.Context(), ref)
				if g.display != nil {
					g.display.Close()
				}
				if err != nil {
					return err
				}
				if !k.InUse {
					fmt.Fprintln(os.Stderr, "boxlite: installed, but boxes boot from another; see boxlite kernel ls")
				}
				say(k.Digest)
				return nil
			})
		},
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress display")
	return c
}

func pushKernelCommand(g *globalOptions) *cobra.Command {
	var layout string
	var quiet bool
	c := &cobra.Command{
		Use:   "push [flags] REF",
		Short: "Publish a guest kernel in a registry",
		Long: `Pushes a kernel artifact to REF: the OCI layout of --layout, as make pin leaves
one for a release, byte for byte; or, without it, the kernel that is built into
this program, for its architecture alone. Prints the artifact's digest.`,
		Example: `  boxlite kernel push --layout build/kernel-artifact registry.example.com/boxlite/kernel:v1.0.0`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			g.quiet = quiet
			from := ""
			if layout != "" {
				from = "oci:" + layout
			}
			return g.do(func(rt *runtime.Runtime) error {
				digest, err := rt.PushKernel(cmd.Context(), from, args[0])
				if g.display != nil {
					g.display.Close()
				}
				if err != nil {
					return err
				}
				say(digest)
				return nil
			})
		},
	}
	c.Flags().StringVar(&layout, "layout", "", "OCI layout to push (default: the kernel built in)")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress display")
	return c
}
