package runtime

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/machine"
	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/anthropics/boxlite/pkg/runtime/internal/disk"
)

// Options configure a [Runtime]. The zero value is the default.
type Options struct {
	// HomeDir holds boxes, images and state. Default: $BOXLITE_HOME, else ~/.boxlite.
	HomeDir string
	// ImageRegistries are tried in this order for image references that name
	// no registry. Default: docker.io.
	ImageRegistries []string
	// Kernel is the guest kernel's file name. Default: $BOXLITE_KERNEL, else
	// the one built into the program, else HomeDir/kernel/vmlinux, else that
	// of KernelImage.
	Kernel string
	// Initramfs is the file name of the guest's init. Default:
	// $BOXLITE_INITRAMFS, else the one built into the program, else
	// HomeDir/kernel/initramfs.cpio, else that of KernelImage.
	Initramfs string
	// KernelImage is the reference of the OCI artifact with kernel and
	// initramfs that is pulled once, into the home directory, when they are
	// found in none of these places: a registry's, or "oci:DIR". Default:
	// $BOXLITE_KERNEL_IMAGE, else the one that this version was released with.
	// Where the release names a digest the artifact must have it, wherever it
	// comes from.
	KernelImage string
	// VMMPath is the program to run as VM process. Default: the running
	// program itself. It must import this package at the same version.
	VMMPath string
	// BootStall ends a boot that shows no sign of life for so long. There is
	// no limit on a boot that makes progress. Default: $BOXLITE_BOOT_STALL,
	// else one minute; negative means never.
	BootStall time.Duration
	// StopGrace is how long the processes of a box may take to end after
	// SIGTERM when it stops. Default: 10 seconds.
	StopGrace time.Duration
	// Log receives diagnostics. Default: none.
	Log *slog.Logger
	// Progress, when set, receives what happens to an image, or to the kernel
	// artifact, that is pulled.
	Progress func(oci.Event)
}

const (
	defaultStall = time.Minute
	defaultGrace = 10 * time.Second
)

