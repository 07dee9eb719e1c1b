// Package socket works on the descriptors of many non-blocking sockets without
// a goroutine or a buffer for each: addresses as the kernel reads them, batches
// of messages, and a Poller that waits for all of them at once.
//
// Its system calls return at once, so they are raw: the scheduler needs not
// hear of them.
package socket
