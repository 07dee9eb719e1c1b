package sandbox

import "golang.org/x/sys/unix"

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

// ifAny answers if the register has any of the bits.
func (p *program) ifAny(bits, action uint32) {
	p.jump(unix.BPF_JSET, bits, 0, 1)
	p.answer(action)
}

// skipUnless skips the next instructions if the register is not value.
func (p *program) skipUnless(value uint32, instructions uint8) {
	p.jump(unix.BPF_JEQ, value, 0, instructions)
}
