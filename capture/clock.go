package capture

import (
	"math"
	"math/bits"
)

// clock turns the timestamps of an interface of a pcapng file into nanoseconds.
// A timestamp counts units of 1/10^n or 1/2^n of a second.
type clock struct {
	// Of decimal units a timestamp is multiplied or divided to nanoseconds; one of
	// both is 1, and multiply 0 when every timestamp is less than one.
	multiply, divide uint64
	// A binary unit is a second shifted right by shift.
	binary bool
	shift  uint
	// offset is in nanoseconds; far means that no time fits.
	offset int64
	far    bool
}

// newClock makes a clock of the options if_tsresol and if_tsoffset, the latter
// in seconds.
func newClock(resolution byte, offset int64) clock {
	c := clock{multiply: 1, divide: 1, offset: offset * 1e9}
	c.far = c.offset/1e9 != offset
	exponent := int(resolution &^ 0x80)
	if c.binary = resolution&0x80 != 0; c.binary {
		c.shift = uint(exponent)
		return c
	}
	for n := exponent; n < 9; n++ {
		c.multiply *= 10
	}
	for n := 9; n < exponent; n++ {
		if c.divide > math.MaxUint64/10 {
			c.multiply = 0
			break
		}
		c.divide *= 10
	}
	return c
}

// nanoseconds returns a timestamp in nanoseconds since 1970. What is finer is
// cut. It reports false when that does not fit.
func (c *clock) nanoseconds(timestamp uint64) (int64, bool) {
	var high, low uint64
	switch {
	case c.binary:
		high, low = bits.Mul64(timestamp, 1e9)
		if c.shift < 64 {
			high, low = high>>c.shift, low>>c.shift|high<<(64-c.shift)
		} else {
			high, low = 0, high>>(c.shift-64)
		}
	case c.divide == 1:
		high, low = bits.Mul64(timestamp, c.multiply)
	default:
		low = timestamp * c.multiply / c.divide
	}
	t := int64(low) + c.offset
	if high != 0 || low > math.MaxInt64 || t < c.offset || c.far {
		return 0, false
	}
	return t, true
}
