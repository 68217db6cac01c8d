// Command defaults finds out what the API server sets in objects that leave fields out, and writes it as a table.
//
//	defaults table     prints the table that internal/schema/defaults embeds
//	defaults samples   prints objects as they are sent and as they are stored, one JSON pair a line, to compare with
//
// It runs the defaulting functions of the server's own scheme over objects generated from the types of the API, and keeps what
// they did. Nothing is started, and the API server's validation is not in the way.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "defaults:", err)
		os.Exit(1)
	}
}

// run does what the first argument says.
func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("say what to print: table or samples")
	}
	flags := flag.NewFlagSet("defaults", flag.ContinueOnError)
	seed := flags.Uint64("seed", 1, "where the random objects begin")
	count := flags.Int("count", 200, "how many random objects of each kind")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	server, err := newServer()
	if err != nil {
		return err
	}
	values, err := findConstants()
	if err != nil {
		return err
	}
	g := newGenerator(*seed, values)
	out := bufio.NewWriter(os.Stdout)
	switch args[0] {
	case "table":
		err = writeTable(out, server, g, *count)
	case "samples":
		err = writeSamples(out, server, g, *count)
	default:
		err = fmt.Errorf("there is no %q: say table or samples", args[0])
	}
	if err != nil {
		return err
	}
	return out.Flush()
}
