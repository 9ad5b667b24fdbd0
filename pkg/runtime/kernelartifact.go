package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/anthropics/boxlite/pkg/runtime/internal/assets"
	"github.com/anthropics/boxlite/pkg/runtime/internal/assets/artifact"
)

const kernelImageEnv = "BOXLITE_KERNEL_IMAGE"

// kernelPin is the artifact that a version was released with. Both are empty
// between releases.
type kernelPin struct{ repository, digest string }

var releasePin = kernelPin{assets.PinRepository, assets.PinDigest}

// guestFiles finds the files that guests boot from. Only a program that has
// none inside, in a home without any, looks for the artifact and may pull it.
func (r *Runtime) guestFiles(ctx context.Context) (kernel, initrd string, err error) {
	kernel, kerr := assets.Kernel.Find(r.opts.Kernel, r.opts.HomeDir)
	initrd, ierr := assets.Initramfs.Find(r.opts.Initramfs, r.opts.HomeDir)
	for _, err := range []error{kerr, ierr} {
		if err != nil && !errors.Is(err, assets.ErrMissing) {
			return "", "", err
		}
	}
	if kerr == nil && ierr == nil {
		return kernel, initrd, nil
	}
	missing := errors.Join(kerr, ierr)
	if kerr != nil {
		missing = kerr // one of them is enough to say
	}
	i, err := r.kernelArtifact(ctx, missing)
	if err != nil {
		return "", "", err
	}
	for _, f := range []struct {
		asset assets.Asset
		path  *string
		err   error
	}{{assets.Kernel, &kernel, kerr}, {assets.Initramfs, &initrd, ierr}} {
		if f.err == nil {
			continue
		}
		path, ok := i.Find(f.asset)
		if !ok {
			return "", "", fail(ErrConfig, "the kernel artifact %s in %s lacks its %s: run `boxlite kernel install %s` again", i.Digest, i.Dir, f.asset.Name(), i.Reference)
		}
		*f.path = path
	}
	return kernel, initrd, nil
}

// helpMissing are the two ways out.
const helpMissing = "run `make` in the boxlite source tree, or `boxlite kernel install REF`"

// kernelArtifact returns the artifact to boot from, pulling it the first time.
// missing is why it is needed.
func (r *Runtime) kernelArtifact(ctx context.Context, missing error) (*assets.Installed, error) {
	ref, digest, err := r.kernelReference()
	if err != nil {
		return nil, err
	}
	home := r.opts.HomeDir
	var i *assets.Installed
	switch {
	case digest != "":
		i, err = assets.Lookup(home, digest)
	case ref != "":
		i, err = r.installedFrom(ref)
	default:
		if i, err = assets.Last(home); errors.Is(err, assets.ErrMissing) {
			return nil, fail(ErrConfig, "%w; this version names none to pull either: %s", missing, helpMissing)
		}
	}
	if err == nil || !errors.Is(err, assets.ErrMissing) {
		return i, err
	}
	if i, err = r.installKernel(ctx, ref, oci.Digest(digest)); err != nil {
		return nil, wrap(ErrConfig, err, "%s, and the release's artifact could not be pulled: %s", missing, helpMissing)
	}
	return i, nil
}

// kernelReference says where the artifact is to come from, and what its digest
// must be. Either may be empty.
func (r *Runtime) kernelReference() (ref, digest string, err error) {
	pin := releasePin
	ref = r.opts.KernelImage
	if ref == "" {
		ref = os.Getenv(kernelImageEnv)
	}
	if ref == "" {
		return pin.repository, pin.digest, nil
	}
	if own := digestIn(ref); own != "" {
		if pin.digest != "" && own != pin.digest {
			return "", "", fail(ErrConfig, "kernel artifact %s: this version of boxlite needs the one with the digest %s; a mirror may have another name, not other contents", ref, pin.digest)
		}
		return ref, own, nil
	}
	return ref, pin.digest, nil
}

// digestIn is the digest that a registry's reference ends in, if it does.
func digestIn(ref string) string {
	if i := strings.LastIndex(ref, "@sha256:"); i >= 0 {
		return ref[i+1:]
	}
	return ""
}

