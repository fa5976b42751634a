package ruletrace

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	GuardMain()
	if dir := os.Getenv(childVariable); dir != "" {
		child(dir)
	}
	if os.Getenv(insideVariable) != "" {
		inside()
	}
	goleak.VerifyTestMain(m)
}
