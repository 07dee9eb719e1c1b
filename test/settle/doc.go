// Package settle waits, for tests: for what must happen, and when all tests are
// done for goroutines and descriptors to be gone.
package settle
