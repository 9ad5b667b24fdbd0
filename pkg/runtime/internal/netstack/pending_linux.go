package netstack

import "golang.org/x/sys/unix"

// pending is the ioctl for the number of bytes that can be read.
const pending = unix.TIOCINQ
