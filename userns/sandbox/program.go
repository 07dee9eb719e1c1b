package sandbox

import "golang.org/x/sys/unix"

// A rule says with which arguments a system call may be made.
type rule struct {
	number    uint32
	checks    []check
	otherwise uint32 // what it is answered
}

// A check is of half an argument: it must be one of values in the bits of mask, and
// may be anything in the others. The kernel looks at no more than the lower half of
// an int; of a pointer both count.
type check struct {
	argument uint32 // from 0 on
	upper    bool   // the upper half, not the lower one
	mask     uint32 // 0 means all
	values   []uint32
}

// A program is a filter in classic BPF, which has one register and jumps
// forward only. Each method adds what its name says; those that test go on with
// the next instruction if they do not answer.
type program []unix.SockFilter

// load sets the register to the 32 bits at an offset of seccomp_data.
func (p *program) load(offset uint32) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
}

// answer ends the program.
func (p *program) answer(action uint32) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action})
}

// jump compares the register with value and skips instructions.
func (p *program) jump(test uint16, value uint32, ifTrue, ifFalse uint8) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | test, Jt: ifTrue, Jf: ifFalse, K: value})
}

// ifEqual answers if the register is value.
func (p *program) ifEqual(value, action uint32) {
	p.jump(unix.BPF_JEQ, value, 0, 1)
	p.answer(action)
}

// unlessEqual answers if the register is not value.
func (p *program) unlessEqual(value, action uint32) {
	p.jump(unix.BPF_JEQ, value, 1, 0)
	p.answer(action)
}

// ifAbove answers if the register is least or more.
func (p *program) ifAbove(least, action uint32) {
	p.jump(unix.BPF_JGE, least, 0, 1)
	p.answer(action)
}

// restrict answers for a system call: it is allowed if its arguments pass all
// checks.
func (p *program) restrict(r rule) {
	var body program
	for _, c := range r.checks {
		offset := uint32(offsetArguments + argumentSize*c.argument)
		if c.upper {
			offset += argumentSize / 2
		}
		body.load(offset)
		if c.mask != 0 {
			body.and(c.mask)
		}
		for i, value := range c.values {
			body.jump(unix.BPF_JEQ, value, uint8(len(c.values)-i), 0) // over the rest and the answer
		}
		body.answer(r.otherwise)
	}
	body.answer(allow)
	p.jump(unix.BPF_JEQ, r.number, 0, uint8(len(body)))
	*p = append(*p, body...)
}

// and clears the bits of the register that are not in mask.
func (p *program) and(mask uint32) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask})
}
