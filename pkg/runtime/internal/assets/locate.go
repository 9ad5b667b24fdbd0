package assets

import (
	"os"
	"path/filepath"
	"strings"
)

// Locate says where Find takes an asset from, in words and as the path it has or
// will have, without unpacking anything. Both are empty where there is none.
func (a Asset) Locate(given, home string) (path, source string) {
	source = "option"
	if given == "" {
		given, source = os.Getenv(a.env), "$"+a.env
	}
	if given != "" {
		if abs, err := filepath.Abs(given); err == nil {
			given = abs
		}
		return given, source
	}
	dir := filepath.Join(home, "kernel")
	if sum, err := files.ReadFile("files/" + a.name + ".sha256"); err == nil && len(sum) >= 16 {
		return filepath.Join(dir, a.name+"-"+strings.TrimSpace(string(sum))[:16]), "built in"
	}
	path = filepath.Join(dir, a.name)
	if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
		return path, "home directory"
	}
	return "", ""
}
