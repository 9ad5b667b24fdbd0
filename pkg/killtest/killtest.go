// Package killtest kills programs at each moment that can make a difference to what
// they leave in files: before each of their system calls that change any. What they
// change in mapped memory, as SQLite does in its -shm file, has no moments of its own.
package killtest

import "syscall"

// Begin is what a program does where its changes begin to count.
func Begin() { _, _ = syscall.Write(beginFD, nil) }

const beginFD = -7 // of no file
