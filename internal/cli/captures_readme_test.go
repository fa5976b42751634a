//go:build linux

package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// capturesSample is what analyze prints in the documentation.
var capturesSample = regexp.MustCompile("(?s)(<!-- captures -->\n```\n).*?(```\n<!-- /captures -->\n)")

// TestCapturesSample analyzes captures again that README.md shows the table of;
// -update writes what it is now.
func TestCapturesSample(t *testing.T) {
	t.Setenv("LC_ALL", "C.UTF-8")
	o := newOffice(t)
	o.connect("198.51.100.7", 40314, 61002, 80, true)
	o.ping("192.0.2.80", 38, 10, func(n int) bool { return n > 3 && n < 7 })
	o.connect("198.51.100.7", 40312, 61001, 443, false)
	for i := range o.up {
		o.up[i].at = o.up[i].at.Add(-2340 * time.Millisecond)
	}
	cnt, up := o.pair()
	status, stdout, stderr := analyzeCommand(t.Context(), nil, cnt, up)
	if status != exitOK || stderr != "" {
		t.Fatalf("status %d: %s", status, stderr)
	}
	name := filepath.Join("..", "..", "README.md")
	old, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(capturesSample.FindAll(old, -1)); n != 1 {
		t.Fatalf("README.md has %d samples, want 1", n)
	}
	got := capturesSample.ReplaceAll(old, []byte("${1}$$ pathtrace analyze cnt.pcap up.pcap\n"+stdout+"${2}"))
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(old), string(got)); diff != "" {
		t.Errorf("README.md (-is +should be; go test ./internal/cli -run TestCapturesSample -update writes it):\n%s", diff)
	}
}
