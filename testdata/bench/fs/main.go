// Command fsbench measures a shared folder from inside a guest: ours, and QEMU
// with its virtiofsd beside it. testdata/tools/bench-fs runs it in the rig.
//
//	fsbench ours|qemu [-cache none|auto|always] [-writeback] [-owner xattr] [-only REGEXP] [-readahead KIB]
//	  [-reasons] [-kernel FILE] [-git FOLDER]
//
// The same program is the guest's init, with the same kernel, on both sides. A
// line of output is a workload: operations, time and exits of each.
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	tag       = "bench"
	memoryMiB = 512
	words     = "console=ttyS0 quiet loglevel=4 reboot=t panic=-1 tsc=reliable no_timer_check cryptomgr.notests random.trust_cpu=on"

	bigMiB   = 8  // size of the large file
	random   = 40 // accesses to it at random places
	files    = 40 // in the flat folder, and in the tree
	treeDirs = 4
	smallLen = 1000

	sources    = 1000 // files that git looks at
	sourceDirs = 50
)

// options are what a run is told. Those for the guest go by its command line.
type options struct {
	cache     string
	writeback bool
	owner     string
	only      string
	readahead int
	reasons   bool
	kernel    string
	git       string
	share     string
}

func main() {
	if os.Getpid() == 1 {
		guest()
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "fsbench:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) < 2 {
		return fmt.Errorf("say ours or qemu")
	}
	var o options
	set := flag.NewFlagSet("fsbench", flag.ContinueOnError)
	set.StringVar(&o.cache, "cache", "auto", "none, auto or always")
	set.BoolVar(&o.writeback, "writeback", false, "let the guest collect writes")
	set.StringVar(&o.owner, "owner", "squash", "squash or xattr; of ours")
	set.StringVar(&o.only, "only", ".", "workloads that match")
	set.IntVar(&o.readahead, "readahead", 0, "KiB that the guest reads ahead; 0 means its default")
	set.BoolVar(&o.reasons, "reasons", false, "print all that KVM counts")
	set.StringVar(&o.kernel, "kernel", os.Getenv("BOXLITE_KERNEL"), "vmlinux")
	set.StringVar(&o.git, "git", os.Getenv("FSBENCH_GIT"), "folder with a git for the guest, its libraries and ld.so")
	if err := set.Parse(os.Args[2:]); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "fsbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	o.share = filepath.Join(dir, "share")
	if err := populate(o.share); err != nil {
		return err
	}
	initrd := filepath.Join(dir, "initramfs")
	if err := pack(initrd, o.git); err != nil {
		return err
	}
	switch os.Args[1] {
	case "ours":
		return ours(&o, initrd)
	case "qemu":
		return qemu(&o, initrd, dir)
	}
	return fmt.Errorf("no side is called %q", os.Args[1])
}

// cmdline is the guest's.
func (o *options) cmdline() string {
	return fmt.Sprintf("%s FSBENCH_ONLY=%s FSBENCH_READAHEAD=%d", words, o.only, o.readahead)
}

// populate makes what the guest reads.
func populate(share string) error {
	for d := range treeDirs {
		dir := filepath.Join(share, "tree", fmt.Sprintf("%02d", d/10), fmt.Sprintf("folder-%02d", d%10))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for f := range files / treeDirs {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("source-%02d.go", f)), make([]byte, smallLen), 0o644); err != nil {
				return err
			}
		}
	}
	for _, flat := range []string{"flat", "old", "renamed"} {
		if err := os.Mkdir(filepath.Join(share, flat), 0o755); err != nil {
			return err
		}
		for f := range files {
			if err := os.WriteFile(filepath.Join(share, flat, fmt.Sprint("file-", f)), make([]byte, smallLen), 0o644); err != nil {
				return err
			}
		}
	}
	for f := range sources {
		name := filepath.Join(share, "repo", fmt.Sprintf("package-%02d", f%sourceDirs), fmt.Sprintf("source-%04d.go", f))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, fmt.Appendf(nil, "package p%d\n", f), 0o644); err != nil {
			return err
		}
		if err := os.Chtimes(name, time.Time{}, time.Unix(1700000000, 0)); err != nil {
			return err
		}
	}
	big := make([]byte, bigMiB<<20)
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(big)
	return os.WriteFile(filepath.Join(share, "big"), big, 0o644)
}

// pack makes an initramfs with this program as /init, and what is in the folder git
// (Documentation/driver-api/early-userspace/buffer-format.rst).
func pack(path, git string) error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	var b strings.Builder
	pad := func() {
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	add := func(name string, mode, major, minor int, data []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 0, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
		b.WriteString(name + "\x00")
		pad()
		b.Write(data)
		pad()
	}
	add("dev", 0o40755, 0, 0, nil)
	add("dev/console", 0o20600, 5, 1, nil)
	add("dev/null", 0o20666, 1, 3, nil)
	add("dev/urandom", 0o20666, 1, 9, nil)
	add("init", 0o100755, 0, 0, self)
	if git != "" {
		all, err := os.ReadDir(git)
		if err != nil {
			return err
		}
		add("git", 0o40755, 0, 0, nil)
		for _, e := range all {
			p, err := os.ReadFile(filepath.Join(git, e.Name()))
			if err != nil {
				return err
			}
			add("git/"+e.Name(), 0o100755, 0, 0, p)
		}
	}
	add("TRAILER!!!", 0, 0, 0, nil)
	return os.WriteFile(path, []byte(b.String()), 0o644)
}
