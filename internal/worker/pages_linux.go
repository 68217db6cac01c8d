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

// ProgramPages returns the read-only pages of the program that are as its file has them:
// what a loader wrote to and locked after (RELRO) is not among them, since it could not
// be had again. It opens a file, which a cage forbids; none where that fails: they save
// memory and change nothing else.
func ProgramPages() Pages {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return nil
	}
	defer f.Close()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	var pages Pages
	var at [2]uint64 // the mapping that lines are about, if it is one of the program's
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := bytes.Fields(lines.Bytes())
		switch {
		case len(fields) == 0:
		case string(fields[0]) == "Anonymous:":
			if at[1] != 0 && len(fields) > 1 && string(fields[1]) == "0" {
				pages = append(pages, at)
			}
		case !bytes.HasSuffix(fields[0], []byte(":")):
			at = mapping(fields, program)
		}
	}
	return pages
}

// mapping reads the first line on a mapping; the zero value if it is not read-only, or
// not of the program.
func mapping(fields [][]byte, program string) [2]uint64 {
	if len(fields) < 6 || string(fields[5]) != program || fields[1][0] != 'r' || fields[1][1] != '-' {
		return [2]uint64{}
	}
	from, to, _ := bytes.Cut(fields[0], []byte("-"))
	start, err := strconv.ParseUint(string(from), 16, 64)
	if err != nil {
		return [2]uint64{}
	}
	end, err := strconv.ParseUint(string(to), 16, 64)
	if err != nil {
		return [2]uint64{}
	}
	return [2]uint64{start, end}
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
