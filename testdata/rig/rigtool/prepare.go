package main

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/klauspost/compress/zstd"
)

// usual are the modules that are loaded every time. KVM is why we are here;
// tun is for tests of networks.
var usual = []string{"kvm-amd", "tun"}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "rig: "+format+"\n", args...)
}

// cacheDir is where kernels and base archives are kept.
func cacheDir() (string, error) {
	base := os.Getenv("BOXLITE_CACHE")
	if base == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		base = filepath.Join(dir, "boxlite")
	}
	dir := filepath.Join(base, "rig")
	return dir, os.MkdirAll(dir, 0o777)
}

// lockCache keeps other rigs from preparing the same things at the same time.
func lockCache(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, os.NewSyscallError("flock", err)
	}
	return func() { f.Close() }, nil
}

// need installs the Debian packages whose program is missing.
func need(programs map[string]string) error {
	var missing []string
	for program, pkg := range programs {
		if _, err := os.Stat(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	say("installing %s", strings.Join(missing, " "))
	install := append([]string{"install", "-y", "-q", "--no-install-recommends"}, missing...)
	if apt(install...) == nil {
		return nil
	}
	if err := apt("update", "-q"); err != nil {
		return fmt.Errorf("apt-get update: %w", err)
	}
	if err := apt(install...); err != nil {
		return fmt.Errorf("apt-get install %s: %w", strings.Join(missing, " "), err)
	}
	return nil
}

func apt(args ...string) error {
	argv := append([]string{"apt-get"}, args...)
	if os.Geteuid() != 0 {
		argv = append([]string{"sudo"}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}

// kernel is an unpacked linux-image package.
type kernel struct {
	image   string // what QEMU boots: an ELF image where the package's could be unpacked
	modules string // folder with the modules below it
	version string
}

// bzImage is the image as the package has it.
func (k *kernel) bzImage() string { return filepath.Join(filepath.Dir(k.image), "vmlinuz") }

// findKernel takes RIG_KERNEL (a package's name), or the newest cloud kernel in
// the cache, or the newest that Debian's archive has, which goes to the cache.
func findKernel(cache string) (*kernel, error) {
	pkg := os.Getenv("RIG_KERNEL")
	if pkg == "" {
		have, _ := filepath.Glob(filepath.Join(cache, "linux-image-*"))
		for i := range have {
			have[i] = filepath.Base(have[i])
		}
		pkg = newest(have)
	}
	if pkg == "" {
		var err error
		if pkg, err = newestInArchive(); err != nil {
			return nil, err
		}
	}
	dir := filepath.Join(cache, pkg)
	k := &kernel{version: strings.TrimPrefix(pkg, "linux-image-"), image: filepath.Join(dir, "kernel")}
	k.modules = filepath.Join(dir, "lib/modules", k.version, "kernel")
	if _, err := os.Stat(k.bzImage()); err == nil {
		return k, nil
	}
	return k, fetchKernel(dir, pkg, k.version)
}

// lockedKernel locks the cache and finds the kernel there.
func lockedKernel() (cache string, k *kernel, unlock func(), err error) {
	if cache, err = cacheDir(); err != nil {
		return "", nil, nil, err
	}
	if unlock, err = lockCache(cache); err != nil {
		return "", nil, nil, err
	}
	if k, err = findKernel(cache); err != nil {
		unlock()
	}
	return cache, k, unlock, err
}

// printKernel tells where the kernel is, for tests that boot it as a guest.
func printKernel() (int, error) {
	_, k, unlock, err := lockedKernel()
	if err != nil {
		return exitRig, err
	}
	unlock()
	fmt.Println(k.bzImage())
	return 0, nil
}

func newestInArchive() (string, error) {
	list := func() []string {
		out, err := exec.Command("apt-cache", "search", "--names-only", `^linux-image-6\.[0-9.]*.*cloud-amd64$`).Output()
		if err != nil {
			return nil
		}
		var names []string
		for line := range strings.Lines(string(out)) {
			name, _, _ := strings.Cut(line, " ")
			if regexp.MustCompile(`^linux-image-[0-9]+\.[0-9]+\.[0-9]+.*-cloud-amd64$`).MatchString(name) {
				names = append(names, name)
			}
		}
		return names
	}
	names := list()
	if len(names) == 0 {
		if err := apt("update", "-q"); err != nil {
			return "", fmt.Errorf("apt-get update: %w", err)
		}
		names = list()
	}
	if len(names) == 0 {
		return "", errors.New("the package archive has no linux-image-*-cloud-amd64")
	}
	return newest(names), nil
}

// newest returns the name with the highest numbers, compared one by one.
func newest(names []string) string {
	digits := regexp.MustCompile(`[0-9]+`)
	numbers := func(name string) []int {
		var all []int
		for _, d := range digits.FindAllString(strings.TrimSuffix(name, "amd64"), -1) {
			n, _ := strconv.Atoi(d)
			all = append(all, n)
		}
		return all
	}
	if len(names) == 0 {
		return ""
	}
	return slices.MaxFunc(names, func(a, b string) int {
		return cmp.Or(slices.Compare(numbers(a), numbers(b)), cmp.Compare(b, a))
	})
}

func fetchKernel(dir, pkg, version string) error {
	say("fetching %s", pkg)
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "new")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	get := exec.Command("apt-get", "download", "-q", pkg)
	get.Dir, get.Stdout, get.Stderr = tmp, os.Stderr, os.Stderr
	if err := get.Run(); err != nil {
		return fmt.Errorf("apt-get download %s: %w", pkg, err)
	}
	debs, _ := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if len(debs) != 1 {
		return fmt.Errorf("apt-get download %s: left %d packages", pkg, len(debs))
	}
	root := filepath.Join(tmp, "root")
	if out, err := exec.Command("dpkg-deb", "-x", debs[0], root).CombinedOutput(); err != nil {
		return fmt.Errorf("dpkg-deb -x %s: %w: %s", pkg, err, out)
	}
	bz, err := os.ReadFile(filepath.Join(root, "boot/vmlinuz-"+version))
	if err != nil {
		return err
	}
	image := bz
	// Unpacking the image here saves the emulator a second of decompression per start.
	if elf, err := unpackBzImage(bz); err == nil {
		image = elf
	} else {
		say("%s boots compressed: %v", pkg, err)
	}
	if err := os.WriteFile(filepath.Join(root, "kernel"), image, 0o666); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "vmlinuz"), bz, 0o666); err != nil {
		return err
	}
	os.RemoveAll(filepath.Join(root, "boot"))
	os.RemoveAll(filepath.Join(root, "usr"))
	os.RemoveAll(dir)
	return os.Rename(root, dir)
}

// unpackBzImage returns the ELF image inside a zstd-compressed bzImage
// (Documentation/arch/x86/boot.rst "payload_offset").
func unpackBzImage(b []byte) ([]byte, error) {
	if len(b) < 0x250 || string(b[0x202:0x206]) != "HdrS" {
		return nil, errors.New("not a bzImage")
	}
	start := (int(b[0x1f1]) + 1) * 512
	start += int(binary.LittleEndian.Uint32(b[0x248:]))
	size := int(binary.LittleEndian.Uint32(b[0x24c:]))
	if start > len(b) || size > len(b)-start || size < 4 {
		return nil, errors.New("payload outside the bzImage")
	}
	dec, err := zstd.NewReader(bytes.NewReader(b[start : start+size-4])) // the last 4 bytes are the size
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	elf, err := io.ReadAll(dec)
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	if !bytes.HasPrefix(elf, []byte("\x7fELF")) {
		return nil, errors.New("payload is not ELF")
	}
	return elf, nil
}

// module returns the file of a module; names use - and _ alike.
func (k *kernel) module(name string) (string, error) {
	want := strings.ReplaceAll(name, "-", "_") + ".ko"
	var found string
	err := filepath.WalkDir(k.modules, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := strings.TrimSuffix(filepath.Base(path), ".xz")
		if strings.ReplaceAll(base, "-", "_") == want {
			found = path
			return filepath.SkipAll
		}
		return nil
	})
	if err == nil && found == "" {
		err = fmt.Errorf("kernel %s has no module %s", k.version, name)
	}
	return found, err
}

