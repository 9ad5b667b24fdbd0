package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

// volumeFlags are the flags for what is mounted in a new box.
type volumeFlags struct {
	volumes []string
	mounts  []string
	tmpfs   []string
}

func (o *volumeFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVarP(&o.volumes, "volume", "v", nil, "mount a folder or file of this machine, or a named volume: HOST|NAME:PATH[:OPTION,...]; options are ro, owners=kept|mapped, locks, nocopy. PATH alone is a new volume")
	f.StringArrayVar(&o.mounts, "mount", nil, "the same in another form: type=bind|volume|tmpfs,src=HOST|NAME,dst=PATH[,readonly][,owners=kept|mapped][,locks][,volume-nocopy][,tmpfs-size=64m][,tmpfs-mode=1777][,exec]")
	f.StringArrayVar(&o.tmpfs, "tmpfs", nil, "mount an empty file system in the box's memory: PATH[:size=64m,mode=1777,exec,ro]")
	_ = c.RegisterFlagCompletionFunc("volume", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveDefault | cobra.ShellCompDirectiveNoSpace // a path of this machine comes first
	})
	_ = c.RegisterFlagCompletionFunc("mount", fixed("type=bind,src=", "type=volume,src=", "type=tmpfs,dst="))
	_ = c.RegisterFlagCompletionFunc("tmpfs", cobra.NoFileCompletions)
}

// spec is what the flags say.
func (o *volumeFlags) spec(what string) (volumes []runtime.VolumeSpec, tmpfs []runtime.TmpfsSpec, err error) {
	for _, s := range o.volumes {
		v, err := parseVolume(s)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: -v %q: %w", what, s, err)
		}
		volumes = append(volumes, v)
	}
	for _, s := range o.mounts {
		v, t, err := parseMount(s)
		switch {
		case err != nil:
			return nil, nil, fmt.Errorf("%s: --mount %q: %w", what, s, err)
		case t != nil:
			tmpfs = append(tmpfs, *t)
		default:
			volumes = append(volumes, *v)
		}
	}
	for _, s := range o.tmpfs {
		t, err := parseTmpfs(s)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: --tmpfs %q: %w", what, s, err)
		}
		tmpfs = append(tmpfs, t)
	}
	return volumes, tmpfs, nil
}

var (
	errVolumeForm = errors.New("want HOST:PATH, NAME:PATH or /PATH")
	errColons     = errors.New("too many colons: a path with a colon in it can be given with --mount")
	errRoot       = errors.New("nothing can be mounted over the box's root: --rootfs gives it another")
)

// checkPlace refuses to mount over the root, in the words of this program's flags. The
// runtime knows what else is no place.
func checkPlace(guest string) error {
	if strings.HasPrefix(guest, "/") && path.Clean(guest) == "/" {
		return errRoot
	}
	return nil
}

// parseVolume reads a volume as docker's -v has it.
func parseVolume(s string) (v runtime.VolumeSpec, err error) {
	parts := strings.Split(s, ":")
	switch len(parts) {
	case 1:
		if v.GuestPath = parts[0]; !strings.HasPrefix(v.GuestPath, "/") {
			return v, errVolumeForm
		}
	case 2, 3:
		if parts[0] == "" {
			return v, errVolumeForm
		}
		v.GuestPath = parts[1]
		if err := setSource(&v, parts[0]); err != nil {
			return v, err
		}
	default:
		return v, errColons
	}
	if v.GuestPath == "" {
		return v, errVolumeForm
	}
	if len(parts) == 3 {
		if strings.HasPrefix(parts[2], "/") { // HOST has the other one
			return v, errColons
		}
		chosen := choices{}
		for _, option := range strings.Split(parts[2], ",") {
			if err := volumeOption(&v, option, chosen); err != nil {
				return v, err
			}
		}
	}
	if v.NoCopy && v.HostPath != "" {
		return v, errors.New("nocopy is for volumes of the home, not for what lies on this machine: leave it out")
	}
	return v, checkPlace(v.GuestPath)
}

// setSource tells a path of this machine from the name of a volume, as docker does.
func setSource(v *runtime.VolumeSpec, source string) error {
	switch {
	case strings.HasPrefix(source, "/"), source == ".", source == "..", strings.HasPrefix(source, "./"), strings.HasPrefix(source, "../"):
		v.HostPath = source
		return nil
	case source == "~", strings.HasPrefix(source, "~/"):
		return fmt.Errorf("%q: only a shell knows ~, at the start of a word: write the path itself, or $HOME", source)
	case strings.Contains(source, "/"), strings.HasPrefix(source, "."):
		return fmt.Errorf("%q is no name of a volume; for a folder here write ./%s", source, source)
	}
	v.Name = source
	return nil
}

// volumeOption applies one of the words after the second colon. Those of docker that
// mean something for containers only are taken, and do nothing.
func volumeOption(v *runtime.VolumeSpec, option string, chosen choices) error {
	switch option {
	case "ro", "rw":
		v.ReadOnly = option == "ro"
		return chosen.add("ro", option, option)
	case "z", "Z", "cached", "delegated", "consistent":
	case "nocopy":
		v.NoCopy = true
	case "locks":
		v.SharedLocks = true
	default:
		owners, ok := strings.CutPrefix(option, "owners=")
		if v.Owners = runtime.VolumeOwners(owners); ok && (v.Owners == runtime.OwnersKept || v.Owners == runtime.OwnersMapped) {
			return chosen.add("owners", owners, option)
		}
		return fmt.Errorf("there is no option %q: choose ro, rw, owners=kept, owners=mapped, locks or nocopy", option)
	}
	return nil
}

