package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
)

// A Client asks one instance. It is safe for concurrent use.
type Client struct {
	path string
	http http.Client
}

// NewClient returns a client of the instance whose socket is at path. Close it.
func NewClient(path string) *Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		DisableCompression: true,
	}
	return &Client{path: path, http: http.Client{Transport: transport}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Info asks what the instance is.
func (c *Client) Info(ctx context.Context) (info Info, err error) {
	err = c.do(ctx, http.MethodGet, "/v1/info", nil, &info)
	return info, err
}

// Rules asks for the published ports.
func (c *Client) Rules(ctx context.Context) (rules Rules, err error) {
	err = c.do(ctx, http.MethodGet, "/v1/rules", nil, &rules)
	return rules, err
}

// Publish publishes ports, all or none, and returns their rules.
func (c *Client) Publish(ctx context.Context, p Publication) (rules Rules, err error) {
	err = c.do(ctx, http.MethodPost, "/v1/rules", p, &rules)
	return rules, err
}

// Unpublish removes a rule. Its connections go on.
func (c *Client) Unpublish(ctx context.Context, id int) error {
	return c.do(ctx, http.MethodDelete, "/v1/rules/"+strconv.Itoa(id), nil, nil)
}

// UnpublishKill removes a rule, and ends its connections.
func (c *Client) UnpublishKill(ctx context.Context, id int) error {
	return c.do(ctx, http.MethodDelete, "/v1/rules/"+strconv.Itoa(id)+"?kill=1", nil, nil)
}

// Flows asks for live flows; filter has the parameters of the request.
func (c *Client) Flows(ctx context.Context, filter url.Values) (flows Flows, err error) {
	err = c.do(ctx, http.MethodGet, "/v1/flows?"+filter.Encode(), nil, &flows)
	return flows, err
}

// Kill ends flows.
func (c *Client) Kill(ctx context.Context, filter url.Values) (killed Killed, err error) {
	err = c.do(ctx, http.MethodDelete, "/v1/flows?"+filter.Encode(), nil, &killed)
	return killed, err
}

// Stats asks for all counters.
func (c *Client) Stats(ctx context.Context) (stats Stats, err error) {
	err = c.do(ctx, http.MethodGet, "/v1/stats", nil, &stats)
	return stats, err
}

// Restart replaces the engine by one of the program at an absolute path, or of the
// same as now if that is "".
func (c *Client) Restart(ctx context.Context, binary string) (info Info, err error) {
	err = c.do(ctx, http.MethodPost, "/v1/restart", Restart{binary}, &info)
	return info, err
}

// maxLine is the longest event in bytes: that of the start lists all rules.
const maxLine = 64 << 20

// Events calls tell for each event until it returns an error, which is
// returned, or the instance leaves, which is io.EOF.
func (c *Client) Events(ctx context.Context, tell func(Event) error) error {
	body, err := c.open(ctx, http.MethodGet, "/v1/events", nil)
	if err != nil {
		return err
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue // it is still there
		}
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("event: %w", err)
		}
		if err := tell(e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil && ctx.Err() == nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return io.EOF
}

// do sends a request and reads the answer into to. An error of the instance's is
// a *Failure.
func (c *Client) do(ctx context.Context, method, path string, body, to any) error {
	answer, err := c.open(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer answer.Close()
	if to == nil {
		return nil
	}
	if err := json.NewDecoder(answer).Decode(to); err != nil {
		return fmt.Errorf("%s: answer: %w", c.path, err)
	}
	return nil
}

// open sends a request and returns the answer's body.
func (c *Client) open(ctx context.Context, method, path string, body any) (io.ReadCloser, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://taproot"+path, content)
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", jsonType)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // the words around it name a URL that nobody knows
		}
		return nil, unreached(c.path, err)
	}
	if answer.StatusCode/100 == 2 {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	f := failed{Error: &Failure{status: answer.StatusCode}}
	if json.NewDecoder(io.LimitReader(answer.Body, maxBody)).Decode(&f) != nil || f.Error == nil || f.Error.Message == "" {
		return nil, fmt.Errorf("%s: %s", c.path, answer.Status)
	}
	return nil, f.Error
}
