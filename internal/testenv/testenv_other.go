//go:build !linux

package testenv

import "errors"

func privileged() error { return errors.ErrUnsupported }
