package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker; builds without it take the module's.
var version string

// versionInfo is what `boxlite version` shows.
type versionInfo struct{ Version, OS, Arch, GoVersion string }

func versionCommand() *cobra.Command {
	var f format
	c := &cobra.Command{
		Use:   "version [flags]",
		Short: "Print the version",
		Long:  "Prints the version of boxlite, what it was built for, and the Go version that built it.",
		Example: `  boxlite version
  boxlite version --format '{{.Version}}'`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versionInfo{versionString(), runtime.GOOS, runtime.GOARCH, runtime.Version()}
			if f == "" || f == "table" {
				fmt.Fprintf(&stdout, "boxlite %s %s/%s %s\n", v.Version, v.OS, v.Arch, v.GoVersion)
				return nil
			}
			return list(&stdout, f, []versionInfo{v}, nil, nil)
		},
	}
	addFormat[versionInfo](c, &f, "f", "{{.Version}}")
	return c
}

func versionString() string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}
