// Package vsock is what the agent needs of AF_VSOCK (vsock(7)): dialling the
// host and accepting its calls. It stands on raw sockets and os.File: package
// net, which every ready-made vsock package brings along, would make the guest's
// only program a third larger, and the program is copied at every boot.
package vsock
