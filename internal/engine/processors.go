package engine

import (
	"runtime"
	"sync"
)

// moreProcessors returns a function that gives the runtime more processors than it
// has, or takes them back, for relay.MoverConfig.Occupied. It stops all goroutines
// for some 20 us.
func moreProcessors() func(change int) {
	var mu sync.Mutex
	return func(change int) {
		mu.Lock()
		defer mu.Unlock()
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + change)
	}
}
