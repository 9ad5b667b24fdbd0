package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// hostCanBoot asks the doctor whether this host's /dev/kvm runs guest kernels.
// BOXLITE_DOCTOR is a shell command that exits with 0 if it does; without it,
// build/boxlite of this source tree or of the current folder is asked.
func hostCanBoot() bool {
	doctor := os.Getenv("BOXLITE_DOCTOR")
	if doctor == "" {
		doctor = "build/boxlite doctor --probe"
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return exec.CommandContext(ctx, "/bin/sh", "-c", doctor).Run() == nil
}

// runDirect runs the command on this host. A temporary folder of links stands
// in for /rig: it is the working folder and $RIG, and takes the place of /rig
// where that starts a word of the command or of a variable's value.
func runDirect(o *options, things []thing) (int, error) {
	dir, err := os.MkdirTemp("", "rig")
	if err != nil {
		return exitRig, err
	}
	defer os.RemoveAll(dir)
	for _, t := range things {
		rel, err := filepath.Rel(rigDir, t.dest)
		if err != nil || strings.HasPrefix(rel, "..") {
			return exitUsage, fmt.Errorf("%s: outside %s works only in the emulated machine (RIG_FORCE=1)", t.dest, rigDir)
		}
		link := filepath.Join(dir, rel)
		if err := os.MkdirAll(filepath.Dir(link), 0o777); err != nil {
			return exitRig, err
		}
		if err := os.Symlink(t.src, link); err != nil {
			return exitRig, err
		}
	}
	argv := make([]string, len(o.argv))
	for i, a := range o.argv {
		argv[i] = relocate(a, dir)
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.limit)
	defer cancel()
	env := append(os.Environ(), "RIG="+dir, "PATH="+dir+":"+os.Getenv("PATH"))
	for _, e := range o.env {
		env = append(env, relocate(e, dir))
	}
	if strings.ContainsRune(argv[0], '/') && !filepath.IsAbs(argv[0]) {
		argv[0] = filepath.Join(dir, argv[0])
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	var failed *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return exitTimeout, fmt.Errorf("%s: no end within %v", o.argv[0], o.limit)
	case errors.As(err, &failed):
		if ws := failed.Sys().(syscall.WaitStatus); ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return failed.ExitCode(), nil
	case err != nil:
		return exitRig, err
	}
	return 0, nil
}

// relocate puts dir in the place of /rig wherever /rig starts a path in s.
func relocate(s, dir string) string {
	var out strings.Builder
	for {
		i := strings.Index(s, rigDir)
		if i < 0 {
			return out.String() + s
		}
		before, after := s[:i], s[i+len(rigDir):]
		starts := before == "" || strings.ContainsAny(before[len(before)-1:], " \t\n=:;'\"(|&<>")
		ends := after == "" || strings.ContainsAny(after[:1], "/ \t\n:;'\")|&<>")
		out.WriteString(before)
		if starts && ends {
			out.WriteString(dir)
		} else {
			out.WriteString(rigDir)
		}
		s = after
	}
}
