package main

import (
	"context"
	"fmt"
	"time"
)

// idleConnections is how many are open when their memory is measured in each
// round.
const idleConnections = 1000

// Bounds of a crowd of connections. Connections are opened in portions, so that
// a helper that cannot have more is stopped before the machine suffers.
const (
	crowdPortion = 1000
	crowdMemory  = 4 << 30 // bytes that a helper may take
)

// crowdSizes returns the sizes of crowds of connections.
func crowdSizes() []int { return []int{10_000, 50_000} }

// Keys of the rows of memory.
func (from side) memoryIdle() string        { return from.key("memory", "idle") }
func (from side) memoryEach() string        { return from.key("memory", "connection") }
func (from side) memoryDescriptors() string { return from.key("memory", "descriptors") }
func (from side) memoryFailed() string      { return from.key("memory", "failed") }

// Keys of the rows of a crowd.
func (from side) crowdRefused(size int) string { return from.key("many", size, "refused") }
func (from side) crowdUsed(size int) string    { return from.key("many", size, "used") }
func (from side) crowdLost(size int) string    { return from.key("many", size, "lost") }
func (from side) crowdKB(size int) string      { return from.key("many", size, "memory") }

// memoryRows returns the rows of idle helpers and of idle connections.
func memoryRows(from side) []Row {
	refused := fmt.Sprintf("idle connections refused, of %d", idleConnections)
	return []Row{
		{Key: from.memoryIdle(), Title: from.title("memory, idle"), Unit: "MB", Lower: true},
		{Key: from.memoryEach(), Title: from.title("memory per idle connection"), Unit: "KB", Lower: true},
		{Key: from.memoryDescriptors(), Title: from.title("descriptors per idle connection"), Unit: "", Lower: true},
		{Key: from.memoryFailed(), Title: from.title(refused), Unit: "", Lower: true},
	}
}

// crowdRows returns the rows of crowds of these sizes.
func crowdRows(from side, sizes ...int) []Row {
	var rows []Row
	for _, n := range sizes {
		what := from.title(plural(n, "connection"))
		rows = append(rows,
			Row{Key: from.crowdRefused(n), Title: what + ", refused", Unit: "", Lower: true},
			Row{Key: from.crowdKB(n), Title: what + ", memory of each", Unit: "KB", Lower: true},
			Row{Key: from.crowdUsed(n), Title: what + ", used in turn", Unit: "k/s"},
			Row{Key: from.crowdLost(n), Title: what + ", lost meanwhile", Unit: "%", Lower: true})
	}
	return rows
}

// memory measures the helper's processes fresh, then with idle connections.
func memory(from side) measurement {
	return measurement{
		keys: []string{from.memoryIdle(), from.memoryEach(), from.memoryDescriptors(), from.memoryFailed()},
		make: func(ctx context.Context, t *turn) error { return t.memory(ctx, from) },
	}
}

// memory is the measurement of that name. The kernel limit has no processes.
func (t *turn) memory(ctx context.Context, from side) error {
	idle := t.usage()
	if idle.count == 0 {
		return nil
	}
	t.record(from.memoryIdle(), float64(idle.resident())/1e6)
	if idle.pss == 0 {
		t.results.note("%s: memory is RSS, the kernel does not tell PSS", t.contestant)
	}
	files := t.descriptors()
	var held Held
	hold := HoldArgs{Address: t.at(from).Hold[0], Count: idleConnections}
	if err := t.client(from).call(ctx, "Hold", hold, &held); err != nil {
		return err
	}
	if from != inGuest { // what only the kernel has accepted costs the helper nothing yet
		if err := t.client(from).call(ctx, "Use", Nothing{}, &Used{}); err != nil {
			return err
		}
	}
	if err := wait(ctx, t.pace.settle); err != nil {
		return err
	}
	busy := t.usage()
	t.record(from.memoryFailed(), float64(held.Refused))
	if open := idleConnections - held.Refused; open > 0 {
		t.record(from.memoryEach(), float64(busy.resident()-idle.resident())/1e3/float64(open))
		t.record(from.memoryDescriptors(), float64(t.descriptors()-files)/float64(open))
	}
	if busy.count != idle.count {
		return fmt.Errorf("%d processes, then %d", idle.count, busy.count)
	}
	return t.client(from).call(ctx, "Release", Nothing{}, &Nothing{})
}

