// Command pathtrace explains where a packet went: hop by hop, translation by
// translation, there and back.
package main

import (
	"os"

	"github.com/pathtrace/pathtrace/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
