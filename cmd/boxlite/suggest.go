package main

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// maxLike is how many words a wrong one is taken for at most.
const maxLike = 3

// otherFlags and otherCommands are what people call those that neither the letters nor
// the beginning of the word lead to.
var (
	otherFlags    = map[string]string{"port": "publish", "ports": "publish", "ram": "memory", "cwd": "workdir", "dir": "workdir"}
	otherCommands = map[string]string{"remove": "rm", "delete": "rm", "del": "rm", "list": "ls", "show": "inspect", "add": "create", "new": "create"}
)

// didYouMean asks for one of some words; it is empty where there are none.
func didYouMean(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return "did you mean " + oneOf(words) + "? "
}

// oneOf lists words with "or" before the last.
func oneOf[T ~string](words []T) string {
	var b strings.Builder
	for i, w := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(string(w))
	}
	return b.String()
}

// likeCommands are the commands below c that a word may have been meant for.
func likeCommands(c *cobra.Command, word string) []string {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != word { // it was not meant where it stands
			names = append(names, sub.Name())
		}
	}
	return like(word, names, otherCommands)
}

// likeFlags are the flags that an unknown one may have been meant for. A long name
// after a single dash is one of them, too.
func likeFlags(flags *pflag.FlagSet, unknown *pflag.NotExistError) []string {
	word := unknown.GetSpecifiedName()
	if short := unknown.GetSpecifiedShortnames(); short != "" {
		if word, _, _ = strings.Cut(short, "="); len(word) < 2 {
			return nil
		}
	}
	var names []string
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	names = like(word, names, otherFlags)
	for i := range names {
		names[i] = "--" + names[i]
	}
	return names
}

// like are the names that a word is near to, nearest first, or that other has for it.
func like(word string, names []string, other map[string]string) []string {
	word = strings.ToLower(word)
	far := make(map[string]int)
	for _, name := range names {
		d := distance(word, name)
		switch {
		case word == "":
			continue
		case name == other[word]:
			d = 0
		case strings.HasPrefix(name, word), len(name) > 2 && strings.HasPrefix(word, name):
			d = 1 // however long the rest is
		case len(word) < 2 || d > max(1, min(2, len(word)/3)): // of few letters much would be near
			continue
		}
		far[name] = d
	}
	near := slices.Collect(maps.Keys(far))
	slices.SortFunc(near, func(a, b string) int { return cmp.Or(cmp.Compare(far[a], far[b]), cmp.Compare(a, b)) })
	return near[:min(len(near), maxLike)]
}

// distance is how many letters have to be put in, left out, changed, or exchanged with
// the next, to make b of a.
func distance(a, b string) int {
	before, last, row := []int(nil), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, change)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, make([]int, len(b)+1)
	}
	return last[len(b)]
}
