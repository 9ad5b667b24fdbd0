// Command mklayout makes an OCI layout folder from layer tars. The bytes
// depend on its input alone.
//
//	mklayout -out DIR -ref NAME:TAG [-arch ARCH] [-created UNIX] [-env K=V]… [-cmd ARG]… LAYER.tar…
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

type options struct {
	out, ref, arch string
	created        int64
	env, cmd       list
	layers         []string
}

// list is a flag that may be given more than once.
type list []string

func (l *list) String() string     { return fmt.Sprint(*l) }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	var o options
	flag.StringVar(&o.out, "out", "", "layout folder to make; replaced if it exists")
	flag.StringVar(&o.ref, "ref", "", "reference, as NAME:TAG")
	flag.StringVar(&o.arch, "arch", runtime.GOARCH, "architecture, as in GOARCH")
	flag.Int64Var(&o.created, "created", 0, "creation time, seconds since 1970")
	flag.Var(&o.env, "env", "environment variable K=V; may be repeated")
	flag.Var(&o.cmd, "cmd", "argument of the default command; may be repeated")
	flag.Parse()
	o.layers = flag.Args()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "mklayout:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	if o.out == "" || o.ref == "" || len(o.layers) == 0 {
		return errors.New("need -out, -ref and at least one layer")
	}
	img, err := build(o)
	if err != nil {
		return err
	}
	// Written beside its place and renamed, so that nobody sees half of it.
	tmp, err := os.MkdirTemp(filepath.Dir(o.out), ".mklayout-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	p, err := layout.Write(tmp, empty.Index)
	if err != nil {
		return fmt.Errorf("writing layout: %w", err)
	}
	err = p.AppendImage(img,
		layout.WithPlatform(v1.Platform{OS: "linux", Architecture: o.arch}),
		layout.WithAnnotations(map[string]string{
			"org.opencontainers.image.ref.name": o.ref,
		}))
	if err != nil {
		return fmt.Errorf("writing image: %w", err)
	}
	if err := os.RemoveAll(o.out); err != nil {
		return err
	}
	return os.Rename(tmp, o.out)
}

func build(o options) (v1.Image, error) {
	created := v1.Time{Time: time.Unix(o.created, 0).UTC()}
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	for _, name := range o.layers {
		l, err := tarball.LayerFromFile(name, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", name, err)
		}
		img, err = mutate.Append(img, mutate.Addendum{
			Layer:   l,
			History: v1.History{Created: created, CreatedBy: "mklayout " + filepath.Base(name)},
		})
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", name, err)
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Created = "linux", o.arch, created
	cfg.Config.Env, cfg.Config.Cmd = o.env, o.cmd
	return mutate.ConfigFile(img, cfg)
}
