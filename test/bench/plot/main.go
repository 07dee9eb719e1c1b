package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

// run is main with an error.
func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: plot RESULTS.json PICTURE.svg")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var r results
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("read %s: %w", args[0], err)
	}
	picture, err := draw(r)
	if err != nil {
		return fmt.Errorf("draw %s: %w", args[0], err)
	}
	return picture.Save(width, height, args[1])
}