// withDependencies returns names and what they depend on, in load order.
func (k *kernel) withDependencies(names []string) ([]string, map[string]string, error) {
	var order []string
	files := map[string]string{}
	var visit func(name string) error
	visit = func(name string) error {
		if name = strings.ReplaceAll(name, "-", "_"); files[name] != "" {
			return nil
		}
		file, err := k.module(name)
		if err != nil {
			return err
		}
		files[name] = file
		out, err := exec.Command("/sbin/modinfo", "-F", "depends", file).Output()
		if err != nil {
			return fmt.Errorf("modinfo %s: %w", file, err)
		}
		for _, d := range strings.FieldsFunc(string(out), func(r rune) bool { return r == ',' || r == '\n' }) {
			if err := visit(d); err != nil {
				return err
			}
		}
		order = append(order, name)
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, nil, err
		}
	}
	return order, files, nil
}

// slim hides what makes a module slow to load in an emulator and is not needed
// to run it: the signature (RSA), type information, the tables of the stack
// unwinder and of the function tracer. It takes kvm.ko from 1.5 to 0.2 billion
// instructions. Sections are found by name, so another name hides them.
func slim(module []byte) []byte {
	const mark = "~Module signature appended~\n"
	if body, ok := bytes.CutSuffix(module, []byte(mark)); ok && len(body) > 12 {
		size := int(binary.BigEndian.Uint32(body[len(body)-4:])) // struct module_signature
		if size <= len(body)-12 {
			module = body[:len(body)-12-size]
		}
	}
	for _, section := range []string{".BTF", ".BTF.base", ".orc_unwind", ".orc_unwind_ip", "__mcount_loc", "_ftrace_events", "_ftrace_eval_map"} {
		module = bytes.ReplaceAll(module, []byte(section+"\x00"), []byte("X"+section[1:]+"\x00"))
	}
	return module
}

