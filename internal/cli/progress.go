package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/charmbracelet/x/term"

	"github.com/pathtrace/pathtrace/internal/offline"
)

// progressBar shows how far the reading of captures is, on a terminal only.
type progressBar struct {
	w       io.Writer // nil when nobody looks
	now     func() time.Time
	started time.Time
	next    time.Time // when it is drawn again
	drawn   bool
}

// The bar comes late, since most captures are read before one could look.
const (
	progressAfter = time.Second
	progressEvery = 200 * time.Millisecond
)

func newProgressBar(env *environment) *progressBar {
	bar := &progressBar{now: time.Now}
	if f, ok := env.err.(*os.File); ok && term.IsTerminal(f.Fd()) && os.Getenv("TERM") != "dumb" {
		bar.w = f
	}
	bar.start()
	return bar
}

func (b *progressBar) start() {
	b.started = b.now()
	b.next = b.started.Add(progressAfter)
}

// update draws the bar when it is time.
func (b *progressBar) update(p offline.Progress) {
	if b.w == nil {
		return
	}
	now := b.now()
	if now.Before(b.next) {
		return
	}
	b.next = now.Add(progressEvery)
	b.drawn = true
	fmt.Fprint(b.w, "\r\x1b[K"+progressText(p, now.Sub(b.started))) //nolint:errcheck // nowhere left to tell
}

// clear removes the bar.
func (b *progressBar) clear() {
	if b.drawn {
		fmt.Fprint(b.w, "\r\x1b[K") //nolint:errcheck // nowhere left to tell
	}
}

// progressText is the bar, shorter than any terminal is wide.
func progressText(p offline.Progress, elapsed time.Duration) string {
	packets := fmt.Sprintf("%.1f M packets", float64(p.Packets)/1e6)
	if p.Size <= 0 {
		return "reading: " + packets
	}
	const width = 20
	share := min(max(float64(p.Read)/float64(p.Size), 0), 1)
	done := int(share * width)
	text := fmt.Sprintf("reading [%s%s] %3.0f %%, %s", strings.Repeat("#", done), strings.Repeat(".", width-done), share*100, packets)
	if share > 0 {
		left := time.Duration(float64(elapsed) * (1 - share) / share)
		text += fmt.Sprintf(", %s left", left.Round(time.Second))
	}
	return text
}
