// Package memory gives out memory for large tables of values without pointers.
// On Linux it is mapped in huge pages where the system lets programs ask for
// them: a table of a hundred megabytes that fills up takes the kernel as long as
// what is written into it otherwise, a page of 4 KiB at a time.
package memory

import "unsafe"

// Arena gives out memory that is released all at once. The zero value is ready.
// It is for one goroutine at a time.
type Arena struct {
	pieces [][]byte
	free   []byte
}

// pieceBytes is how much is asked of the system at once.
const pieceBytes = 8 << 20

// Make returns n zero values of a type that holds no pointer: the garbage
// collector does not look into them. They are gone with Release.
func Make[T any](a *Arena, n int) []T {
	var zero T
	const align = 64 // of a cache line, and more than any type needs
	size := (n*int(unsafe.Sizeof(zero)) + align - 1) &^ (align - 1)
	if size > len(a.free) {
		piece := allocate(max(size, pieceBytes))
		a.pieces = append(a.pieces, piece)
		a.free = piece
	}
	memory := a.free[:size]
	a.free = a.free[size:]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(memory))), n)
}

// Release gives all memory back. Nothing that Make returned may be used after it.
func (a *Arena) Release() {
	for _, piece := range a.pieces {
		release(piece)
	}
	*a = Arena{}
}