func (o *Options) fill() error {
	if o.HomeDir == "" {
		o.HomeDir = os.Getenv("BOXLITE_HOME")
	}
	if o.HomeDir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return fail(ErrConfig, "no home directory: set HomeDir or BOXLITE_HOME")
		}
		o.HomeDir = filepath.Join(home, ".boxlite")
	}
	abs, err := filepath.Abs(o.HomeDir)
	if err != nil {
		return wrap(ErrConfig, err, "home directory %s", o.HomeDir)
	}
	o.HomeDir = abs
	if o.VMMPath != "" { // the VM process does not start where the caller is
		if o.VMMPath, err = filepath.Abs(o.VMMPath); err != nil {
			return wrap(ErrConfig, err, "VMM path")
		}
	}
	if o.BootStall == 0 {
		if o.BootStall, err = stallFromEnv(os.Getenv("BOXLITE_BOOT_STALL")); err != nil {
			return err
		}
	}
	if o.StopGrace <= 0 {
		o.StopGrace = defaultGrace
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

func stallFromEnv(s string) (time.Duration, error) {
	switch s {
	case "":
		return defaultStall, nil
	case "0":
		return -1, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fail(ErrConfig, "BOXLITE_BOOT_STALL is %q: want a duration such as 90s, or 0 for no limit", s)
	}
	return d, nil
}

// Limits of a box.
const (
	MaxCPUs       = machine.MaxCPUs
	MinMemoryMiB  = 64 // what our kernel and agent need to get up, with room for a small command
	MaxMemoryMiB  = machine.MaxMemoryMiB
	MaxDiskSizeGB = disk.MaxGB
)

// Defaults of a box.
const (
	DefaultCPUs      = 2
	DefaultMemoryMiB = 512
	DefaultImage     = "alpine:latest"
)

// BoxOptions describe a box. The zero value is a box of [DefaultImage].
type BoxOptions struct {
	CPUs       int        // virtual CPUs; default [DefaultCPUs]
	MemoryMiB  int        // RAM in MiB; default [DefaultMemoryMiB]
	DiskSizeGB int        // writable disk in GiB; sparse; default 10
	WorkingDir string     // of commands that do not say; default the image's
	Env        []EnvVar   // added to the image's, for every command
	User       string     // "name|uid[:group|gid]" of commands that do not say; default the image's
	Rootfs     RootfsSpec // default [DefaultImage]
	Labels     map[string]string
	Network    NetworkSpec  // default an isolated network
	Ports      []PortSpec   // of the host that lead to the box
	Volumes    []VolumeSpec // folders and files of the host, and volumes of the home
	Tmpfs      []TmpfsSpec  // empty file systems in the box's memory

	// Main is the box's own command, which runs whenever the box does. Default:
	// none; the box does what Run asks for, until Stop.
	Main *MainCommand

	// KeepOnStop keeps the box when it stops. Boxes are removed when they stop
	// unless it is set.
	KeepOnStop bool
	// Detach lets the box outlive the calling process. Without it the box
	// stops when that process ends, however it does.
	Detach bool
}

// EnvVar is one environment variable.
type EnvVar struct{ Name, Value string }

// RootfsSpec says where a box's root filesystem comes from: exactly one of the
// fields, or none for [DefaultImage].
type RootfsSpec struct {
	// Image is an image reference: a name in a registry ("alpine",
	// "ghcr.io/owner/name:tag", with a digest), an OCI layout folder or image
	// archive ("oci:DIR[:TAG]", "oci-archive:FILE", "docker-archive:FILE", or
	// just the path).
	Image string
	// Path is a prepared root filesystem on this host: an OCI layout folder, or
	// a directory that holds the files themselves. It is copied once and never
	// written.
	Path string
}

// Image is the RootfsSpec of an image reference.
func Image(ref string) RootfsSpec { return RootfsSpec{Image: ref} }

// RootfsPath is the RootfsSpec of a prepared root filesystem.
func RootfsPath(path string) RootfsSpec { return RootfsSpec{Path: path} }

func (s RootfsSpec) String() string {
	if s.Path != "" {
		return s.Path
	}
	return s.Image
}

// fill sets the defaults and checks the rest.
func (o *BoxOptions) fill() error {
	if o.CPUs == 0 {
		o.CPUs = DefaultCPUs
	}
	if o.MemoryMiB == 0 {
		o.MemoryMiB = DefaultMemoryMiB
	}
	if o.DiskSizeGB == 0 {
		o.DiskSizeGB = disk.DefaultGB
	}
	if o.Rootfs == (RootfsSpec{}) {
		o.Rootfs.Image = DefaultImage
	}
	switch {
	case o.CPUs < 1 || o.CPUs > MaxCPUs:
		return fail(ErrInvalidArgument, "%d CPUs: choose 1 to %d", o.CPUs, MaxCPUs)
	case o.MemoryMiB < MinMemoryMiB || o.MemoryMiB > MaxMemoryMiB:
		return fail(ErrInvalidArgument, "%d MiB of memory: choose %d to %d", o.MemoryMiB, MinMemoryMiB, MaxMemoryMiB)
	case o.DiskSizeGB < 1 || o.DiskSizeGB > MaxDiskSizeGB:
		return fail(ErrInvalidArgument, "disk of %d GB: choose 1 to %d", o.DiskSizeGB, MaxDiskSizeGB)
	case o.Rootfs.Image != "" && o.Rootfs.Path != "":
		return fail(ErrInvalidArgument, "both an image (%s) and a root filesystem (%s): choose one", o.Rootfs.Image, o.Rootfs.Path)
	case o.WorkingDir != "" && !strings.HasPrefix(o.WorkingDir, "/"):
		return fail(ErrInvalidArgument, "working directory %q is not absolute", o.WorkingDir)
	}
	if o.Rootfs.Path != "" {
		abs, err := filepath.Abs(o.Rootfs.Path)
		if err != nil {
			return wrap(ErrInvalidArgument, err, "root filesystem %s", o.Rootfs.Path)
		}
		o.Rootfs.Path = abs
	}
	if strings.HasPrefix(o.Rootfs.Image, "./") || strings.HasPrefix(o.Rootfs.Image, "../") {
		abs, err := filepath.Abs(o.Rootfs.Image)
		if err != nil {
			return wrap(ErrInvalidArgument, err, "image %s", o.Rootfs.Image)
		}
		o.Rootfs.Image = abs // later starts may be elsewhere
	}
	for _, e := range o.Env {
		if err := e.check(); err != nil {
			return err
		}
	}
	if err := o.fillNetwork(); err != nil {
		return err
	}
	if err := o.fillVolumes(); err != nil {
		return err
	}
	if o.Main != nil {
		main := *o.Main // the caller's is the caller's
		if err := main.check(); err != nil {
			return err
		}
		o.Main = &main
	}
	if err := checkUser(o.User); err != nil {
		return err
	}
	return checkText("working directory", o.WorkingDir)
}

// checkUser refuses what no image can have a user for. Whether this one has is
// known when a command starts.
func checkUser(user string) error {
	if strings.Count(user, ":") > 1 || strings.ContainsAny(user, "\x00\n") {
		return fail(ErrInvalidArgument, "user %q: want NAME or UID, or with a group NAME:GROUP or UID:GID", user)
	}
	return nil
}

func (e EnvVar) check() error {
	if e.Name == "" || strings.ContainsAny(e.Name, "=\x00") || strings.ContainsRune(e.Value, 0) {
		return fail(ErrInvalidArgument, "environment variable %q: a name must not be empty or hold = or NUL, nor a value NUL", e.Name)
	}
	return nil
}

func checkText(what, s string) error {
	if strings.ContainsRune(s, 0) {
		return fail(ErrInvalidArgument, "%s holds a NUL", what)
	}
	return nil
}

// CheckName says what is wrong with a name for a box; whether another box has it, Create
// and [Runtime.Rename] say.
func CheckName(name string) error {
	if !validName(name) {
		return &Error{Kind: ErrInvalidArgument, Err: fmt.Errorf("name %q: use letters, digits, _ . and -, starting with a letter or digit, at most 128", name)}
	}
	return nil
}
