package api

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// askPatience is how long an instance may take to say what it is.
const askPatience = 2 * time.Second

// Names returns the names in Directory, of instances that live and of dead ones,
// in order.
func Names() []string {
	paths, err := filepath.Glob(filepath.Join(Directory(), "*"+suffix))
	if err != nil {
		return nil // of the pattern, which is right
	}
	names := make([]string, len(paths))
	for i, path := range paths {
		names[i] = strings.TrimSuffix(filepath.Base(path), suffix)
	}
	slices.Sort(names)
	return names
}

// A Found is an instance in Directory. Err is why it does not say what it is,
// although it lives.
type Found struct {
	Name string
	Info Info
	Err  error
}

// List asks all instances in Directory what they are, at once, and returns those
// that live by name. What dead ones have left is removed. A Directory that is not
// the user's alone is an error: whoever has made it would answer.
func List(ctx context.Context) ([]Found, error) {
	dir, err := os.Lstat(Directory())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = checkOurs(Directory(), dir)
	}
	if err != nil {
		return nil, err
	}
	names := Names()
	found := make([]Found, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { found[i] = ask(ctx, name) })
	}
	wg.Wait()
	live := slices.DeleteFunc(slices.Clone(found), func(f Found) bool { return isDead(f.Err) })
	if len(live) == len(found) {
		return live, nil
	}
	if err := Sweep(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return live, err
	}
	return live, nil
}

func ask(ctx context.Context, name string) Found {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	c := NewClient(Path(name))
	defer c.Close()
	info, err := c.Info(ctx)
	return Found{name, info, err}
}

// isDead tells errors of a socket that nobody listens at.
func isDead(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
}
