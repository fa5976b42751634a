//go:build linux

package lab

import "testing"

func TestNotStaged(t *testing.T) {
	t.Parallel()
	for _, scenario := range Scenarios() {
		for _, fault := range scenario.Faults {
			if why, listed := NotStaged[fault.outcome.Code]; listed {
				t.Errorf("%s in %s is %s, which is said not to be staged: %s", fault.Name, scenario.Name, fault.outcome.Code, why)
			}
		}
	}
}
