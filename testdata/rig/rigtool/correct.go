package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// QEMU 7.2 can deliver an interrupt twice. Where VMRUN injects one (AMD64 APM vol. 2
// §15.20), its helper notes the vector as an exception to be delivered, delivers it at
// once as well, and leaves the note. If the CPU then leaves its loop before anything else
// happens, for a timer or a kick, the note is found and the interrupt delivered again,
// in the middle of its own handler: the guest waits for ever for a lock that it holds.
// So the rig runs a copy in which the note is not made.
var (
	injection = []byte{
		0x41, 0x0f, 0xb6, 0xf4, // movzbl %r12b,%esi: the vector
		0x44, 0x89, 0xab, 0x80, 0x33, 0x00, 0x00, // mov %r13d,error_code
		0x89, 0xb3, 0x54, 0xef, 0xff, 0xff, // mov %esi,exception_index
		0xc7, 0x83, 0x84, 0x33, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // movl $0,exception_is_int
		0x48, 0xc7, 0x83, 0x88, 0x33, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, // movq $-1,exception_next_eip
	}
	note    = injection[11:17]
	nothing = []byte{0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00} // nopw 0(%rax,%rax)
)

// correct takes the note out of a program. It reports false for one that does not have
// it in the one place where it is known to be.
func correct(program []byte) bool {
	i := bytes.Index(program, injection)
	if i < 0 || bytes.Contains(program[i+1:], injection) {
		return false
	}
	copy(program[i+bytes.Index(injection, note):], nothing)
	return true
}

const (
	qemuProgram = "/usr/bin/qemu-system-x86_64"
	qemuModules = "/usr/lib/x86_64-linux-gnu/qemu"
	qemuData    = "/usr/share/qemu"
)

// correctedQEMU returns the program to run: a corrected copy in the cache, or the
// installed one where that is another than the one that is known. The cache is locked.
func correctedQEMU(installed, modules, cache string) (string, error) {
	fi, err := os.Stat(installed)
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, fmt.Sprintf("qemu-%x-%x", fi.Size(), fi.ModTime().UnixNano()))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if _, err := os.Stat(filepath.Join(modules, "accel-tcg-x86_64.so")); err != nil {
		return installed, nil // a copy would not find it
	}
	program, err := os.ReadFile(installed)
	if err != nil {
		return "", err
	}
	if !correct(program) {
		return installed, nil
	}
	half := path + ".half"
	if err := os.WriteFile(half, program, 0o755); err != nil {
		return "", err
	}
	return path, os.Rename(half, path)
}
