package guest

import (
	"context"

	"github.com/anthropics/boxlite/pkg/agentapi"
)

// Processes lists the processes of the box.
func (c *Client) Processes(ctx context.Context) (agentapi.ProcessList, error) {
	list, err := call[*agentapi.ProcessList](ctx, c, &agentapi.ListProcesses{})
	if err != nil {
		return agentapi.ProcessList{}, err
	}
	return *list, nil
}

// Stats returns what the guest's kernel counts.
func (c *Client) Stats(ctx context.Context) (agentapi.GuestStats, error) {
	stats, err := call[*agentapi.GuestStats](ctx, c, &agentapi.GetStats{})
	if err != nil {
		return agentapi.GuestStats{}, err
	}
	return *stats, nil
}
