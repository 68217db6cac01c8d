//go:build unix && !linux

package cluster

import "syscall"

const reusePort = syscall.SO_REUSEPORT
