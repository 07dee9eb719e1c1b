package rules

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestAppArmor has AppArmor's own parser read the profile, without loading it: what of
// it the parser knows, which is all from 4.0 on. It was read whole by 4.1.8.
func TestAppArmor(t *testing.T) {
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		parser = "/usr/sbin/apparmor_parser" // where the PATH of a user does not lead
	}
	if _, err := os.Stat(parser); err != nil {
		t.Skip("no apparmor_parser: the profile is not checked")
	}
	b, err := os.ReadFile(filepath.Join(root, "contrib/apparmor/taproot"))
	if err != nil {
		t.Fatal(err)
	}
	profile := strings.ReplaceAll(string(b), "@BINDIR@", "/usr/local/bin")
	if _, err := os.Stat("/etc/apparmor.d/abi/4.0"); err != nil {
		t.Log("the parser is older than 4.0: user namespaces are not checked")
		for _, word := range []string{"abi <abi/4.0>,\n", "  userns,\n"} {
			if strings.Count(profile, word) != 1 {
				t.Errorf("%q: want it once", word)
			}
			profile = strings.Replace(profile, word, "", 1)
		}
	}
	path := filepath.Join(t.TempDir(), "taproot")
	parse := func(text string) (string, error) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(parser, "--skip-kernel-load", "--skip-cache", path).CombinedOutput()
		return string(out), err
	}
	if out, err := parse(profile); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
	if _, err := parse(strings.Replace(profile, "flags=", "flag=", 1)); err == nil {
		t.Error("a profile that is none: got no error")
	}
}
