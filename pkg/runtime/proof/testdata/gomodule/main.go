// Command words counts the words on its standard input.
package main

import (
	"bufio"
	"os"
	"strconv"

	"words.test/words/split"
	"words.test/words/tally"
)

func main() {
	counts := tally.New()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		for _, w := range split.Words(in.Text()) {
			counts.Add(w)
		}
	}
	for _, c := range counts.Most() {
		os.Stdout.WriteString(strconv.Itoa(c.N) + " " + c.Word + "\n")
	}
}
