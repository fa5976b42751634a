package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/pathtrace/pathtrace/internal/offline"
)

// stdinName is how reports call standard input.
const stdinName = "stdin"

// spoolPatience is how long a program that writes to a pipe may take to end it
// when it was interrupted together with this one.
const spoolPatience = 2 * time.Second

// spool puts standard input, "-" among the sources, and pipes into temporary files,
// because captures are read more than once. It tells whether ctx ended before
// they did; the files have what came until then. unspool removes them.
func spool(ctx context.Context, env *environment, sources []offline.Source) (stopped bool, err error) {
	for i := range sources {
		s := &sources[i]
		from := func() (io.ReadCloser, error) { return os.Open(s.Name) }
		switch {
		case s.Path == "-":
			s.Name = stdinName
			from = func() (io.ReadCloser, error) { return io.NopCloser(env.in), nil }
		case !isPipe(s.Path):
			continue
		}
		early, err := keep(ctx, s, from)
		stopped = stopped || early
		if err != nil {
			return stopped, fmt.Errorf("keep what comes from %s: %w", s.Name, err)
		}
	}
	return stopped, nil
}

// isPipe reports whether a file can be read only once.
func isPipe(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode()&fs.ModeNamedPipe != 0
}

// keep makes a temporary file of what comes, and that the path of a source. It tells
// whether ctx ended first.
func keep(ctx context.Context, s *offline.Source, from func() (io.ReadCloser, error)) (stopped bool, err error) {
	file, err := os.CreateTemp("", "pathtrace-*")
	if err != nil {
		return false, err
	}
	s.Path = file.Name()
	copied := make(chan error, 1)
	go func() { copied <- copyAll(file, from) }()
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
	return stopped, errors.Join(err, file.Close())
}

// copyAll opens a source, which for a pipe takes until somebody writes to it, and
// copies all of it.
func copyAll(to io.Writer, from func() (io.ReadCloser, error)) error {
	r, err := from()
	if err != nil {
		return err
	}
	_, err = io.Copy(to, r)
	return errors.Join(err, r.Close())
}

// unspool removes what spool made.
func unspool(sources []offline.Source) {
	for i := range sources {
		if sources[i].Path != sources[i].Name {
			os.Remove(sources[i].Path) //nolint:errcheck // the system clears its folder of temporary files
		}
	}
}
