package runtime_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/anthropics/boxlite/pkg/runtime"
)

// A box reaches one service, and whatever else the callback lets it.
func ExampleNetworkSpec() {
	ctx := context.Background()
	rt, err := runtime.NewWithDefaults()
	if err != nil {
		panic(err)
	}
	defer rt.Close()
	box, err := rt.Create(ctx, runtime.BoxOptions{
		Rootfs: runtime.Image("python:3"),
		Network: runtime.NetworkSpec{
			Allow: []string{"api.example.org:443", "*.cdn.example.org:443"},
			Deny:  []string{"udp:*:443"}, // QUIC: programs go on with TCP
			Decide: func(ctx context.Context, d runtime.Destination) (bool, error) {
				return strings.HasSuffix(d.Name, ".example.com"), nil
			},
		},
	}, "agent")
	if err != nil {
		panic(err)
	}
	if err := box.Start(ctx); err != nil {
		panic(err)
	}
	for flow, err := range box.Flows(ctx, runtime.LogOptions{Follow: true}) {
		if err != nil {
			panic(err)
		}
		fmt.Println(flow.Action, flow.Protocol, flow.Name, flow.To, flow.Sent, flow.Received)
	}
}
