// Command pack builds the guest's init and packs it into an initramfs: an
// uncompressed cpio in newc format (Documentation/driver-api/early-userspace/
// buffer-format.rst), the same bytes for the same sources. It runs on any
// system; the guest is always Linux.
//
//	go run ./initramfs/pack -o build/initramfs-x86_64.cpio
//	go run ./initramfs/pack -arch arm64 -o build/initramfs-aarch64.cpio
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/u-root/u-root/pkg/cpio"
)

// initPackage is the program that becomes /init.
const initPackage = "github.com/anthropics/boxlite/initramfs/init"

func main() {
	out := flag.String("o", "", "file to write (required)")
	arch := flag.String("arch", defaultArch(), "GOARCH of the guest")
	version := flag.String("version", "", "build to report as; default is that of the protocol alone")
	initFile := flag.String("init", "", "executable to pack in place of building one")
	flag.Parse()
	if *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*out, *arch, *version, *initFile); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func defaultArch() string {
	if a := os.Getenv("GOARCH"); a != "" {
		return a
	}
	return runtime.GOARCH
}

func run(out, arch, version, initFile string) error {
	dir, err := os.MkdirTemp("", "boxlite-pack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if initFile == "" {
		initFile = filepath.Join(dir, "init")
		if err := build(initFile, arch, version); err != nil {
			return err
		}
	}
	program, err := os.ReadFile(initFile)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := Pack(&archive, program); err != nil {
		return err
	}
	return replace(out, archive.Bytes())
}

// build compiles the guest's init, without anything that differs between two
// machines: paths, build ids, version control.
func build(to, arch, version string) error {
	ldflags := "-s -w -buildid="
	if version != "" {
		ldflags += " -X main.build=" + version
	}
	c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", ldflags, "-o", to, initPackage)
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=", "GOAMD64=v1")
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("building init for %s: %w", arch, err)
	}
	return nil
}

// entries is everything in the initramfs, in order. The kernel opens
// /dev/console for PID 1 before anything is mounted, and Go's runtime wants
// /dev/null if that did not work; the directories are where init assembles the
// root.
func entries(program []byte) []cpio.Record {
	dir := func(name string, mode uint64) cpio.Record { return cpio.Directory(name, mode) }
	return []cpio.Record{
		dir("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.CharDev("dev/kmsg", 0o600, 1, 11),
		cpio.CharDev("dev/null", 0o666, 1, 3),
		dir("lower", 0o755),
		dir("newroot", 0o755),
		dir("upper", 0o755),
		cpio.StaticFile("init", string(program), 0o755),
	}
}

// Pack writes the archive. Times and inode numbers are fixed.
func Pack(w io.Writer, program []byte) error {
	if len(program) == 0 {
		return errors.New("init is empty")
	}
	rw := cpio.Newc.Writer(w)
	for i, r := range entries(program) {
		r.Ino = uint64(i + 1)
		r.NLink = 1
		r.MTime = 0
		if err := rw.WriteRecord(r); err != nil {
			return fmt.Errorf("writing %s: %w", r.Name, err)
		}
	}
	return cpio.WriteTrailer(rw)
}

// replace writes a file so that others see the old content or the new one.
func replace(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".pack-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}
