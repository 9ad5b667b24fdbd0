// Package machinetest finds what tests need to boot guests, and says what is
// missing. Tests that use it run on a host whose KVM works, or in the rig, where
// BOXLITE_REQUIRE_KVM=1 turns every absence into a failure.
package machinetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// RequireEnv makes tests fail instead of skip when they cannot boot a guest.
const RequireEnv = "BOXLITE_REQUIRE_KVM"

// Need skips a test that boots guests where that was not asked for: on hosts
// without a usable KVM `make test-kvm` runs it in the rig.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv(RequireEnv) == "" {
		t.Skip("boots a guest: run `make test-kvm`, which uses the rig where this host's KVM cannot")
	}
}

// Kernel is the path of the guest kernel.
func Kernel(t testing.TB) string { return path(t, "BOXLITE_KERNEL") }

// Initramfs is the path of the guest's initramfs.
func Initramfs(t testing.TB) string { return path(t, "BOXLITE_INITRAMFS") }

// Boxlite is the path of the boxlite program.
func Boxlite(t testing.TB) string { return path(t, "BOXLITE_TEST_BINARY") }

// BzImage is the path of a distribution's kernel as its package has it.
func BzImage(t testing.TB) string { return path(t, "BOXLITE_TEST_BZIMAGE") }

// Example is the path of one of the programs below examples.
func Example(t testing.TB, name string) string {
	return filepath.Join(path(t, "BOXLITE_TEST_EXAMPLES"), name)
}

// Image is the OCI layout of a test image: "busybox" or "debian-python".
func Image(t testing.TB, name string) string {
	return filepath.Join(path(t, "BOXLITE_TEST_IMAGES"), name)
}

// Home is a runtime's home whose store has the large images that the package's
// testdata/images names.
func Home(t testing.TB) string { return path(t, "BOXLITE_TEST_HOME") }

// LargeImage is the reference of such an image: its digest.
func LargeImage(t testing.TB, name string) string {
	t.Helper()
	digest, err := os.ReadFile(filepath.Join(Home(t), name))
	if err != nil {
		t.Fatalf("%v: is %s in testdata/images?", err, name)
	}
	return strings.TrimSpace(string(digest))
}

// Tree is a folder with the files of such an image.
func Tree(t testing.TB, name string) string {
	return filepath.Join(path(t, "BOXLITE_TEST_TREES"), name+".tree")
}

// Go is a folder with a Go distribution and a module to build with it, which
// testdata/tools/guest-go makes.
func Go(t testing.TB) string { return path(t, "BOXLITE_TEST_GO") }

func path(t testing.TB, env string) string {
	t.Helper()
	Need(t)
	p := os.Getenv(env)
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("%s=%q: %v; `make test-kvm` sets it", env, p, err)
	}
	return p
}
