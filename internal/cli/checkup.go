package cli

import (
	"io"

	"github.com/pathtrace/pathtrace/internal/doctor"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/report"
)

// examined is the checkup of what doctor has read.
func examined(l *evidence.Listing) *report.Checkup {
	found := doctor.Examine(*l.Examined)
	return &report.Checkup{
		Schema: report.CheckupSchema, Tool: report.Tool{Version: l.Version}, Source: l.Source,
		Findings: found.Findings, Evidence: found.Evidence, Checked: found.Checked, Unchecked: found.Unchecked,
	}
}

// checkupStatus is the exit status for a checkup.
func checkupStatus(c *report.Checkup) int {
	if c.Failed() {
		return exitFailed
	}
	return exitOK
}

// printCheckup prints a checkup as text or JSON.
func printCheckup(w io.Writer, c *report.Checkup, output string, color choice) error {
	if output == "json" {
		return report.CheckupJSON(w, c)
	}
	return report.CheckupText(w, c, report.TextOptions{Unicode: localeIsUTF8(), Color: colored(w, color)})
}
