//go:build linux

package live

import (
	"context"
	"sync"
	"time"

	"github.com/pathtrace/pathtrace/internal/engine"
)

// AskEngines asks the container engines of the host for their networks and
// containers: they name the owners of rules, and may explain why the kernel is set
// up as it is. What could not be asked it says in words.
type AskEngines func(context.Context) (views []engine.View, problems []string)

// engineLimit is how long the engines have for their answer.
const engineLimit = 2 * time.Second

// start asks in the background, once, and also after an interrupt. views waits for
// the answer, at most until engineLimit from now; there is none where nobody is
// asked. stop takes the question back, and returns when it has ended.
func (ask AskEngines) start(ctx context.Context, log func(format string, args ...any)) (views func() []engine.View, stop func()) {
	if ask == nil {
		return func() []engine.View { return nil }, func() {}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), engineLimit)
	answered := make(chan []engine.View, 1)
	go func() {
		views, problems := ask(ctx)
		for _, problem := range problems {
			log("%s", problem)
		}
		answered <- views
	}()
	views = sync.OnceValue(func() []engine.View { return <-answered })
	return views, func() { cancel(); views() }
}
