package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo TAPROOT")
		os.Exit(2)
	}
	if err := demo(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(taproot string) error {
	// An interrupt ends the guest; the directory is still to be removed.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	dir, err := os.MkdirTemp("", "taproot-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := makeRepository(filepath.Join(dir, "hello.git")); err != nil {
		return err
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	go http.Serve(listener, http.FileServer(http.Dir(dir))) // ends with the process
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return err
	}
	url := "http://host.taproot.internal:" + port + "/hello.git"
	clone := filepath.Join(dir, "clone")
	script := strings.Join([]string{
		"set -e",
		"grep : /proc/net/dev",
		"git -c http.proxy= clone " + url + " " + clone,
		"cat " + clone + "/README",
	}, "\n  ")
	args := []string{"run", "--net=auto", "--net6=auto", "--host-loopback=" + port, "--", "sh", "-c"}
	fmt.Printf("$ %s %s '\n  %s'\n\n", taproot, strings.Join(args, " "), script)
	return run(taproot, append(args, script)...)
}

// makeRepository makes a bare repository with one commit that any HTTP server
// can serve (git-update-server-info(1)).
func makeRepository(path string) error {
	work := path + ".work"
	git := func(args ...string) error {
		identity := []string{"-c", "user.name=demo", "-c", "user.email=demo@example.org", "-c", "init.defaultBranch=main"}
		return run("git", append(identity, args...)...)
	}
	if err := git("init", "-q", work); err != nil {
		return err
	}
	text := "This came through taproot: no root, no packet on the host.\n"
	if err := os.WriteFile(filepath.Join(work, "README"), []byte(text), 0o666); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"-C", work, "add", "README"},
		{"-C", work, "commit", "-q", "-m", "hello"},
		{"clone", "-q", "--bare", work, path},
		{"-C", path, "update-server-info"},
	} {
		if err := git(args...); err != nil {
			return err
		}
	}
	return nil
}

// run runs a program with this process's standard streams.
func run(program string, args ...string) error {
	c := exec.Command(program, args...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	return nil
}
