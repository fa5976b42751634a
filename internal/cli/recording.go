package cli

import (
	"bytes"
	_ "embed"
	"fmt"
	"strings"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/report"
)

// recording is the bundle of the demo's first scenario. TestRecording makes it.
//
//go:embed recording.pcapng.zst
var recording []byte

// What the recording is of: the name and the summary of the scenario.
const (
	recordedScenario = "ipv6-masquerade"
	recordedSummary  = "ping6 from a container through masquerade and NPTv6"
)

// replayRecording prints the report of the recording, and says before that it is
// one, and why.
func replayRecording(env *environment, output choice, why error) error {
	file, err := capture.NewFile("the recording", bytes.NewReader(recording))
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it is in memory
	run, err := evidence.Read(file)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("pathtrace: this is a recording, made on %s, of the network %s: %s. None was built here: %v",
		run.Started.Format(time.DateOnly), recordedScenario, recordedSummary, why)
	for line := range strings.SplitSeq(text, "\n") {
		if _, err := fmt.Fprintln(env.err, report.Escape(line)); err != nil {
			return err
		}
	}
	flags := analyzeFlags{output: outputFlags{output: output, detail: choice{value: string(report.DetailSummary)}, color: choice{value: "auto"}}}
	return flags.replay(env, run)
}
