package ruletrace

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	GuardMain()
	goleak.VerifyTestMain(m)
}