// parseMount reads a mount as docker's --mount has it. One of the results is nil.
func parseMount(s string) (*runtime.VolumeSpec, *runtime.TmpfsSpec, error) {
	if strings.ContainsAny(s, "\r\n") { // of CSV's lines only the first would be read
		return nil, nil, errors.New("there is a line break in it: write all on one line")
	}
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return nil, nil, errors.New("want type=bind|volume|tmpfs,src=…,dst=…")
	}
	kind, source := "volume", ""
	var v runtime.VolumeSpec
	var t runtime.TmpfsSpec
	only := map[string]string{} // keys that one kind alone has
	chosen := choices{}
	for _, field := range fields {
		key, value, given := strings.Cut(field, "=")
		key = mountKey(key)
		if err := chosen.add(key, mountValue(key, value, given), field); err != nil {
			return nil, nil, err
		}
		switch key {
		case "type":
			kind = value
		case "src":
			source = value
		case "dst":
			v.GuestPath = value
		case "readonly":
			v.ReadOnly, err = flagValue(value, given)
		case "locks":
			v.SharedLocks, err = flagValue(value, given)
		case "owners":
			v.Owners = runtime.VolumeOwners(value)
		case "volume-nocopy":
			only[key] = "volume"
			v.NoCopy, err = flagValue(value, given)
		case "tmpfs-size":
			only[key] = "tmpfs"
			t.SizeBytes, err = parseBytes(value)
		case "tmpfs-mode":
			only[key] = "tmpfs"
			t.Mode, err = parseMode(value)
		case "exec":
			only[key] = "tmpfs"
			t.Exec, err = flagValue(value, given)
		case "consistency":
		default:
			return nil, nil, fmt.Errorf("there is no key %q: choose type, src, dst, readonly, owners, locks, volume-nocopy, tmpfs-size, tmpfs-mode or exec", key)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	for key, of := range only {
		if kind != of {
			return nil, nil, fmt.Errorf("%s is for type=%s", key, of)
		}
	}
	if v.GuestPath == "" {
		return nil, nil, errors.New("no path in the box: add dst=PATH")
	}
	if err := checkPlace(v.GuestPath); err != nil {
		return nil, nil, err
	}
	switch kind {
	case "bind":
		if source == "" {
			return nil, nil, errors.New("no folder or file of this machine: add src=PATH")
		}
		v.HostPath = source
		return &v, nil, nil
	case "volume":
		if strings.Contains(source, "/") || strings.HasPrefix(source, ".") {
			return nil, nil, fmt.Errorf("%q is no name of a volume: add type=bind for a path of this machine", source)
		}
		v.Name = source
		return &v, nil, nil
	case "tmpfs":
		if source != "" || v.SharedLocks || v.Owners != "" {
			return nil, nil, errors.New("src, locks and owners are not for type=tmpfs")
		}
		t.GuestPath, t.ReadOnly = v.GuestPath, v.ReadOnly
		return nil, &t, nil
	}
	return nil, nil, fmt.Errorf("there is no type %q: choose bind, volume or tmpfs", kind)
}

// mountKey is the one name of a key that has several.
func mountKey(key string) string {
	switch key = strings.ToLower(key); key {
	case "source":
		return "src"
	case "destination", "target":
		return "dst"
	case "ro":
		return "readonly"
	}
	return key
}

// mountValue is the one form of a value that means true or false, where a key takes one.
func mountValue(key, value string, given bool) string {
	switch key {
	case "readonly", "locks", "volume-nocopy", "exec":
		if on, err := flagValue(value, given); err == nil {
			return strconv.FormatBool(on)
		}
	}
	return value
}

func flagValue(value string, given bool) (bool, error) {
	if !given {
		return true, nil
	}
	on, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("%q: want true or false", value)
	}
	return on, nil
}

// parseTmpfs reads what docker's --tmpfs takes.
func parseTmpfs(s string) (t runtime.TmpfsSpec, err error) {
	place, options, given := strings.Cut(s, ":")
	t.GuestPath = place
	if first, _, more := strings.Cut(place, ","); first == "" || more { // a comma belongs to options
		return t, errors.New("want PATH[:size=64m,mode=1777,exec,ro]")
	}
	if err := checkPlace(place); err != nil || !given {
		return t, err
	}
	chosen := choices{}
	for _, option := range strings.Split(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		about, meaning := key, value
		switch key {
		case "size":
			t.SizeBytes, err = parseBytes(value)
			meaning = fmt.Sprint(t.SizeBytes)
		case "mode":
			t.Mode, err = parseMode(value)
			meaning = fmt.Sprint(t.Mode)
		case "exec", "noexec":
			about, meaning = "exec", key
			t.Exec = key == "exec"
		case "ro", "rw":
			about, meaning = "ro", key
			t.ReadOnly = key == "ro"
		case "nosuid", "nodev": // as it is
		default:
			return t, fmt.Errorf("there is no option %q: choose size=, mode=, exec, noexec, ro or rw", option)
		}
		if err != nil {
			return t, fmt.Errorf("%s: %w", key, err)
		}
		if err := chosen.add(about, meaning, option); err != nil {
			return t, err
		}
	}
	return t, nil
}

func parseMode(s string) (uint32, error) {
	v, err := strconv.ParseUint(s, 8, 32)
	if err != nil || v > 0o7777 {
		return 0, fmt.Errorf("%q: want an octal number such as 1777", s)
	}
	return uint32(v), nil
}

// parseBytes reads a size of which a plain number is bytes.
func parseBytes(s string) (int64, error) {
	v, err := parseSize(s, 'b', 1<<62)
	if err != nil {
		return 0, fmt.Errorf("%q: want %w", s, err)
	}
	return v, nil
}
