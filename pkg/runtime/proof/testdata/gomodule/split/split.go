// Package split finds words in text.
package split

import "strings"

// Words are the words of a line, in small letters.
func Words(line string) []string {
	words := strings.FieldsFunc(line, func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') })
	for i := range words {
		words[i] = strings.ToLower(words[i])
	}
	return words
}