// baseArchive returns the initramfs that every run of this kind starts from:
// this program as init, busybox, the kernel modules. It is made once.
func (k *kernel) baseArchive(cache string, extra []string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	names := append(slices.Clone(usual), extra...)
	id := sha256.Sum256(fmt.Appendf(nil, "%s %s %q", filepath.Base(self), k.version, names))
	path := filepath.Join(cache, "base-"+hex.EncodeToString(id[:8])+".cpio")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	order, files, err := k.withDependencies(names)
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(cache, "base")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	buf := bufio.NewWriterSize(f, 1<<20)
	c := newCPIO(buf)
	steps := []error{
		c.device("dev/console", 0o600, 5, 1), // the kernel opens it for init
		c.file("init", self),
		c.file("bin/busybox", "/bin/busybox"),
		c.bytes("etc/passwd", 0o644, []byte("root:x:0:0:root:/rig:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")),
		c.bytes("etc/group", 0o644, []byte("root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n")),
		c.bytes("etc/hosts", 0o644, []byte("127.0.0.1 localhost rig\n::1 localhost\n")),
		c.bytes("lib/modules/order", 0o644, []byte(strings.Join(order, "\n"))),
		c.dir("rig", 0o777), c.dir("tmp", 0o777), c.dir("run", 0o755), c.dir("proc", 0o755), c.dir("sys", 0o755),
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	steps = append(steps, err)
	for applet := range strings.Lines(string(applets)) {
		if applet = strings.TrimSpace(applet); applet != "busybox" {
			steps = append(steps, c.symlink("bin/"+applet, "busybox"))
		}
	}
	steps = append(steps, c.symlink("sbin", "bin"))
	for _, m := range order {
		data, err := os.ReadFile(files[m])
		if strings.HasSuffix(files[m], ".xz") {
			data, err = exec.Command("xz", "-dc", files[m]).Output()
		}
		steps = append(steps, err, c.bytes("lib/modules/"+m+".ko", 0o644, slim(data)))
	}
	steps = append(steps, c.close(), buf.Flush(), f.Close())
	if err := errors.Join(steps...); err != nil {
		return "", fmt.Errorf("making %s: %w", path, err)
	}
	return path, os.Rename(f.Name(), path)
}
