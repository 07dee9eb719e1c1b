package caller

import (
	"os"
	"strconv"
)

// The environment of socket activation, sd_listen_fds(3).
const (
	listenPID   = "LISTEN_PID"
	listenFDs   = "LISTEN_FDS"
	listenNames = "LISTEN_FDNAMES"

	firstListener = 3 // SD_LISTEN_FDS_START
)

// Listeners returns the sockets that the caller opened for us and passed as
// systemd does (sd_listen_fds(3)), and removes what says so from the
// environment, for the processes that we start do not have them. Numbers of
// descriptors that were not passed are left out. It is called once, before Seal.
func Listeners() []*os.File {
	pid, n := os.Getenv(listenPID), os.Getenv(listenFDs)
	if pid == "" && n == "" {
		return nil
	}
	for _, name := range [...]string{listenPID, listenFDs, listenNames} {
		os.Unsetenv(name)
	}
	count, err := strconv.Atoi(n)
	if err != nil || pid != strconv.Itoa(os.Getpid()) {
		return nil
	}
	var files []*os.File
	for number := firstListener; number < firstListener+count; number++ {
		d := Take(number)
		if !d.Open() {
			break // as many as there are: the caller counts from 3 without gaps
		}
		if f, err := d.File(); err == nil {
			files = append(files, f)
		}
	}
	return files
}