// crowded measures tens of thousands of connections: whether they can be had,
// what they take, and whether each still works when it is used again.
func crowded(from side, sizes ...int) measurement {
	var keys []string
	for _, n := range sizes {
		keys = append(keys, from.crowdRefused(n), from.crowdKB(n), from.crowdUsed(n), from.crowdLost(n))
	}
	return measurement{keys: keys, limit: 3 * time.Minute, make: func(ctx context.Context, t *turn) error {
		c := &crowd{turn: t, from: from, fresh: t.usage()}
		for _, size := range sizes {
			if size > t.pace.crowd {
				break
			}
			if limit := fileLimit(); size > limit-sparedFiles {
				t.results.note("no %d connections: this machine's limit of descriptors is %d, and real root may not raise it", size, limit)
				break
			}
			if whole, err := c.have(ctx, size); err != nil || !whole {
				return err
			}
		}
		return t.client(from).call(ctx, "Release", Nothing{}, &Nothing{})
	}}
}

// sparedFiles is how many descriptors a load generator needs besides.
const sparedFiles = 100

// A crowd is a turn with many connections.
type crowd struct {
	*turn
	from  side
	fresh usage // of the helper, before the first
	open  int
}

// have makes the crowd as large, or as large as it gets, and uses each
// connection. It reports whether it is the whole crowd.
func (c *crowd) have(ctx context.Context, size int) (whole bool, err error) {
	stopped, err := c.grow(ctx, size)
	if err != nil {
		return false, err
	}
	c.record(c.from.crowdRefused(size), float64(size-c.open))
	if stopped != "" {
		c.results.note("%s: no %d connections: %s", c.contestant, size, stopped)
	}
	if c.usage().count < c.fresh.count || c.open == 0 {
		return false, nil
	}
	return stopped == "", c.use(ctx, size)
}

// grow opens connections until there are so many, to each server in turn: one
// address and port of the outside has at most one of a guest's ports each. It
// returns why it stopped before, if it did.
func (c *crowd) grow(ctx context.Context, size int) (stopped string, err error) {
	end := time.Now().Add(c.pace.crowdTime)
	for portion := 0; c.open < size; portion++ {
		servers := c.at(c.from).Hold
		args := HoldArgs{Address: servers[portion%len(servers)], Count: min(crowdPortion, size-c.open)}
		var held Held
		if err := c.client(c.from).call(ctx, "Hold", args, &held); err != nil {
			return "", err
		}
		c.open += args.Count - held.Refused
		now := c.usage()
		switch {
		case now.count < c.fresh.count:
			return fmt.Sprintf("died at %d", c.open), nil
		case held.Refused > 0:
			return fmt.Sprintf("refused at %d: %s", c.open, held.First), nil
		case now.resident() > crowdMemory:
			return fmt.Sprintf("%d of them take %.1f GB", c.open, float64(now.resident())/1e9), nil
		case time.Now().After(end):
			return fmt.Sprintf("only %d in %v", c.open, c.pace.crowdTime), nil
		}
	}
	return "", nil
}

// use has each connection used once, and measures them.
func (c *crowd) use(ctx context.Context, size int) error {
	if err := wait(ctx, c.pace.settle); err != nil {
		return err
	}
	if now := c.usage(); now.count > 0 {
		c.record(c.from.crowdKB(size), float64(now.resident()-c.fresh.resident())/1e3/float64(c.open))
	}
	var used Used
	if err := c.client(c.from).call(ctx, "Use", Nothing{}, &used); err != nil {
		return err
	}
	c.record(c.from.crowdUsed(size), float64(used.Done)/used.Elapsed.Seconds()/1e3)
	c.record(c.from.crowdLost(size), 100*float64(used.Lost)/float64(c.open))
	return nil
}
