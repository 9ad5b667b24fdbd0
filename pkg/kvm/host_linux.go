//go:build amd64

package kvm

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
)

// moduleName is the part of KVM that drives this machine's CPU.
func moduleName() string {
	dirs, _ := filepath.Glob("/sys/module/kvm_*") // the pattern is valid
	for i, d := range dirs {
		dirs[i] = filepath.Base(d)
	}
	// A kernel with both built in shows both.
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	switch {
	case len(dirs) == 0:
		return "kvm"
	case err == nil && bytes.Contains(cpuinfo, []byte("GenuineIntel")) && slices.Contains(dirs, "kvm_intel"):
		return "kvm_intel"
	case err == nil && bytes.Contains(cpuinfo, []byte("AuthenticAMD")) && slices.Contains(dirs, "kvm_amd"):
		return "kvm_amd"
	}
	return dirs[0]
}

// hostIsVirtual reports whether this machine runs on a hypervisor itself.
func hostIsVirtual() bool {
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && bytes.Contains(cpuinfo, []byte(" hypervisor"))
}
