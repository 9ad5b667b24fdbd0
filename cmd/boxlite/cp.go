package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/anthropics/boxlite/cmd/boxlite/internal/hostfiles"
	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

// copyFlags are the flags of `boxlite cp`.
type copyFlags struct {
	archive bool
	follow  bool
}

func copyCommand(g *globalOptions) *cobra.Command {
	var o copyFlags
	c := &cobra.Command{
		Use:   "cp [flags] BOX:SRC DEST|-\n  boxlite cp [flags] SRC|- BOX:DEST",
		Short: "Copy files between a box and this machine",
		Long: `Copies a file, or a directory with everything in it. Paths in a box begin at its
root; a path here that has a colon in it needs ./ or / before it.

A DEST that is a directory gets SRC in it, under its own name; SRC/. means the
content of the directory SRC. A DEST that does not exist becomes the copy, in a
directory that exists. What is made in a box belongs to root, and what is copied
out of it to you; --archive keeps the numbers of owners, set-id bits and, for
root, devices. Without it, directories that are there keep owner and mode. Holes
of sparse files are kept.

What is replaced stays until its successor is complete. Until then that has a
name that begins with .boxlite-, which only a kill leaves behind.

With - for SRC a tar archive is read from standard input and unpacked into the
directory DEST; with - for DEST one is written to standard output. Both keep
everything as it is. A box that does not run is started for the copy.`,
		Example: `  boxlite cp report.pdf web:/srv/
  boxlite cp -a web:/etc ./etc
  tar c src | boxlite cp - web:/work
  boxlite cp web:/var/log - | tar t`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return copyFiles(cmd.Context(), g, o, args[0], args[1]) },
	}
	c.Flags().BoolVarP(&o.archive, "archive", "a", false, "keep owners and special modes")
	c.Flags().BoolVarP(&o.follow, "follow-link", "L", false, "copy what SRC leads to if it is a symbolic link")
	return c
}

// splitBox takes BOX:PATH apart; box is empty for a path of this machine.
func splitBox(arg string) (box, path string) {
	name, rest, found := strings.Cut(arg, ":")
	if !found || filepath.IsAbs(arg) || strings.HasPrefix(arg, ".") || strings.Contains(name, "/") {
		return "", arg
	}
	return name, rest
}

func copyFiles(ctx context.Context, g *globalOptions, o copyFlags, from, to string) (err error) {
	fromBox, src := splitBox(from)
	toBox, dst := splitBox(to)
	switch {
	case fromBox == "" && toBox == "":
		return errors.New("cp: neither path is in a box: write one as BOX:PATH")
	case fromBox != "" && toBox != "":
		return errors.New("cp: both paths are in boxes: copy to this machine first, or connect two commands by -")
	case src == "" || dst == "":
		return errors.New("cp: a path is empty; the root of a box is BOX:/")
	}
	ctx, cancel := untilOneSignal(ctx)
	defer cancel()
	defer func() { err = orInterrupted(ctx, err) }()
	rt, done, err := g.open()
	if err != nil {
		return err
	}
	defer done()
	defer func() { err = errors.Join(err, rt.Close()) }()
	box, err := rt.Get(ctx, fromBox+toBox)
	if err != nil {
		return err
	}
	if err := checkHere(o, src, dst, toBox != ""); err != nil { // before a box is started for nothing
		return err
	}
	release, err := box.OpenForCopy(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	done()
	c := copier{box: box, copyFlags: o}
	defer c.summary()
	if toBox != "" {
		return c.in(ctx, src, dst)
	}
	return c.out(ctx, src, dst)
}

// copier is one copy.
type copier struct {
	copyFlags
	box      *runtime.LiteBox
	warnings int
}

// maxWarnings bounds what a hostile box can have us print.
const maxWarnings = 20

func (c *copier) warn(text string) {
	if c.warnings++; c.warnings <= maxWarnings {
		fmt.Fprintf(os.Stderr, "boxlite: cp: %s\n", message(text))
	}
}

func (c *copier) summary() {
	if more := c.warnings - maxWarnings; more > 0 {
		fmt.Fprintf(os.Stderr, "boxlite: cp: and %d more such messages\n", more)
	}
}

// isContent tells a path that means what is in a directory.
func isContent(p string) bool { return p == "." || strings.HasSuffix(p, "/.") }

// checkHere looks at what of a copy is on this machine.
func checkHere(o copyFlags, src, dst string, into bool) (err error) {
	switch {
	case into && src == "-":
		return nil
	case into:
		_, _, err = o.source(src)
		return err
	case dst == "-" && isTerminal(os.Stdout):
		return errors.New("cp: an archive is nothing for a terminal: redirect standard output")
	case dst == "-":
		return nil
	}
	if err := hostfiles.Reachable(dst); err != nil {
		return fmt.Errorf("cp: %w", err)
	}
	return nil
}

// source looks at a file to be copied into a box, at what it leads to if follow.
func (o copyFlags) source(src string) (info os.FileInfo, follow bool, err error) {
	follow = o.follow || strings.HasSuffix(src, "/") || isContent(src)
	stat := os.Lstat
	if follow {
		stat = os.Stat
	}
	if info, err = stat(src); err != nil {
		return nil, false, fmt.Errorf("cp: %w", err)
	}
	if strings.HasSuffix(src, "/") && !info.IsDir() {
		return nil, false, fmt.Errorf("cp: %s is no directory", src)
	}
	return info, follow, nil
}

// in copies into the box.
func (c *copier) in(ctx context.Context, src, dst string) error {
	if src == "-" {
		r, stop := standardInput(ctx)
		defer stop()
		return c.box.CopyTo(ctx, dst, r, runtime.CopyOptions{})
	}
	info, follow, err := c.source(src)
	if err != nil {
		return err
	}
	abs, err := filepath.Abs(src)
	if err != nil {
		return fmt.Errorf("cp: %w", err)
	}
	base := filepath.Base(abs)
	content := isContent(src) || base == string(filepath.Separator)

	dir, name, err := c.target(ctx, dst, info.IsDir(), content, base)
	if err != nil {
		return err
	}
	opts := runtime.CopyOptions{Owner: new(runtime.Owner)}
	if c.archive {
		opts.Owner = nil
	}
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := hostfiles.Pack(w, abs, name, follow, c.warn)
		w.CloseWithError(err)
		packed <- err
	}()
	err = c.box.CopyTo(ctx, dir, r, opts)
	r.CloseWithError(err)
	if perr := <-packed; perr != nil && (err == nil || !errors.Is(perr, err)) {
		return fmt.Errorf("cp: %w", perr) // what went wrong first
	}
	return err
}

