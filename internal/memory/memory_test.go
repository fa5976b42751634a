package memory

import "testing"

// TestMake: values are zero, apart from each other, and may be more than a piece.
func TestMake(t *testing.T) {
	type value struct {
		a uint64
		b [3]byte
	}
	var a Arena
	defer a.Release()
	var tables [][]value
	for _, n := range []int{1, 3, 1000, pieceBytes / 8, 5} {
		table := Make[value](&a, n)
		if len(table) != n {
			t.Fatalf("%d values, want %d", len(table), n)
		}
		tables = append(tables, table)
	}
	for i, table := range tables {
		for k := range table {
			if table[k] != (value{}) {
				t.Fatalf("table %d, value %d is %v", i, k, table[k])
			}
			table[k] = value{uint64(i) + 1, [3]byte{1}}
		}
	}
	for i, table := range tables {
		if table[0].a != uint64(i)+1 || table[len(table)-1].a != uint64(i)+1 {
			t.Errorf("table %d was written over", i)
		}
	}
}