// installedFrom finds what was installed from a reference without digest.
func (r *Runtime) installedFrom(ref string) (*assets.Installed, error) {
	all, err := assets.List(r.opts.HomeDir)
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if i.Reference == ref {
			return assets.Lookup(r.opts.HomeDir, i.Digest)
		}
	}
	return nil, assets.ErrMissing
}

// installKernel brings an artifact into the home: once, however many processes
// want it at the same time. digest may be empty.
func (r *Runtime) installKernel(ctx context.Context, ref string, digest oci.Digest) (*assets.Installed, error) {
	store, err := r.Images()
	if err != nil {
		return nil, err
	}
	home := r.opts.HomeDir
	if err := os.MkdirAll(assets.Dir(home), 0o700); err != nil {
		return nil, wrap(ErrStorage, err, "kernels")
	}
	lock, err := lockDir(ctx, assets.InstallDir(home))
	if err != nil {
		return nil, wrap(ErrStorage, err, "install a kernel")
	}
	defer lock.Close()
	// What is in there was left by somebody who was killed.
	if err := emptyDir(assets.InstallDir(home)); err != nil {
		return nil, wrap(ErrStorage, err, "install a kernel")
	}
	dir := filepath.Join(assets.InstallDir(home), "new")
	var have *assets.Installed
	o := oci.ArtifactOptions{Type: artifact.Type, Digest: digest, Progress: r.opts.Progress}
	if digest != "" { // another process may have been first
		if have, err = assets.Lookup(home, string(digest)); err == nil {
			return have, nil
		}
	}
	o.Want = func(a oci.Artifact) (bool, error) {
		if have, err = assets.Lookup(home, string(a.Digest)); err == nil {
			return false, nil
		}
		have = nil
		return true, os.Mkdir(dir, 0o700)
	}
	a, err := store.ReadArtifact(ctx, ref, o, func(f oci.ArtifactFile, in io.Reader) error { return unpackKernel(dir, f, in) })
	if err != nil || have != nil {
		return have, err
	}
	for _, want := range []assets.Asset{assets.Kernel, assets.Initramfs} {
		if _, err := os.Stat(filepath.Join(dir, want.Name())); err != nil {
			return nil, fail(ErrConfig, "the kernel artifact %s has no %s", a.Reference, want.Name())
		}
	}
	i, err := assets.Publish(home, dir, assets.Installed{Digest: string(a.Digest), Reference: ref, Version: a.Annotations[artifact.VersionKey]})
	return i, wrap(ErrStorage, err, "install kernel artifact %s", a.Reference)
}

