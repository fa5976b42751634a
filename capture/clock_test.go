package capture

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// TestClock compares with arithmetic that does not overflow.
func TestClock(t *testing.T) {
	check := func(resolution byte, offset int64, timestamp uint64) {
		t.Helper()
		base, exponent := int64(10), int64(resolution&0x7f)
		if resolution&0x80 != 0 {
			base = 2
		}
		want := new(big.Int).SetUint64(timestamp)
		want.Mul(want, big.NewInt(1e9))
		want.Div(want, new(big.Int).Exp(big.NewInt(base), big.NewInt(exponent), nil))
		fits := want.IsInt64()
		seconds := new(big.Int).Mul(big.NewInt(offset), big.NewInt(1e9))
		fits = fits && seconds.IsInt64()
		want.Add(want, seconds)
		fits = fits && want.IsInt64()
		c := newClock(resolution, offset)
		got, ok := c.nanoseconds(timestamp)
		if ok != fits || ok && got != want.Int64() {
			t.Errorf("%d units of %d^-%d and %d s: %d, %v; want %s, %v", timestamp, base, exponent, offset, got, ok, want, fits)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for resolution := range 256 {
		for _, offset := range []int64{0, 1, -1, -2208988800, math.MaxInt64, math.MinInt64, math.MaxInt64 / 1_000_000_000, math.MinInt64 / 1_000_000_000} {
			for _, timestamp := range []uint64{0, 1, 999_999_999, 1_700_000_000, math.MaxInt64, math.MaxUint64} {
				check(byte(resolution), offset, timestamp)
			}
			check(byte(resolution), offset, r.Uint64()>>r.UintN(64))
		}
	}
}
