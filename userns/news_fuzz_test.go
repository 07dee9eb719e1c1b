package userns

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
)

// FuzzNews has anything told of links and routing rules in the guest's namespace. What
// is no news of ours disturbs nothing.
func FuzzNews(f *testing.F) {
	news := func(kind uint16, data ...byte) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(data)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		return append(append(b, make([]byte, 10)...), data...)
	}
	link := make([]byte, unix.SizeofIfInfomsg)
	link[4] = loopbackIndex
	rule := append(make([]byte, unix.SizeofRtMsg), 8, 0, unix.FRA_PRIORITY, 0)
	rule = binary.NativeEndian.AppendUint32(rule, mark.Preference)
	up := append([]byte(nil), link...)
	up[8] = unix.IFF_UP
	for _, b := range [][]byte{
		news(unix.RTM_NEWLINK, link...), append(news(unix.RTM_NEWLINK, link...), news(unix.RTM_NEWLINK, up...)...),
		news(unix.RTM_DELRULE, rule...), news(unix.RTM_DELRULE, rule[:len(rule)-2]...), news(unix.RTM_NEWLINK, link[:3]...), nil,
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		messages, err := parseMessages(b)
		if err != nil {
			return
		}
		d := &Diversion{link: 2, down: make(map[int32]bool)}
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, m := range messages {
			known := m.Header.Type == unix.RTM_NEWLINK || m.Header.Type == unix.RTM_DELRULE
			if d.disturbs(m) && !known {
				t.Errorf("message of type %d disturbs", m.Header.Type)
			}
		}
		if len(d.down) > 2 {
			t.Errorf("links that are down: got %v, want ours and the loopback at most", d.down)
		}
	})
}
