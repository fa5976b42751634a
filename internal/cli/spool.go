package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/pathtrace/pathtrace/internal/offline"
)

// stdinName is how reports call standard input.
const stdinName = "stdin"

// spoolPatience is how long a program that writes to a pipe may take to end it
// when it was interrupted together with this one.
const spoolPatience = 2 * time.Second

// spool puts standard input, "-" among the sources, into a temporary file,
// because captures are read more than once. It tells whether ctx ended before
// the input did; the file has what came until then. unspool removes it.
func spool(ctx context.Context, env *environment, sources []offline.Source) (stopped bool, err error) {
	for i := range sources {
		if sources[i].Path != "-" {
			continue
		}
		file, err := os.CreateTemp("", "pathtrace-stdin-*")
		if err != nil {
			return false, fmt.Errorf("keep standard input: %w", err)
		}
		sources[i].Path, sources[i].Name = file.Name(), stdinName
		copied := make(chan error, 1)
		go func() {
			_, err := io.Copy(file, env.in)
			copied <- err
		}()
		select {
		case err = <-copied:
		case <-ctx.Done():
			stopped = true
			select {
			case err = <-copied:
			case <-time.After(spoolPatience):
			}
		}
		// What still comes finds the file closed.
		if err := errors.Join(err, file.Close()); err != nil {
			return stopped, fmt.Errorf("keep standard input: %w", err)
		}
	}
	return stopped, nil
}

// unspool removes what spool made.
func unspool(sources []offline.Source) {
	for i := range sources {
		if sources[i].Name == stdinName {
			os.Remove(sources[i].Path) //nolint:errcheck // the system clears its folder of temporary files
		}
	}
}
