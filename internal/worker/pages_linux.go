package worker

import (
	"bufio"
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Pages are where the program itself lies in the memory of this process.
type Pages [][2]uint64

// ProgramPages returns the read-only pages of the program. It opens a file, which a
// cage forbids; none where that fails: they save memory and change nothing else.
func ProgramPages() Pages {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil
	}
	defer f.Close()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	var pages Pages
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) < 6 || string(fields[5]) != program || fields[1][0] != 'r' || fields[1][1] != '-' {
			continue
		}
		from, to, _ := bytes.Cut(fields[0], []byte("-"))
		start, err := strconv.ParseUint(string(from), 16, 64)
		if err != nil {
			continue
		}
		if end, err := strconv.ParseUint(string(to), 16, 64); err == nil {
			pages = append(pages, [2]uint64{start, end})
		}
	}
	return pages
}

// GiveBack has the kernel forget which of these pages were used, most of which only
// the start of the program needed: what is used again is mapped again from its cache of
// the file.
func (p Pages) GiveBack() {
	for _, r := range p {
		// Advice that is not taken changes nothing.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(r[0]), uintptr(r[1]-r[0]), unix.MADV_DONTNEED)
	}
}
