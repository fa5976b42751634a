package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pathtrace/pathtrace/internal/evidence"
)

// saveFlags are the flags of commands whose evidence can be saved.
type saveFlags struct {
	file    string
	payload bool
}

// register adds the flags to a command that traces.
func (s *saveFlags) register(cmd *cobra.Command) {
	s.registerFile(cmd)
	cmd.Flags().BoolVar(&s.payload, "save-payload", false, "save the payload of all packets, too")
}

// registerFile adds the flag for the file, which is all where no packet is seen.
func (s *saveFlags) registerFile(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.file, "save", "", "save the evidence to `FILE`, a pcapng file for \"pathtrace analyze\" and Wireshark; compressed when it ends in .zst")
}

// check refuses a file that cannot be written, before anything is traced.
func (s *saveFlags) check() error {
	if s.file == "" {
		if s.payload {
			return errors.New("--save-payload says what --save keeps, and there is none")
		}
		return nil
	}
	if plain, gzip := strings.CutSuffix(s.file, ".gz"); gzip {
		return fmt.Errorf("--save %s: gzip is not written; %s.zst would be compressed, by Zstandard", s.file, plain)
	}
	if info, err := os.Lstat(s.file); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("--save %s: is no regular file", s.file)
	}
	return creatable("--save", s.file)
}

// create begins the bundle, nil when none is wanted. The caller closes it.
func (s *saveFlags) create() (*evidence.Writer, error) {
	if s.file == "" {
		return nil, nil
	}
	return evidence.Create(s.file, evidence.WriterConfig{Payload: s.payload, Now: time.Now})
}

// remove removes a bundle of which nothing can be explained.
func (s *saveFlags) remove() error {
	if s.file == "" {
		return nil
	}
	return os.Remove(s.file)
}

// list begins the bundle of a command that sends no probe.
func (s *saveFlags) list(l *evidence.Listing) (*evidence.Writer, error) {
	w, err := s.create()
	if err != nil {
		return nil, err
	}
	w.List(l)
	return w, nil
}

// keep saves a listing that is complete, when that is wanted.
func (s *saveFlags) keep(l *evidence.Listing) error {
	w, err := s.list(l)
	if err != nil {
		return err
	}
	w.Listed()
	if err := w.Close(); err != nil {
		return errors.Join(err, os.Remove(s.file)) // without all of the listing nothing can be printed
	}
	return nil
}
