// Command pin makes the artifact with kernel and initramfs of a release as an
// OCI layout, and writes its digest into pin.go, by which programs that have no
// kernel inside will know it. `make pin` calls it.
//
//	go run ./pkg/runtime/internal/assets/pin -o build/kernel-artifact \
//	    amd64=build/kernel/vmlinux-x86_64.zst,build/initramfs-x86_64.cpio.zst,kernel/config/x86_64.config
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/anthropics/boxlite/pkg/runtime/internal/assets"
	"github.com/anthropics/boxlite/pkg/runtime/internal/assets/artifact"
)

func main() {
	out := flag.String("o", "", "folder of the layout to write (required)")
	version := flag.String("version", assets.PinVersion, "version to be known by")
	repository := flag.String("repository", assets.PinRepository, "where the release will be pushed to")
	pin := flag.String("pin", "", "Go file to write the pin to; none if empty")
	flag.Parse()
	if *out == "" || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*out, *version, *repository, *pin, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "pin:", err)
		os.Exit(1)
	}
}

func run(out, version, repository, pin string, args []string) error {
	var builds []artifact.Build
	for _, a := range args {
		b, err := readBuild(a)
		if err != nil {
			return err
		}
		builds = append(builds, b)
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	digest, err := artifact.WriteLayout(out, version, builds)
	if err != nil {
		return err
	}
	fmt.Println(digest)
	if pin == "" {
		if assets.PinDigest != "" && digest != assets.PinDigest {
			return fmt.Errorf("this tree is pinned to %s: version, sources or tools differ from the release's", assets.PinDigest)
		}
		return nil
	}
	if repository == "" {
		return errors.New("-pin without -repository: nobody could find the artifact")
	}
	return os.WriteFile(pin, fmt.Appendf(nil, source, version, repository, digest), 0o644)
}

const source = `package assets

// What this version was released with: the artifact that holds its kernels and
// initramfs, one manifest per architecture. Written by ` + "`make pin`" + `; a tree
// between releases has no digest here, and a program built from it without
// kernel inside pulls nothing by itself.
const (
	PinVersion    = %q
	PinRepository = %q
	PinDigest     = %q
)
`

// readBuild reads ARCH=KERNEL.zst,INITRAMFS.zst[,CONFIG].
func readBuild(arg string) (artifact.Build, error) {
	arch, list, ok := strings.Cut(arg, "=")
	files := strings.Split(list, ",")
	if !ok || len(files) < 2 || len(files) > 3 {
		return artifact.Build{}, fmt.Errorf("%q is not ARCH=KERNEL.zst,INITRAMFS.zst[,CONFIG]", arg)
	}
	b := artifact.Build{Arch: arch}
	var err error
	if b.Kernel, err = readFile(files[0]); err != nil {
		return b, err
	}
	if b.Initramfs, err = readFile(files[1]); err != nil {
		return b, err
	}
	if len(files) == 3 {
		config, err := os.ReadFile(files[2])
		if err != nil {
			return b, err
		}
		sum := sha256.Sum256(config)
		b.Source = hex.EncodeToString(sum[:])
	}
	return b, nil
}

func readFile(name string) (artifact.File, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return artifact.File{}, err
	}
	h := sha256.New()
	if err := assets.Decompress(h, bytes.NewReader(b)); err != nil {
		return artifact.File{}, fmt.Errorf("%s: %w", name, err)
	}
	return artifact.File{Zstd: b, Sum: hex.EncodeToString(h.Sum(nil))}, nil
}
