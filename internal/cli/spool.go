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
// because captures are read more than once. It returns these, also with an error, and
// whether ctx ended before the input did; the files have what came until then.
func spool(ctx context.Context, env *environment, sources []offline.Source) (kept []string, stopped bool, err error) {
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
		file, early, err := keep(ctx, from)
		if file != "" {
			s.Path, kept = file, append(kept, file)
		}
		stopped = stopped || early
		if err != nil {
			return kept, stopped, fmt.Errorf("keep what comes from %s: %w", s.Name, err)
		}
	}
	return kept, stopped, nil
}

// isPipe reports whether a file can be read only once.
func isPipe(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode()&fs.ModeNamedPipe != 0
}

// keep makes a temporary file of what comes. It tells whether ctx ended first.
func keep(ctx context.Context, from func() (io.ReadCloser, error)) (name string, stopped bool, err error) {
	file, err := os.CreateTemp("", "pathtrace-*")
	if err != nil {
		return "", false, err
	}
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
	return file.Name(), stopped, errors.Join(err, file.Close())
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

// removeAll removes the temporary files that spool made.
func removeAll(files []string) {
	for _, file := range files {
		os.Remove(file) //nolint:errcheck // the system clears its folder of temporary files
	}
}
