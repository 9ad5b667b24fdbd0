package runtime

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestBoxCommand builds commands of a common beginning: each step is a command of
// its own, and changes no other.
func TestBoxCommand(t *testing.T) {
	base := Command("python3").Arg("-c")
	one, two := base.Arg("print(1)"), base.Arg("print(2)", "x")
	require.Equal(t, []string{"python3", "-c"}, base.Args())
	require.Equal(t, []string{"python3", "-c", "print(1)"}, one.Args())
	require.Equal(t, []string{"python3", "-c", "print(2)", "x"}, two.Args())
	require.Equal(t, Command("a", "b", "c").Args(), Command("a").Arg("b", "c").Args())

	red, blue := base.Env("COLOUR", "red"), base.Env("COLOUR", "blue")
	require.Equal(t, []EnvVar{{"COLOUR", "red"}}, red.env)
	require.Equal(t, []EnvVar{{"COLOUR", "blue"}}, blue.env)
	require.Empty(t, base.env)
	all := base.WorkingDir("/w").User("me").Timeout(time.Minute).TTY(true)
	require.NoError(t, all.check())
	require.Equal(t, "/w", all.dir)
	require.Equal(t, "me", all.user)
	require.Equal(t, time.Minute, all.timeout)
	require.True(t, all.tty)
	require.False(t, all.TTY(false).tty)
	require.False(t, base.tty)

	for name, bad := range map[string]BoxCommand{
		"no name":           Command(""),
		"NUL":               Command("a", "\x00"),
		"negative timeout":  Command("a").Timeout(-1),
		"bad variable":      Command("a").Env("a=b", "c"),
		"variable, no name": Command("a").Env("", "c"),
	} {
		require.ErrorIs(t, bad.check(), ErrInvalidArgument, name)
	}
}
