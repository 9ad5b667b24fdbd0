// Package proof holds no code but tests: programs that people use, in boxes, against
// servers that people use, beside them. What they say to each other directly is what
// they must say to each other through a box's network.
//
// The tests run in namespaces of their own, so that they have addresses, a resolver
// and the low ports without touching the host's. A second network namespace, at the
// other end of a veth pair, is the Internet: its servers come from the tree of the
// image that the boxes run.
package proof
