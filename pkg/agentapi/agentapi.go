// Package agentapi is the wire between the host and the agent that is PID 1 of
// every box. Both sides import it, so it needs nothing but std, and of that as
// little as it can: each kilobyte in the guest is copied at every boot.
//
// # Control connections
//
// A control connection carries frames: a little-endian uint32 length of at most
// [MaxFrame], then that many bytes, which [Decode] turns into a request id and a
// [Message]. The guest dials the first one (CID 2, [PortControl]); further host
// processes dial the guest's PortControl. On each the guest speaks first, with a
// [Hello]. Then the host sends requests with ids of its own choosing, any number
// of them in flight, and the guest answers each with the same id: with the
// message named at the request's type, or with an [Error]. Id 0 marks what nobody
// asked for: Hello, [Exited], [PowerOff] and [Log].
//
// # Streams
//
// Bytes of an execution travel on connections of their own, which the host dials
// to the guest's [PortStream] and opens with a [StreamHeader]. They may arrive
// before the request that starts the execution. End of file is the socket's
// half-close; back-pressure is the socket's. Archives travel the same way.
//
// # Trust
//
// The host must assume that the guest's side is hostile: every length and count
// is checked before memory is reserved for it, nothing in a message selects how
// deep a parser recurses, and text is quoted before it is shown.
package agentapi

// Version is the protocol's version. Host and guest must agree on it exactly:
// both come out of one build.
const Version = 4

// vsock ports. The host listens on PortControl for the agent's first call; the
// guest listens on both.
const (
	PortControl = 1024
	PortStream  = 1025
)

// CIDHost is the vsock address of the host (virtio 1.3 §5.10.4).
const CIDHost = 2

// Limits that both sides enforce. What is larger is refused with [CodeLimit] or
// [CodeProtocol], never truncated.
const (
	MaxFrame   = 1 << 20 // bytes after the length word
	MaxList    = 1 << 16 // elements of a list
	MaxStreams = 3       // connections of one execution
)
