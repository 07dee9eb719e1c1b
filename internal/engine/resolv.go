package engine

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"taproot/internal/plan"
	"taproot/stack/dns"
)

const (
	resolvConfPath = "/etc/resolv.conf"
	hostsPath      = "/etc/hosts"
	resolvConfHint = "taproot run --dns=ADDRESS names the resolver"
)

// readResolvConf reads the host's resolver configuration. Without a file, or a
// server in it, the resolver is on the loopback (resolv.conf(5)).
func readResolvConf() (dns.ResolvConf, error) {
	text, err := readConf(resolvConfPath)
	conf := dns.ParseResolvConf(text)
	if len(conf.Servers) == 0 {
		conf.Servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	}
	if os.IsNotExist(err) {
		return conf, nil
	}
	return conf, err
}

// maxConf is how much is read of resolv.conf, in bytes. It goes to the engine in one
// message with the host's addresses, which must not be kept out by a search list.
const maxConf = 32 << 10

// readConf reads the beginning of a file. It does not wait for anybody: somebody may
// have put a pipe there.
func readConf(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if m := st.Mode(); !m.IsRegular() && m&os.ModeCharDevice == 0 { // /dev/null is as good as empty
		return nil, fmt.Errorf("read %s: neither a file nor a device", path)
	}
	return io.ReadAll(io.LimitReader(f, maxConf))
}

// guestResolvConf is the guest's resolver configuration: our addresses, the
// host's search list.
func guestResolvConf(p *plan.Plan, h hostState) []byte {
	var b strings.Builder
	for _, f := range p.Families() {
		if f.Resolver.IsValid() {
			fmt.Fprintf(&b, "nameserver %v\n", f.Resolver)
		}
	}
	if len(h.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(h.Search, " "))
	}
	return []byte(b.String())
}

// guestHosts is the host's list of hosts, with the gateway's name.
func guestHosts(p *plan.Plan) []byte {
	b, err := os.ReadFile(hostsPath)
	if err != nil {
		b = []byte("127.0.0.1 localhost\n::1 localhost\n")
	}
	if len(b) > 0 && b[len(b)-1] != '\n' {
		b = append(b, '\n')
	}
	for _, f := range p.Families() {
		if f.On() && !f.Foreign {
			b = fmt.Appendf(b, "%v %s\n", f.Gateway, hostName)
		}
	}
	return b
}

// symlinkChain returns path and all that it leads to by symbolic links, at
// most forty as the kernel (path_resolution(7)).
func symlinkChain(path string) []string {
	chain := []string{path}
	for range 40 {
		to, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = filepath.Clean(to)
		chain = append(chain, path)
	}
	return chain
}