// standardInput is standard input until ctx ends, which a Read of it that blocks does
// not hear of.
func standardInput(ctx context.Context) (r io.Reader, stop func() bool) {
	pr, pw := io.Pipe()
	go func() {
		_, err := io.Copy(pw, os.Stdin)
		pw.CloseWithError(err)
	}()
	return pr, context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
}

// target finds out where in the box a copy goes: the directory to unpack into,
// and the name of what is unpacked there. A link in the box chooses dst, so it is
// quoted where it is shown.
func (c *copier) target(ctx context.Context, dst string, isDir, content bool, base string) (dir, name string, err error) {
	slash := strings.HasSuffix(dst, "/") || isContent(dst)
	dst = path.Clean("/" + dst)
	var st runtime.PathStat
	for hops := 0; ; hops++ {
		if st, err = c.box.StatPath(ctx, dst); err != nil || st.LinkTarget == "" {
			break
		}
		if hops == 40 { // as the kernel has it
			return "", "", fmt.Errorf("cp: %q in the box is a symbolic link that leads nowhere", dst)
		}
		if path.IsAbs(st.LinkTarget) {
			dst = path.Clean(st.LinkTarget)
		} else {
			dst = path.Join(path.Dir(dst), st.LinkTarget)
		}
	}
	switch {
	case err == nil && st.IsDir() && content:
		return dst, ".", nil
	case err == nil && st.IsDir():
		return dst, base, nil
	case err == nil && slash:
		return "", "", fmt.Errorf("cp: %q in the box is no directory", dst)
	case err == nil && isDir:
		return "", "", fmt.Errorf("cp: a directory cannot be copied onto %q, which is a file in the box", dst)
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return "", "", err
	case err != nil && slash && !isDir:
		return "", "", fmt.Errorf("cp: the directory %q does not exist in the box: make it first", dst)
	}
	return path.Dir(dst), path.Base(dst), nil
}

// out copies out of the box.
func (c *copier) out(ctx context.Context, src, dst string) error {
	r, st, err := c.box.CopyFrom(ctx, src, runtime.CopyOptions{FollowLink: c.follow})
	if err != nil {
		return err
	}
	defer r.Close()
	if dst == "-" {
		_, err := io.Copy(&stdout, r)
		return err
	}
	u := hostfiles.Unpacking{Name: archiveName(src), Archive: c.archive, Warn: c.warn}
	if err := u.Aim(dst, st.IsDir()); err != nil {
		return fmt.Errorf("cp: %w", err)
	}
	defer u.Root.Close()
	return u.Unpack(r)
}

// archiveName is how the entries of a path's archive begin.
func archiveName(src string) string {
	if p := path.Clean("/" + src); p != "/" && !isContent(src) && !strings.HasSuffix(src, "/..") && src != ".." {
		return path.Base(p)
	}
	return "."
}
