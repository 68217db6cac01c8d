//go:build race

package builtin

// raced: the race detector is on, and times say nothing.
const raced = true
