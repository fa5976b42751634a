// Command pathtrace explains where a packet went: hop by hop, translation by
// translation, there and back.
package main

import (
	"os"

	"github.com/pathtrace/pathtrace/internal/cli"
	"github.com/pathtrace/pathtrace/ruletrace"
)

func main() {
	ruletrace.GuardMain() // does not return in the child that guards nf_log
	os.Exit(cli.Main(os.Args[1:]))
}
