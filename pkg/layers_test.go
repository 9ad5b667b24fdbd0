package pkg_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	// The programs below testdata need it, and go mod tidy does not look there.
	_ "github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/stretchr/testify/require"
)

const module = "github.com/anthropics/boxlite/"

// layers says what each package may import of ours, beyond std and modules.
// Packages are added here when they are added to the tree, and the lists only
// ever point down: see ARCHITECTURE.md. A pattern ending in /... covers a
// package and what is below it.
var layers = map[string][]string{
	"pkg/guestmem":            {},
	"pkg/agentapi":            {},
	"pkg/ethtool":             {},
	"pkg/hv":                  {"pkg/guestmem"},
	"pkg/hv/hvtest":           {"pkg/hv", "pkg/guestmem"},
	"pkg/kvm/...":             {"pkg/hv", "pkg/guestmem", "pkg/kvm/..."},
	"pkg/boot":                {"pkg/guestmem"},
	"pkg/boot/x86":            {"pkg/boot", "pkg/guestmem"},
	"pkg/virtio/queue":        {"pkg/guestmem"},
	"pkg/virtio":              {"pkg/guestmem", "pkg/virtio/queue"},
	"pkg/virtio/mmio":         {"pkg/virtio", "pkg/virtio/queue", "pkg/guestmem"},
	"pkg/virtio/blk":          {"pkg/virtio", "pkg/virtio/queue", "pkg/guestmem"},
	"pkg/virtio/fs":           {"pkg/virtio", "pkg/virtio/queue"},
	"pkg/virtio/rng":          {"pkg/virtio", "pkg/virtio/queue", "pkg/guestmem"},
	"pkg/virtio/net":          {"pkg/virtio", "pkg/virtio/queue", "pkg/guestmem"},
	"pkg/virtio/vsock":        {"pkg/virtio", "pkg/virtio/queue", "pkg/guestmem"},
	"pkg/virtio/console":      {"pkg/virtio", "pkg/virtio/queue", "pkg/guestmem"},
	"pkg/virtio/virtiotest":   {"pkg/virtio", "pkg/virtio/mmio", "pkg/virtio/queue", "pkg/guestmem"},
	"pkg/machine/serial":      {},
	"pkg/machine/machinetest": {},
	"pkg/killtest":            {},
	"pkg/machine": {
		"pkg/machine/serial", "pkg/hv", "pkg/kvm", "pkg/boot", "pkg/boot/x86", "pkg/guestmem", "pkg/virtio", "pkg/virtio/mmio",
	},
	"pkg/oci/...":                            {"pkg/oci/..."},
	"pkg/runtime/internal/disk/...":          {},
	"pkg/runtime/internal/state":             {},
	"pkg/runtime/internal/boxlog":            {},
	"pkg/runtime/internal/guest":             {"pkg/agentapi"},
	"pkg/runtime/internal/netstack/egress":   {},
	"pkg/runtime/internal/netstack/dnsproxy": {"pkg/runtime/internal/netstack/egress"},
	"pkg/runtime/internal/netstack":          {"pkg/runtime/internal/netstack/egress", "pkg/virtio", "pkg/virtio/net", "pkg/virtio/queue"},
	"pkg/runtime/internal/vmm": {
		"pkg/runtime/internal/netstack", "pkg/runtime/internal/netstack/egress", "pkg/runtime/internal/netstack/dnsproxy", "pkg/virtio/net",
		"pkg/runtime/internal/boxlog", "pkg/runtime/internal/guest", "pkg/agentapi", "pkg/machine", "pkg/hv", "pkg/virtio",
		"pkg/virtio/blk", "pkg/virtio/rng", "pkg/virtio/vsock", "pkg/virtio/console", "pkg/virtio/fs",
	},
	"pkg/runtime/internal/assets/...": {"pkg/runtime/internal/assets/..."},
	"pkg/runtime": {
		"pkg/machine/machinetest", "pkg/runtime/internal/...", "pkg/agentapi", "pkg/oci", "pkg/machine", "pkg/hv",
	},
	"pkg/runtime/proof": {},
	"cmd/boxlite/...": {
		"cmd/boxlite/...", "pkg/runtime", "pkg/oci/...", "pkg/machine", "pkg/hv", "pkg/kvm", "pkg/virtio", "pkg/virtio/blk", "pkg/virtio/rng", "pkg/virtio/console",
	},
	"examples/...":      {"pkg/runtime", "pkg/machine/machinetest"},
	"initramfs/...":     {"initramfs/...", "pkg/agentapi", "pkg/ethtool"},
	"testdata/bench/fs": {"pkg/machine", "pkg/virtio", "pkg/virtio/fs"},
	"testdata/...":      {"testdata/..."},
}

// TestLayers holds the import graph to the table, for both systems.
func TestLayers(t *testing.T) {
	for _, goos := range []string{"linux", "darwin"} {
		t.Run(goos, func(t *testing.T) {
			for path, imports := range listImports(t, goos) {
				allowed, ok := rule(path)
				if !ok {
					t.Errorf("%s is not in the table of layers", path)
					continue
				}
				for _, to := range imports {
					if !slices.ContainsFunc(allowed, func(p string) bool { return matches(p, to) }) {
						t.Errorf("%s must not import %s", path, to)
					}
				}
			}
		})
	}
}

// TestUnsafeIsFenced keeps the package unsafe in files that say so.
func TestUnsafeIsFenced(t *testing.T) {
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "*.go")
	cmd.Dir = ".."
	out, err := cmd.Output()
	require.NoError(t, err)
	files := strings.Fields(string(out))
	require.NotEmpty(t, files)
	for _, f := range files {
		src, err := os.ReadFile(filepath.Join("..", f))
		if os.IsNotExist(err) {
			continue // deleted, not yet committed
		}
		require.NoError(t, err)
		if bytes.Contains(src, []byte("\n\t\"unsafe\"\n")) || bytes.Contains(src, []byte("\nimport \"unsafe\"\n")) {
			require.Contains(t, f, "_unsafe", "%s imports unsafe", f)
		}
	}
}

func rule(path string) ([]string, bool) {
	if r, ok := layers[path]; ok {
		return r, true
	}
	for p, r := range layers {
		if strings.HasSuffix(p, "/...") && matches(p, path) {
			return r, true
		}
	}
	return nil, false
}

func matches(pattern, path string) bool {
	prefix, tree := strings.CutSuffix(pattern, "/...")
	return path == prefix || tree && strings.HasPrefix(path, prefix+"/")
}

func listImports(t *testing.T, goos string) map[string][]string {
	args := []string{"list", "-e", "-json=ImportPath,Imports", "./..."}
	// Wildcards do not see what is below testdata.
	cmd := exec.Command("git", "ls-files", "testdata/*.go")
	cmd.Dir = ".."
	helpers, err := cmd.Output()
	require.NoError(t, err)
	for _, f := range strings.Fields(string(helpers)) {
		if dir := "./" + filepath.Dir(f); !slices.Contains(args, dir) {
			args = append(args, dir)
		}
	}
	cmd = exec.Command("go", args...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	out, err := cmd.Output()
	require.NoError(t, err)
	graph := make(map[string][]string)
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else {
			require.NoError(t, err)
		}
		from, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours || from == "pkg" {
			continue // the root holds no code
		}
		graph[from] = nil
		for _, i := range p.Imports {
			if to, ours := strings.CutPrefix(i, module); ours {
				graph[from] = append(graph[from], to)
			}
		}
	}
	require.NotEmpty(t, graph)
	return graph
}
