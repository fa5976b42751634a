package testenv

import (
	"runtime"
	"testing"
)

// outcome is a test that only remembers how it ended.
type outcome struct {
	testing.TB
	failed, skipped bool
}

func (o *outcome) Helper()               {}
func (o *outcome) Fatalf(string, ...any) { o.failed = true; runtime.Goexit() }
func (o *outcome) Skip(...any)           { o.skipped = true; runtime.Goexit() }

func run(f func(testing.TB)) *outcome {
	o := &outcome{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(o)
	}()
	<-done
	return o
}

func TestSkip(t *testing.T) {
	tests := []struct {
		name, ci        string
		f               func(testing.TB)
		failed, skipped bool
	}{
		{"missing tool at home", "", func(t testing.TB) { Tool(t, "no-such-tool") }, false, true},
		{"missing tool in CI", "true", func(t testing.TB) { Tool(t, "no-such-tool") }, true, false},
		{"CI=false is no CI", "false", func(t testing.TB) { Skip(t, "reason") }, false, true},
		{"optional feature in CI", "true", func(t testing.TB) { Skip(t, NoVLAN) }, false, true},
		{"present tool in CI", "true", func(t testing.TB) { Tool(t, "go") }, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("CI", tt.ci)
			got := run(tt.f)
			if got.failed != tt.failed || got.skipped != tt.skipped {
				t.Errorf("failed %v, skipped %v; want %v, %v", got.failed, got.skipped, tt.failed, tt.skipped)
			}
		})
	}
}
