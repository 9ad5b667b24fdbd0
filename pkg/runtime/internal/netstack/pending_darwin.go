package netstack

// pending is the ioctl for the number of bytes that can be read: FIONREAD.
const pending = 0x4004667f
