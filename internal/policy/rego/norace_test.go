//go:build !race

package rego

// The race detector makes programs larger and slower.
const memoryFactor, raceFactor = 1, 1
