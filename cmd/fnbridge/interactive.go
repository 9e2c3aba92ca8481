package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
)

// confirm asks a question on the terminal. Whatever is not a yes is a no; ctx's end is an error.
func (c console) confirm(ctx context.Context, question string) (bool, error) {
	fmt.Fprint(c.err, question+" [y/N] ")
	answer := make(chan string, 1)
	go func() { // ends with the line, or with the process: a read from a terminal cannot be called off
		line, _ := bufio.NewReader(c.in).ReadString('\n')
		answer <- line
	}()
	select {
	case line := <-answer:
		line = strings.ToLower(strings.TrimSpace(line))
		return line == "y" || line == "yes", nil
	case <-ctx.Done():
		fmt.Fprintln(c.err)
		return false, errors.New("interrupted; nothing was changed")
	}
}
