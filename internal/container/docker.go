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
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// serviceTimeout bounds one request; a daemon that hangs must not hang the
	// trace.
	serviceTimeout = 2 * time.Second
	// maxAnswer bounds an answer: a list of thousands of containers.
	maxAnswer = 16 << 20
)

// service is a daemon that is asked through its Unix socket: Docker's, or
// Podman's, which speaks the same API (Docker Engine API 1.24 and later).
// Answers hold secrets, the environment and the command lines of containers, so
// only the fields that are used are decoded.
type service struct {
	// engine is the word of the engine that the socket should be of. Podman's may
	// be at Docker's place; then its answers say so.
	engine string
	socket string
	// owner is the user whose daemon it is, 0 for the system's.
	owner  int
	client *http.Client
}

// services returns the daemons that may be there, the system's and the own
// user's first, and what is wrong with their addresses.
func (c *Config) services() (all []*service, problems []string) {
	add := func(engine, given, variable, usual, below string) {
		address := given
		if address == "" {
			address = os.Getenv(variable)
		}
		if address != "" {
			socket, found := strings.CutPrefix(address, "unix://")
			if !found || socket == "" {
				problems = append(problems, fmt.Sprintf("%s at %q was not asked: only a unix:// socket is a daemon of this machine", engine, address))
				return
			}
			all = append(all, newService(engine, socket, 0))
			return
		}
		all = append(all, newService(engine, usual, 0))
		for _, uid := range users() {
			socket := fmt.Sprintf("/run/user/%d/%s", uid, below)
			if _, err := os.Lstat(socket); err == nil {
				all = append(all, newService(engine, socket, uid))
			}
		}
	}
	if c.Engine == "" || c.Engine == dockerEngine {
		add(dockerEngine, c.DockerHost, "DOCKER_HOST", "/var/run/docker.sock", "docker.sock")
	}
	if c.Engine == "" || c.Engine == podmanEngine {
		add(podmanEngine, "", "CONTAINER_HOST", "/run/podman/podman.sock", "podman/podman.sock")
	}
	return all, problems
}

// maxUsers bounds the users whose engines are asked.
const maxUsers = 64

// users are those that may have engines of their own: who is logged in, the own
// one first. Others than root see no engine but their own.
func users() []int {
	own := os.Geteuid()
	var all []int
	if own != 0 {
		all = append(all, own)
	}
	dirs, _ := filepath.Glob("/run/user/*") // the pattern is good
	for _, dir := range dirs {
		uid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && uid > 0 && uid != own && own == 0 && len(all) < maxUsers {
			all = append(all, uid)
		}
	}
	return all
}

func newService(engine, socket string, owner int) *service {
	s := &service{engine: engine, socket: socket, owner: owner}
	s.client = &http.Client{
		Transport:     &http.Transport{DialContext: s.dial, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s
}

func (s *service) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", s.socket)
}

func (s *service) word() string { return s.engine }

// get decodes the answer to one GET request into v. Status 404 is
// fs.ErrNotExist.
func (s *service) get(ctx context.Context, path string, v any) error {
	_, err := s.do(ctx, http.MethodGet, path, nil, v)
	return err
}

// do makes one request and returns the word of the engine that answered it.
func (s *service) do(ctx context.Context, method, path string, body, answer any) (engine string, err error) {
	ctx, cancel := context.WithTimeout(ctx, serviceTimeout)
	defer cancel()
	request, err := s.request(ctx, method, path, body)
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", s.engine, err)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return "", s.trouble(err)
	}
	defer response.Body.Close() //nolint:errcheck // nothing was written
	if err := s.refused(response); err != nil {
		return "", err
	}
	if answer != nil {
		if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(answer); err != nil {
			return "", fmt.Errorf("read the answer of %s at %s: %w", s.engine, s.socket, err)
		}
	}
	return engineOf(s.engine, response.Header), nil
}

// engineOf is the engine that answered: Podman's service says what it is,
// wherever its socket is.
func engineOf(engine string, header http.Header) string {
	if header.Get("Libpod-Api-Version") != "" {
		return podmanEngine
	}
	return engine
}

