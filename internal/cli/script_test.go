//go:build linux

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

// TestScript runs pathtrace as its users do, in the networks of the demo. The
// scripts know two commands more than testscript has: "status N COMMAND..."
// wants that exit status, and "schema FILE" wants the report in FILE to be as
// docs/report.schema.json says. The condition "drops" says that the kernel tells
// of its drops here.
func TestScript(t *testing.T) {
	t.Parallel()
	isolated(t)
	for _, tool := range []string{"ip6tables-nft", "iptables-legacy", "unshare", "nsenter"} {
		testenv.Tool(t, tool)
	}
	schema, err := filepath.Abs(filepath.Join("..", "..", "docs", "report.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", raceSettings())
			env.Setenv("LC_ALL", "C.UTF-8")
			env.Setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
			env.Setenv("SCHEMA", schema)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": status, "schema": validate},
		Condition: func(name string) (bool, error) {
			if name != "drops" {
				return false, fmt.Errorf("unknown condition %s", name)
			}
			sensor, err := skbdrop.Open(skbdrop.Config{Proto: packet.TCP, Ports: []uint16{1}})
			if err != nil {
				return false, nil //nolint:nilerr // that is the answer
			}
			return true, sensor.Close()
		},
	})
}

// status is the command of scripts that wants an exit status.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// validate is the command of scripts that holds a report against the schema.
func validate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: schema FILE")
	}
	var schema jsonschema.Schema
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(ts.Getenv("SCHEMA"))), &schema))
	resolved, err := schema.Resolve(nil)
	ts.Check(err)
	var value any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &value))
	ts.Check(resolved.Validate(value))
}
