package memory

import "golang.org/x/sys/unix"

// allocate maps memory; where that is refused it takes the heap's.
func allocate(n int) []byte {
	piece, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return make([]byte, n)
	}
	_ = unix.Madvise(piece, unix.MADV_HUGEPAGE) // only faster
	return piece
}

// release unmaps what was mapped; memory of the heap is none of it and stays.
func release(piece []byte) { _ = unix.Munmap(piece) }
