package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func portCommand(g *globalOptions) *cobra.Command {
	var f format
	c := &cobra.Command{
		Use:   "port [flags] BOX [PORT[/tcp|/udp]]",
		Short: "List, add and remove ports of a running box",
		Long: `Ports of this machine that lead to ports of a box. Those given with -p are
there whenever the box runs; those added here, until it stops. With a box alone
it lists them, as boxlite port ls does; with a port of the box, only the addresses
here that lead to that.`,
		Example: `  boxlite port web
  boxlite port web 80
  boxlite port add web 8080:80
  boxlite port rm web 8080:80`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			if len(args) == 1 {
				return boxOrCommand(cmd, args[0], listPorts(cmd.Context(), g, args[0], f))
			}
			p, err := parseBoxPort(args[1])
			if err != nil {
				return fmt.Errorf("port: %w", err)
			}
			return boxOrCommand(cmd, args[0], showPort(cmd.Context(), g, args[0], p, f))
		},
	}
	addFormat[runtime.PortSpec](c, &f, "", "{{.HostPort}} {{.GuestPort}}")
	c.AddCommand(portListCommand(g), portAddCommand(g), portRemoveCommand(g))
	return c
}

// boxOrCommand says of a word that names no box that it is no command either: it may
// have been meant for one.
func boxOrCommand(c *cobra.Command, word string, err error) error {
	if !errors.Is(err, runtime.ErrNotFound) {
		return err
	}
	return fmt.Errorf("%s: %w, and there is no command %q: %ssee %s --help",
		called(c), err, called(c)+" "+word, didYouMean(likeCommands(c, word)), c.CommandPath())
}

func portListCommand(g *globalOptions) *cobra.Command {
	var f format
	c := &cobra.Command{
		Use:     "ls [flags] BOX",
		Aliases: []string{"list"},
		Short:   "List the ports that lead to a box",
		Long:    "Lists the ports of this machine that lead to a running box, those of -p first.",
		Example: `  boxlite port ls web
  boxlite port ls --format '{{.HostPort}}' web`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return listPorts(cmd.Context(), g, args[0], f) },
	}
	addFormat[runtime.PortSpec](c, &f, "", "{{.HostPort}} {{.GuestPort}}")
	return c
}

func listPorts(ctx context.Context, g *globalOptions, name string, f format) error {
	return onBox(ctx, g, name, func(ctx context.Context, box *runtime.LiteBox) error {
		ports, err := box.Ports(ctx)
		if err != nil {
			return err
		}
		return list(&stdout, f, ports, []string{"HOST", "BOX"}, portCells)
	})
}

// parseBoxPort reads a port of a box alone.
func parseBoxPort(s string) (runtime.PortSpec, error) {
	p, err := parsePort(s)
	if strings.Contains(s, ":") {
		return p, fmt.Errorf("%q: want PORT[/tcp|/udp]", s)
	} else if number, _, _ := strings.Cut(s, "/"); err != nil && !isDigits(number) {
		return p, fmt.Errorf("PORT %q: want PORT[/tcp|/udp]", s)
	}
	p.Protocol = cmp.Or(p.Protocol, runtime.PortTCP)
	return p, err
}

// showPort prints the addresses of this machine that lead to one port of a box.
func showPort(ctx context.Context, g *globalOptions, name string, want runtime.PortSpec, f format) error {
	return onBox(ctx, g, name, func(ctx context.Context, box *runtime.LiteBox) error {
		ports, err := box.Ports(ctx)
		if err != nil {
			return err
		}
		if ports = portsTo(ports, want); len(ports) == 0 {
			return fmt.Errorf("port: nothing leads to port %d/%s of box %s: boxlite port %s lists what does", want.GuestPort, want.Protocol, name, name)
		}
		if f != "table" {
			return list(&stdout, f, ports, []string{"HOST", "BOX"}, portCells)
		}
		for _, p := range ports {
			say(hostAddress(p))
		}
		return nil
	})
}

// portsTo are those that lead to the box's port of want.
func portsTo(ports []runtime.PortSpec, want runtime.PortSpec) []runtime.PortSpec {
	return slices.DeleteFunc(slices.Clone(ports), func(p runtime.PortSpec) bool {
		return p.GuestPort != want.GuestPort || p.Protocol != want.Protocol
	})
}

func portCells(p runtime.PortSpec) []string {
	return []string{hostAddress(p), fmt.Sprintf("%d/%s", p.GuestPort, p.Protocol)}
}

func portAddCommand(g *globalOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "add BOX [[IP:]HOSTPORT:]PORT[/tcp|/udp]",
		Short: "Lead a port of this machine to a running box",
		Long: `Leads a port of this machine to a running box, until the box stops, and prints
the address. IP is 127.0.0.1 if left out, HOSTPORT any that is free.`,
		Example: `  boxlite port add web 8080:80
  boxlite port add dns 0.0.0.0:5353:53/udp`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePort(args[1])
			if err != nil {
				return fmt.Errorf("port add: %w", err)
			}
			return onBox(cmd.Context(), g, args[0], func(ctx context.Context, box *runtime.LiteBox) error {
				if p, err = box.AddPort(ctx, p); err != nil {
					return err
				}
				_, err = fmt.Fprintln(&stdout, hostAddress(p))
				return err
			})
		},
	}
}

func portRemoveCommand(g *globalOptions) *cobra.Command {
	return &cobra.Command{
		Use:     "rm BOX [IP:]HOSTPORT:PORT[/tcp|/udp]",
		Aliases: []string{"remove"},
		Short:   "End what leads a port of this machine to a box",
		Long: `Ends what leads a port of this machine to a running box. Connections that came
in by it stay.`,
		Example: `  boxlite port rm web 8080:80`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePort(args[1])
			if err != nil {
				return fmt.Errorf("port rm: %w", err)
			}
			if p.HostPort == 0 {
				return fmt.Errorf("port rm: %q: name the port of this machine too, as HOSTPORT:PORT: boxlite port ls %s lists them", args[1], args[0])
			}
			return onBox(cmd.Context(), g, args[0], func(ctx context.Context, box *runtime.LiteBox) error {
				return box.RemovePort(ctx, p)
			})
		},
	}
}

func hostAddress(p runtime.PortSpec) string {
	return net.JoinHostPort(p.HostIP, strconv.Itoa(int(p.HostPort)))
}

// onBox opens the home and finds a box in it.
func onBox(ctx context.Context, g *globalOptions, key string, do func(context.Context, *runtime.LiteBox) error) error {
	return g.do(func(rt *runtime.Runtime) error {
		box, err := rt.Get(ctx, key)
		if err != nil {
			return err
		}
		return do(ctx, box)
	})
}
