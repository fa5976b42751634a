//go:build !linux

package testenv

import "errors"

func privileged() error { return errors.ErrUnsupported }

func initialUser() bool { return false }
