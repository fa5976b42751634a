//go:build linux

package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dockerEngine = "docker"
	// dockerTimeout bounds one request; a daemon that hangs must not hang the
	// trace.
	dockerTimeout = 2 * time.Second
	// maxAnswer bounds an answer: a list of thousands of containers.
	maxAnswer = 16 << 20
)

// errNoDaemon says that nobody listens where no daemon has to be.
var errNoDaemon = errors.New("no docker daemon")

// docker asks a daemon through its Unix socket (Docker Engine API; Podman's
// service speaks it, too). Answers hold secrets (the environment), so only the
// fields of dockerContainer are decoded.
type docker struct {
	socket string
	client *http.Client
}

// dockerContainer is what is kept of a container.
type dockerContainer struct {
	ID, Name, State string
	PID             int
}

// newDocker returns the daemon at an address, which is $DOCKER_HOST when
// empty.
func newDocker(address string) (*docker, error) {
	if address == "" {
		address = os.Getenv("DOCKER_HOST")
	}
	if address == "" {
		address = "unix:///var/run/docker.sock"
	}
	socket, found := strings.CutPrefix(address, "unix://")
	if !found || socket == "" {
		return nil, fmt.Errorf("docker at %q was not asked: only a unix:// socket is a daemon of this machine", address)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &docker{socket: socket, client: &http.Client{
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// get decodes the answer to one GET request into v. Status 404 is
// fs.ErrNotExist.
func (d *docker) get(ctx context.Context, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return fmt.Errorf("ask docker: %w", err)
	}
	response, err := d.client.Do(request)
	if err != nil {
		if failed, ok := errors.AsType[*url.Error](err); ok {
			err = failed.Err
		}
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w at %s", errNoDaemon, d.socket)
		}
		if errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("docker at %s refuses: no daemon listens there", d.socket)
		}
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("docker at %s was not asked: no permission", d.socket)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("docker at %s did not answer within %v", d.socket, dockerTimeout)
		}
		return fmt.Errorf("ask docker at %s: %w", d.socket, err)
	}
	defer response.Body.Close() //nolint:errcheck // nothing was written
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return fs.ErrNotExist
	default:
		return fmt.Errorf("docker at %s answers %q", d.socket, response.Status)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(v); err != nil {
		return fmt.Errorf("read the answer of docker at %s: %w", d.socket, err)
	}
	return nil
}

// inspect returns the container with a name or the start of an id.
func (d *docker) inspect(ctx context.Context, name string) (dockerContainer, error) {
	var answer struct {
		ID    string `json:"Id"`
		Name  string
		State struct {
			Status string
			Pid    int
		}
	}
	if err := d.get(ctx, "/containers/"+url.PathEscape(name)+"/json", &answer); err != nil {
		return dockerContainer{}, err
	}
	return dockerContainer{
		ID: answer.ID, Name: strings.TrimPrefix(answer.Name, "/"),
		State: answer.State.Status, PID: answer.State.Pid,
	}, nil
}

// names returns the names of all containers, also of those that do not run.
func (d *docker) names(ctx context.Context) ([]string, error) {
	var answer []struct{ Names []string }
	if err := d.get(ctx, "/containers/json?all=1", &answer); err != nil {
		return nil, err
	}
	var names []string
	for _, container := range answer {
		for _, name := range container.Names {
			names = append(names, strings.TrimPrefix(name, "/"))
		}
	}
	return names, nil
}

// open opens the container's namespace by the pid of its first process.
func (c dockerContainer) open() (*Source, error) {
	if c.PID <= 0 {
		return nil, &NotRunningError{Name: c.Name, Engine: dockerEngine, State: c.State}
	}
	source, err := fromPID(c.PID, &Source{Kind: KindContainer, Name: c.Name, Engine: dockerEngine, ID: c.ID})
	if err != nil {
		return nil, fmt.Errorf("container %q: %w", c.Name, err)
	}
	return source, nil
}
