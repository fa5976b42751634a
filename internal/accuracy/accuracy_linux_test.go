package accuracy_test

import (
	"bytes"
	"flag"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/internal/accuracy"
	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/synth"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
)

var (
	seed  = flag.Uint64("seed", 1, "what TestAccuracy draws its networks from")
	runs  = flag.Int("runs", 1, "how many runs TestAccuracy makes for each code")
	write = flag.String("write", "", "the `FILE` that TestAccuracy writes the scoreboard to")
)

// The least that is good enough, for each code.
const (
	precision = 0.98
	recall    = 0.95
	// joinRecall is that of the join of captures, which must not be wrong at all.
	joinRecall = 0.995
)

// TestAccuracy draws networks, broken and healthy, and compares what a run says
// with what was built. Each is a test of its own with a number, so that it can
// be repeated: make accuracy ONLY=12.
func TestAccuracy(t *testing.T) {
	testenv.Privileged(t)
	for _, s := range lab.Scenarios() {
		for _, backend := range s.Backends {
			for _, tool := range s.Tools(lab.Options{Backend: backend}) {
				testenv.Tool(t, tool)
			}
		}
	}
	testenv.Tool(t, "nft")
	plan := accuracy.Plan{Seed: *seed, PerCode: *runs, Healthy: 10 * *runs, Pairs: 4 * *runs}
	cases := accuracy.Draw(plan)
	t.Logf("%d runs, drawn from seed %d", len(cases), plan.Seed)
	results := make([]accuracy.Result, len(cases))
	var done []accuracy.Result
	started := time.Now()
	t.Run("runs", func(t *testing.T) {
		for _, c := range cases {
			t.Run(strconv.Itoa(c.Number), func(t *testing.T) {
				t.Parallel()
				if c.Root() {
					testenv.Root(t)
				}
				result, err := accuracy.Run(t.Context(), c)
				if err != nil {
					t.Fatalf("%s: %v", c, err)
				}
				results[c.Number] = result
				tell(t, &result)
			})
		}
	})
	for _, result := range results {
		if result.Report != nil { // not left out with -run
			done = append(done, result)
		}
	}
	board := accuracy.Count(done)
	fmt.Printf("seed %d, %d runs in %s\n\n%s", plan.Seed, len(done), time.Since(started).Round(time.Second), board.Table())
	for _, score := range board.Codes {
		if score.Precision() < precision || score.Recall() < recall {
			t.Errorf("%s: precision %.3f, recall %.3f", score.Code, score.Precision(), score.Recall())
		}
	}
	if board.Alarms > 0 {
		t.Errorf("%d false alarms", board.Alarms)
	}
	joined, err := accuracy.Join(t.Context(), plan.Seed, *runs)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\n%s", joined.Table())
	for _, row := range joined.Rows {
		for of, p := range map[string]synth.Pairs{"flows": row.Flows, "packets": row.Packets} {
			if p.Precision() < 1 || p.Recall() < joinRecall {
				t.Errorf("%s, %s: precision %.4f, recall %.4f: %v", row.Name, of, p.Precision(), p.Recall(), row.Amiss)
			}
		}
	}
	if *write != "" {
		if err := accuracy.Write(*write, plan, started, done, joined); err != nil {
			t.Error(err)
		}
	}
}

// tell says what is wrong with a result. Only a doubt about the truth, and a
// mistake where few runs are made, fails the run itself.
func tell(t *testing.T, r *accuracy.Result) {
	t.Helper()
	if r.Doubt != nil {
		t.Errorf("%s: the kernel does not confirm the truth: %v", r.Case, r.Doubt)
	}
	confusion := r.Confusion()
	if confusion == "" {
		if r.Other == accuracy.Missed {
			t.Logf("%s: the report does not speak of the second fault", r.Case)
		}
		return
	}
	var text bytes.Buffer
	if err := report.Text(&text, r.Report, report.TextOptions{Detail: report.DetailFull, Width: 200}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s -- %s: %s\nreport:\n%s", r.Case, r.Sent, confusion, text.Bytes())
	if *runs == 1 {
		t.Fail()
	}
}
