package cluster

// reusePort is SO_REUSEPORT, which package syscall does not name on every architecture.
const reusePort = 0xf
