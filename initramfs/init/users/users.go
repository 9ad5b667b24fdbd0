// Package users resolves "name|uid[:group|gid]" by the files of an image, the
// way Docker does, without os/user and with bounds on what an image can cost.
package users

import (
	"strconv"
	"strings"
)

// Bounds on input, which comes out of an image.
const (
	MaxFile   = 16 << 20 // bytes of a passwd or group file that are looked at
	maxGroups = 65536    // NGROUPS_MAX
	maxID     = 1<<32 - 2
)

// User is who a program runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32 // supplementary, GID first
	Home     string   // "/" when the files do not know
}

// UnknownError says which part of a user specification the image does not know.
type UnknownError struct{ Kind, Name string }

func (e *UnknownError) Error() string {
	return "no " + e.Kind + " " + strconv.Quote(e.Name) + " in the image"
}

// Resolve looks spec up in the contents of /etc/passwd and /etc/group. A number
// needs no entry; its group is then 0. Without a group the user's own primary
// group and all groups that list the user count; with one, only that one.
func Resolve(spec string, passwd, group []byte) (User, error) {
	name, groupName, hasGroup := strings.Cut(spec, ":")
	if name == "" {
		name = "0"
	}
	uid, numeric, err := number("user", name)
	if err != nil {
		return User{}, err
	}
	u := User{UID: uid, Home: "/"}
	entry, found := findUser(passwd, name, uid, numeric)
	switch {
	case found:
		u.UID, u.GID = entry.uid, entry.gid
		if entry.home != "" {
			u.Home = entry.home
		}
	case !numeric:
		return User{}, &UnknownError{"user", name}
	}
	if hasGroup && groupName != "" {
		gid, numeric, err := number("group", groupName)
		if err != nil {
			return User{}, err
		}
		if !numeric {
			var ok bool
			if gid, ok = findGroup(group, groupName); !ok {
				return User{}, &UnknownError{"group", groupName}
			}
		}
		u.GID = gid
		u.Groups = []uint32{gid}
		return u, nil
	}
	u.Groups = []uint32{u.GID}
	if found {
		u.Groups = appendMemberships(u.Groups, group, entry.name)
	}
	return u, nil
}

// number parses an id. A string of digits that is no id is an error, not a name.
func number(kind, s string) (id uint32, numeric bool, err error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false, nil
		}
	}
	v, e := strconv.ParseUint(s, 10, 32)
	if e != nil || v > maxID {
		return 0, true, &UnknownError{kind, s}
	}
	return uint32(v), true, nil
}

type account struct {
	name     string
	uid, gid uint32
	home     string
}

func findUser(passwd []byte, name string, uid uint32, numeric bool) (account, bool) {
	for line := range lines(passwd) {
		// name:password:uid:gid:comment:home:shell, see passwd(5)
		f := fields(line, 7)
		if len(f) < 4 {
			continue
		}
		id, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil || id > maxID || gid > maxID {
			continue
		}
		if numeric && uint32(id) != uid || !numeric && f[0] != name {
			continue
		}
		a := account{name: strings.Clone(f[0]), uid: uint32(id), gid: uint32(gid)}
		if len(f) > 5 {
			a.home = strings.Clone(f[5])
		}
		return a, true
	}
	return account{}, false
}

func findGroup(group []byte, name string) (uint32, bool) {
	for line := range lines(group) {
		f := fields(line, 4) // name:password:gid:members, see group(5)
		if len(f) < 3 || f[0] != name {
			continue
		}
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil && gid <= maxID {
			return uint32(gid), true
		}
	}
	return 0, false
}

// appendMemberships adds the groups that list the user.
func appendMemberships(list []uint32, group []byte, user string) []uint32 {
	if user == "" {
		return list
	}
	seen := map[uint32]bool{list[0]: true}
	for line := range lines(group) {
		f := fields(line, 4)
		if len(f) < 4 {
			continue
		}
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil || gid > maxID || seen[uint32(gid)] || !member(f[3], user) {
			continue
		}
		if len(list) == maxGroups {
			break
		}
		seen[uint32(gid)] = true
		list = append(list, uint32(gid))
	}
	return list
}

func member(list, user string) bool {
	for list != "" {
		var m string
		m, list, _ = strings.Cut(list, ",")
		if strings.TrimSpace(m) == user {
			return true
		}
	}
	return false
}

// lines yields the lines of a file that are neither empty nor comments.
func lines(file []byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		rest := string(file[:min(len(file), MaxFile)])
		for rest != "" {
			var line string
			line, rest, _ = strings.Cut(rest, "\n")
			line = strings.TrimSpace(line)
			if line != "" && line[0] != '#' && !yield(line) {
				return
			}
		}
	}
}

// fields splits at colons into at most n parts; the last one keeps the rest.
func fields(line string, n int) []string { return strings.SplitN(line, ":", n) }
