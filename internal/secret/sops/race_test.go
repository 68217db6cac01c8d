//go:build race

package sops

const raceEnabled = true
