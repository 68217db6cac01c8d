//go:build !race

package render

// memoryFactor is for the race detector's own memory.
const memoryFactor = 1
