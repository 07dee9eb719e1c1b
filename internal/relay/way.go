package relay

import (
	"io"
	"syscall"
)

// move moves bytes one way until there are none, which is nil, the sink takes no
// more, which is nil too, its turn is over, which is errTurn, or one end fails.
//
// In the first two cases the loop will be told when there is more to do.
func (l *loop) move(w *way) error {
	for left := l.stint(); !w.stalled; {
		if err := l.flush(w); err != nil {
			return err
		}
		if w.stalled || !w.readable || w.finished {
			break
		}
		if left <= 0 {
			return errTurn
		}
		if err := l.fill(w); err != nil {
			return err
		}
		left -= int(w.held)
	}
	return nil
}

// fill reads into a pipe if much is coming, else into a buffer. The way holds
// nothing before.
func (l *loop) fill(w *way) error {
	if w.bulk {
		if p, ok := l.pipes.take(); ok {
			return l.fillPipe(w, p)
		}
	}
	return l.fillBuffer(w)
}

// fillBuffer is the one that finds the FIN and errors.
func (l *loop) fillBuffer(w *way) error {
	b := l.buffers.take()
	n, err := receive(uintptr(w.source().fd), b[:])
	if err == nil {
		w.buffer, w.at, w.held = b, 0, int32(n)
		if w.bulk = n == small; !w.bulk {
			l.hasten(w)
		}
		if n > little {
			l.vigil.stir()
		}
		w.readable = w.bulk || w.source().exact
		return nil
	}
	l.buffers.give(b)
	switch err {
	case syscall.EAGAIN:
		w.readable = false
		return nil
	case io.EOF:
		return w.finish()
	}
	return err
}

// fillPipe leaves it to fillBuffer to say why nothing comes if that may be
// anything but that there is nothing: splice(2) does not tell a FIN or urgent
// data. An error of the socket is told only once, so it is passed on.
func (l *loop) fillPipe(w *way, p pipe) error {
	e := w.source()
	n, err := spliceOnce(e.fd, p.w, l.stint())
	if err == nil && n > 0 {
		w.pipe, w.held = p, int32(n)
		if w.bulk = n >= worthwhile; !w.bulk {
			l.hasten(w)
		}
		return nil
	}
	l.pipes.give(p)
	switch err {
	case nil, syscall.EINVAL, syscall.ENOMEM:
		w.bulk = false
	case syscall.EAGAIN:
		w.bulk = !e.exact
		w.readable = e.exact
	default:
		return err
	}
	if w.bulk {
		l.gather(w)
	} else {
		l.hasten(w)
	}
	return nil
}

// flush writes what the way holds, or as much of it as the sink takes.
func (l *loop) flush(w *way) error {
	to := w.sink()
	for w.held > 0 {
		n, err := w.write(to.fd)
		switch {
		case err == syscall.EAGAIN:
			w.stalled = true
			return l.arm(w.joint, 1-w.side)
		case err != nil:
			return &sinkError{err}
		}
		w.at += int32(n)
		w.held -= int32(n)
		l.moved(w, n)
	}
	l.release(w)
	return nil
}

// write writes once.
func (w *way) write(fd int32) (int, error) {
	if w.buffer != nil {
		return send(fd, w.buffer[w.at:w.at+w.held])
	}
	n, err := spliceOnce(w.pipe.r, fd, int(w.held))
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF // the pipe holds more
	}
	return n, err
}

// finish passes the FIN on. A dead end's is none.
func (w *way) finish() error {
	if w.joint.dead != nil {
		return io.ErrUnexpectedEOF
	}
	w.finished, w.readable = true, false
	if w.joint.ways[1-w.side].finished {
		return nil // the close that follows sends it
	}
	if err := closeWrite(int(w.sink().fd)); err != nil {
		return &sinkError{err}
	}
	return nil
}

// release gives back what the way holds bytes in; what is left is lost.
func (l *loop) release(w *way) {
	switch {
	case w.buffer != nil:
		l.buffers.give(w.buffer)
	case w.pipe == pipe{}:
	case w.held > 0:
		l.pipes.drop(w.pipe)
	default:
		l.pipes.give(w.pipe)
	}
	w.buffer, w.pipe, w.held = nil, pipe{}, 0
}

// A sinkError is the error of the end that bytes were written to.
type sinkError struct{ error }
