package relay

// Kill resets both ends. It may be called at any time.
func (p *pair) Kill() { p.tell(ended) }

// Kill resets both ends. It may be called at any time.
func (j *joint) Kill() { j.loop.kill(j) }

// kill has the loop's goroutine end a joint, if it is not over.
func (l *loop) kill(j *joint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.slots[j.slot].joint != j {
		return
	}
	l.killed = append(l.killed, j)
	l.ring() // under the lock, which keeps the bell from being closed
}

// bury ends the joints that were killed.
func (l *loop) bury() {
	l.mu.Lock()
	killed := l.killed
	l.killed = nil
	l.mu.Unlock()
	for _, j := range killed {
		l.end(j, false)
	}
}