func unpackKernel(dir string, f oci.ArtifactFile, in io.Reader) error {
	var asset assets.Asset
	switch f.MediaType {
	case artifact.KernelType:
		asset = assets.Kernel
	case artifact.InitramfsType:
		asset = assets.Initramfs
	default:
		return nil // of a later version
	}
	out, err := os.OpenFile(filepath.Join(dir, asset.Name()), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(assets.Decompress(out, in), out.Sync(), out.Close())
	if err != nil {
		return fmt.Errorf("unpack %s: %w", asset.Name(), err)
	}
	return nil
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// KernelInfo is a guest kernel, with its initramfs, that this home or program has.
type KernelInfo struct {
	Digest    string // of the artifact; empty of one that did not come as one
	Reference string // where the artifact came from, or "built in", or a path
	Version   string
	Size      int64 // bytes on disk; 0 of a built-in one
	InUse     bool  // what boxes of this runtime boot from
}

// Kernels lists the guest kernels at hand. Nothing is pulled.
func (r *Runtime) Kernels(ctx context.Context) ([]KernelInfo, error) {
	var out []KernelInfo
	found := false
	for _, given := range []string{r.opts.Kernel, os.Getenv("BOXLITE_KERNEL")} {
		if given != "" && !found {
			out, found = append(out, KernelInfo{Reference: given, InUse: true}), true
		}
	}
	if sum, ok := assets.Kernel.Sum(); ok {
		out = append(out, KernelInfo{Reference: "built in", Version: sum[:16], InUse: !found})
		found = true
	}
	byHand := filepath.Join(assets.Dir(r.opts.HomeDir), assets.Kernel.Name())
	if fi, err := os.Stat(byHand); err == nil {
		out = append(out, KernelInfo{Reference: byHand, Size: onDisk(fi), InUse: !found})
		found = true
	}
	ref, digest, err := r.kernelReference()
	if err != nil {
		return nil, err
	}
	all, err := assets.List(r.opts.HomeDir)
	if err != nil {
		return nil, wrap(ErrStorage, err, "list kernels")
	}
	for _, i := range all {
		use := digest != "" && i.Digest == digest || digest == "" && ref != "" && i.Reference == ref || digest == "" && ref == "" && i.Last
		out = append(out, KernelInfo{Digest: i.Digest, Reference: i.Reference, Version: i.Version, Size: i.Size, InUse: use && !found})
		found = found || use
	}
	return out, ctx.Err()
}

// InstallKernel pulls a kernel artifact into the home: from a registry, or
// "oci:DIR", an OCI layout. An empty reference means the release's own. It is
// what boots where none is built in, except that a release takes the one whose
// digest it was made with and no other.
func (r *Runtime) InstallKernel(ctx context.Context, ref string) (KernelInfo, error) {
	var digest string
	if ref == "" {
		var err error
		if ref, digest, err = r.kernelReference(); err != nil {
			return KernelInfo{}, err
		} else if ref == "" {
			return KernelInfo{}, fail(ErrInvalidArgument, "this version names no kernel artifact of its own: give a reference, or an OCI layout as oci:DIR")
		}
	} else {
		digest = digestIn(ref)
	}
	i, err := r.installKernel(ctx, ref, oci.Digest(digest))
	if err != nil {
		return KernelInfo{}, imageError(err)
	}
	lock, err := lockDir(ctx, assets.InstallDir(r.opts.HomeDir))
	if err == nil {
		err = assets.SetLast(r.opts.HomeDir, i)
		lock.Close()
	}
	if err != nil {
		return KernelInfo{}, wrap(ErrStorage, err, "install kernel artifact %s", ref)
	}
	info := KernelInfo{Digest: i.Digest, Reference: i.Reference, Version: i.Version}
	kernels, err := r.Kernels(ctx)
	for _, k := range kernels {
		if k.Digest == i.Digest {
			info = k
		}
	}
	return info, err
}

// PushKernel pushes a kernel artifact to a registry and returns its digest. from
// is an OCI layout, as `make pin` leaves one; empty means what is built into this
// program, for its own architecture alone.
func (r *Runtime) PushKernel(ctx context.Context, from, ref string) (string, error) {
	store, err := r.Images()
	if err != nil {
		return "", err
	}
	if from == "" {
		dir, err := os.MkdirTemp("", "boxlite-kernel-")
		if err != nil {
			return "", wrap(ErrStorage, err, "kernel artifact")
		}
		defer os.RemoveAll(dir)
		if err := builtinArtifact(dir); err != nil {
			return "", wrap(ErrConfig, err, "kernel artifact")
		}
		from = "oci:" + dir
	}
	d, err := store.Push(ctx, from, ref, r.opts.Progress)
	return string(d), imageError(err)
}

// builtinArtifact writes what is built in as an OCI layout.
func builtinArtifact(dir string) error {
	b := artifact.Build{Arch: oci.DefaultPlatform().Architecture}
	for _, f := range []struct {
		asset assets.Asset
		file  *artifact.File
	}{{assets.Kernel, &b.Kernel}, {assets.Initramfs, &b.Initramfs}} {
		var err error
		if f.file.Zstd, err = f.asset.Compressed(); err != nil {
			return err
		}
		f.file.Sum, _ = f.asset.Sum()
	}
	_, err := artifact.WriteLayout(dir, assets.PinVersion, []artifact.Build{b})
	return err
}
