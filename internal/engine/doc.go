// Package engine starts everything in order and stops it in reverse: it is
// where the three processes of one guest meet.
//
//	supervisor  Run: plans the network, makes the guest and its network, starts the engine,
//	            follows resolv.conf and the host's addresses, waits for the command
//	stage       StageMain: inside the guest's namespaces, becomes the command
//	engine      EngineMain: gets the TAP device, gives the rest up, moves packets
//
// Start: engine process and stage at the same time; the device, made by the
// supervisor, goes to the engine; when the engine is ready the command
// runs. Stop: the command ends, the engine sees the end of its socket, the
// supervisor exits with the command's status.
//
// The supervisor keeps the device open. An engine that dies is started again
// on it, after 10 ms and then longer, ten times in a minute at most, and one that
// gives no sign of life for 6 seconds is killed. Its flows are reset at all ends. One
// that works can be replaced, by one of another build perhaps, see
// Instance.Restart. An engine whose supervisor dies ends at once: by the
// parent's death signal, and by the end of the socket.
//
// An Instance is what others may know and ask of all this while it runs. What
// only the engine knows, flows and counters, is asked by a query over the same
// socket.
package engine