// request makes a request with a body in JSON, or none.
func (s *service) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = strings.NewReader(string(text))
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+s.engine+path, content)
	if err == nil && body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, err
}

// refused is the error of an answer that is none: 404 is fs.ErrNotExist. What a
// daemon says beside the status may repeat what was asked, so it stays out.
func (s *service) refused(response *http.Response) error {
	switch {
	case response.StatusCode/100 == 2, response.StatusCode == http.StatusSwitchingProtocols:
		return nil
	case response.StatusCode == http.StatusNotFound:
		return fs.ErrNotExist
	}
	return fmt.Errorf("%s at %s answers %q", s.engine, s.socket, response.Status)
}

// trouble says why there was no answer.
func (s *service) trouble(err error) error {
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no %s daemon at %s: %w", s.engine, s.socket, errAbsent)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%s at %s refuses: no daemon listens there", s.engine, s.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s at %s was not asked: no permission", s.engine, s.socket)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s at %s did not answer within %v", s.engine, s.socket, serviceTimeout)
	}
	return fmt.Errorf("ask %s at %s: %w", s.engine, s.socket, err)
}

// inspect returns the container with a name or the start of an id, as the daemon
// understands it.
func (s *service) inspect(ctx context.Context, name string) (found, error) {
	var answer struct {
		ID    string `json:"Id"`
		Name  string
		State struct {
			Status string
			Pid    int
		}
		HostConfig struct{ NetworkMode string }
	}
	engine, err := s.do(ctx, http.MethodGet, "/containers/"+url.PathEscape(name)+"/json", nil, &answer)
	if err != nil {
		return found{}, err
	}
	f := found{
		engine: engine, owner: s.owner, id: answer.ID, name: strings.TrimPrefix(answer.Name, "/"),
		state: answer.State.Status, pid: answer.State.Pid, mode: answer.HostConfig.NetworkMode, service: s,
	}
	f.exact = name == f.name || name == f.id
	return f, nil
}

// find asks for the container. When the daemon has none, it is asked for all:
// of an id that is the start of several, Docker 20.10 says so with status 500 and
// Podman 4.3 with 404 and words.
func (s *service) find(ctx context.Context, name string) ([]found, error) {
	one, err := s.inspect(ctx, name)
	if err == nil {
		return []found{one}, nil
	}
	if errors.Is(err, errAbsent) {
		return nil, err
	}
	all, listErr := s.list(ctx, true)
	if listErr != nil {
		return nil, err
	}
	var several []found
	for i := range all {
		if strings.HasPrefix(all[i].ID, name) {
			several = append(several, found{engine: s.engine, owner: s.owner, id: all[i].ID, name: all[i].name(), service: s})
		}
	}
	if len(several) == 0 && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return several, nil
}

// listed is what is read of one container in a daemon's list.
type listed struct {
	ID    string `json:"Id"`
	Names []string
}

// name is the container's own name: the others are those of links, which have a
// slash.
func (l *listed) name() string {
	if len(l.Names) == 0 {
		return ""
	}
	return strings.TrimPrefix(l.Names[0], "/")
}

// list returns the containers that run, or all.
func (s *service) list(ctx context.Context, all bool) ([]listed, error) {
	path := "/containers/json"
	if all {
		path += "?all=1"
	}
	var answer []listed
	return answer, s.get(ctx, path, &answer)
}

func (s *service) names(ctx context.Context) ([]string, error) {
	all, err := s.list(ctx, true)
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range all {
		names = append(names, all[i].name())
	}
	return names, nil
}

// running asks for each container that runs, for its process: a list does not have
// it.
func (s *service) running(ctx context.Context) ([]found, error) {
	all, err := s.list(ctx, false)
	if err != nil {
		return nil, err
	}
	var found []found
	for i := range all[:min(maxRunning, len(all))] {
		f, err := s.inspect(ctx, all[i].ID)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it ended meanwhile
		}
		if err != nil {
			return found, err
		}
		found = append(found, f)
	}
	return found, nil
}
