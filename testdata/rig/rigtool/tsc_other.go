//go:build !amd64

package main

// tscParameter has nothing to say: QEMU makes up a TSC here.
func tscParameter() string { return "" }
