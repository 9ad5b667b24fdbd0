package fs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/fs"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// rawPID is in the environment of the tests that a booted guest runs past its kernel,
// and is the number of the host's process.
const rawPID = "BOXLITE_FS_RAW"

// rawRAM is what the guest's kernel leaves to its hostile program.
var rawRAM = guestmem.Range{Base: 192 << 20, Size: 16 << 20}

type rawTest struct {
	name    string
	make    func(t testing.TB, dir string) (share string)
	configs []fs.Config
}

// rawTests are those that a guest runs, with what is in their folders and how they
// share it. Each has a device per owner that only it talks to, and one by which the
// guest's kernel shows it the folder as it is.
var rawTests = []rawTest{
	{"TestHostile45RawNames", makeCell, []fs.Config{{}}},
	{"TestHostile46Races", makeRaces, []fs.Config{{MaxDescriptors: 64}}},
	{"TestHostile46MagicLinks", func(testing.TB, string) string { return "/proc" }, []fs.Config{{}}},
	{"TestHostile47SpecialFiles", makeFIFO, []fs.Config{{}, {Owner: fs.OwnerXattr}}},
	{"TestHostile48Malformed", makeCell, []fs.Config{{SharedLocks: true}, {SharedLocks: true, Owner: fs.OwnerXattr}}},
	{"TestHostile49ReadOnly", makeFiles, []fs.Config{{ReadOnly: true, SharedLocks: true}, {ReadOnly: true, SharedLocks: true, Owner: fs.OwnerXattr}}},
}

func rawTag(test string, owner fs.Owner) string {
	return fmt.Sprintf("%s-%v", strings.TrimPrefix(test, "TestHostile"), owner)
}

func viewTag(test string) string { return "view-" + strings.TrimPrefix(test, "TestHostile") }

// TestGuestHostile runs the tests of hostile requests in a booted guest, by a program
// that takes the devices from the guest's kernel.
func TestGuestHostile(t *testing.T) {
	machinetest.Need(t)
	var devices []virtio.Device
	add := func(c fs.Config) {
		c.Log = t.Logf
		devices = append(devices, newDevice(t, c))
	}
	outers := map[string]string{}
	for _, r := range rawTests {
		outer := t.TempDir()
		outers[r.name] = outer
		share := r.make(t, outer)
		add(fs.Config{Path: outer, Tag: viewTag(r.name), Cache: fs.CacheNone})
		for _, c := range r.configs {
			c.Path, c.Tag = share, rawTag(r.name, c.Owner)
			add(c)
		}
	}
	readOnly := tree(t, outers["TestHostile49ReadOnly"])
	stop := race(outers["TestHostile46Races"])
	defer stop()
	runGuest(t, 1, devices, fmt.Sprintf("%s=hostile %s=%d mem=%dM", inGuest, rawPID, os.Getpid(), rawRAM.Base>>20))
	stop()
	require.Equal(t, readOnly, tree(t, outers["TestHostile49ReadOnly"]))
	for _, r := range rawTests {
		if info, err := os.Lstat(filepath.Join(outers[r.name], "outside")); err == nil && info.IsDir() {
			outsideAsItWas(t, outers[r.name])
		}
	}
}

// guestHostile is TestGuestHostile's side in the guest.
func guestHostile() {
	check("proc", os.Mkdir("/proc", 0o755))
	check("proc", unix.Mount("proc", "/proc", "proc", 0, ""))
	check("sys", os.Mkdir("/sys", 0o755))
	check("sys", unix.Mount("sys", "/sys", "sysfs", 0, ""))
	check("mem", unix.Mknod("/dev/mem", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 1))))
	check("tmp", os.Mkdir("/tmp", 0o777))
	var names []string
	for _, r := range rawTests {
		dir := "/" + viewTag(r.name)
		check(dir, os.Mkdir(dir, 0o755))
		check(dir, unix.Mount(viewTag(r.name), dir, "virtiofs", 0, ""))
		names = append(names, r.name)
	}
	guestTests("hostile", "", names...)
}

// pastKernel reports whether this is a test in a booted guest, which speaks to its
// device past the guest's kernel.
func pastKernel() bool { return hostPID() != 0 }

func hostPID() int {
	pid, _ := strconv.Atoi(os.Getenv(rawPID))
	return pid
}

// rounds is how often a test does something: less in an emulated guest.
func rounds(here, inGuest int) int {
	if pastKernel() {
		return inGuest
	}
	return here
}

// place is a folder in which fill has made something.
func place(t testing.TB, fill func(testing.TB, string) string) string {
	t.Helper()
	if pastKernel() {
		return "/" + viewTag(t.Name())
	}
	dir := t.TempDir()
	fill(t, dir)
	return dir
}

// openGuest takes the device that the host has made for this test from the guest's
// kernel (Documentation/ABI/testing/sysfs-fs-virtiofs).
func openGuest(t testing.TB, c fs.Config) *virtiotest.Driver {
	t.Helper()
	c.Path = ""
	row := slices.IndexFunc(rawTests, func(r rawTest) bool { return r.name == t.Name() })
	require.GreaterOrEqual(t, row, 0, "not in rawTests")
	require.Condition(t, func() bool {
		return slices.ContainsFunc(rawTests[row].configs, func(made fs.Config) bool { return reflect.DeepEqual(made, c) })
	}, "rawTests says otherwise than the test: %+v", c)
	tag := rawTag(t.Name(), c.Owner)
	instances, err := filepath.Glob("/sys/fs/virtiofs/*")
	require.NoError(t, err)
	for _, dir := range instances {
		p, err := os.ReadFile(filepath.Join(dir, "tag"))
		require.NoError(t, err)
		if strings.TrimSpace(string(p)) != tag {
			continue
		}
		device, err := filepath.EvalSymlinks(filepath.Join(dir, "device")) // …/virtio-mmio.3/virtio3
		require.NoError(t, err)
		name := filepath.Base(filepath.Dir(device))
		registers := resource(t, name)
		require.NoError(t, os.WriteFile("/sys/bus/platform/drivers/virtio-mmio/unbind", []byte(name), 0))
		return virtiotest.OpenGuest(t, registers, rawRAM)
	}
	t.Fatalf("no device of %v is %q", instances, tag)
	return nil
}

// resource finds where a device's registers are.
func resource(t testing.TB, device string) guestmem.GPA {
	t.Helper()
	p, err := os.ReadFile("/proc/iomem") // "  d0000000-d0000fff : virtio-mmio.0 virtio-mmio.0"
	require.NoError(t, err)
	for line := range strings.Lines(string(p)) {
		at, names, _ := strings.Cut(strings.TrimSpace(line), " : ")
		if !slices.Contains(strings.Fields(names), device) {
			continue
		}
		first, _, _ := strings.Cut(at, "-")
		base, err := strconv.ParseUint(first, 16, 64)
		require.NoError(t, err)
		return guestmem.GPA(base)
	}
	t.Fatalf("%s is not in %s", device, p)
	return 0
}
