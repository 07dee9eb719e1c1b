// Package socket works on the descriptors of many non-blocking sockets without
// a goroutine or a buffer for each: addresses as the kernel reads them, messages
// with their control messages, one by one and in batches, and a Poller that waits
// for all sockets at once. Only Open and Connect are for a socket of the runtime's
// poller, the end of a relay.
//
// Its system calls return at once, so they are raw: the scheduler needs not hear
// of them. An ordinary one, of a process that was idle, wakes the runtime's
// monitor, another thread, which then looks around every 20 us: two switches of
// threads for each connection.
package socket
