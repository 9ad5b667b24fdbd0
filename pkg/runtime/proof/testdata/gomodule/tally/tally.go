// Package tally counts.
package tally

import "sort"

// Counts says how often each word was added.
type Counts map[string]int

// Count is that of one word.
type Count struct {
	Word string
	N    int
}

// New has counted nothing yet.
func New() Counts { return Counts{} }

// Add counts a word.
func (c Counts) Add(word string) { c[word]++ }

// Most are all counts, the largest first, and in alphabetical order where they are the same.
func (c Counts) Most() (list []Count) {
	for w, n := range c {
		list = append(list, Count{w, n})
	}
	sort.Slice(list, func(i, j int) bool {
		a, b := list[i], list[j]
		return a.N > b.N || a.N == b.N && a.Word < b.Word
	})
	return list
}
