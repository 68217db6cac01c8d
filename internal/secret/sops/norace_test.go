//go:build !race

package sops

const raceEnabled = false
