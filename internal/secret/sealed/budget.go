package sealed

import (
	"errors"
	"fmt"
	"reflect"
)

// Bounds of templates. They are programs of whoever writes the SealedSecret, and run
// where the keys are: what they may do is counted before it is done, in steps (commands
// executed, by weight), work (bytes that functions read or make) and output.
const (
	maxText    = 64 << 10 // of one template
	maxSteps   = 100_000  // of all templates of a SealedSecret
	maxWork    = 64 << 20
	maxValue   = 1 << 20 // of one value, and of all output: a Secret holds no more
	maxMade    = 8 << 20 // by one call of a function
	maxNumber  = 10_000  // of what a function repeats or counts
	maxPattern = 256     // bytes of an expression or a version
	maxDeep    = 32      // of values within values

	elementSize = 16
)

// Why a template ends. Errors of the template package quote values; these do not.
var (
	errSpent  = errors.New("it does more than a template may: it loops, or makes values, without end")
	errNumber = fmt.Errorf("it counts or repeats further than %d", maxNumber)
	errFailed = errors.New("it fails")
)

// budget is what the templates of one SealedSecret may still do.
type budget struct{ steps, work, output int }

func newBudget() *budget { return &budget{steps: maxSteps, work: maxWork, output: maxValue} }

// step is called in templates, wherever they can come by again.
func (b *budget) step(n int) (string, error) {
	if b.steps -= n; b.steps < 0 {
		return "", errSpent
	}
	return "", nil
}

func (b *budget) spend(n int) error {
	if b.work -= n; b.work < 0 || n > maxMade {
		return errSpent
	}
	return nil
}

// counted returns f, which is called only while the budget lasts, and whose values are
// bounded. What is against that is thrown: the template package makes errors of it.
func (b *budget) counted(f any, c cost) any {
	fn := reflect.ValueOf(f)
	return reflect.MakeFunc(fn.Type(), func(args []reflect.Value) []reflect.Value {
		flat := args
		if fn.Type().IsVariadic() {
			flat = append([]reflect.Value(nil), args[:len(args)-1]...)
			for i := range args[len(args)-1].Len() {
				flat = append(flat, args[len(args)-1].Index(i))
			}
		}
		b.charge(flat)
		n, err := c(flat)
		if err == nil {
			err = b.spend(n)
		}
		if err != nil {
			panic(err)
		}
		var results []reflect.Value
		if fn.Type().IsVariadic() {
			results = fn.CallSlice(args)
		} else {
			results = fn.Call(args)
		}
		b.charge(results)
		return results
	}).Interface()
}

func (b *budget) charge(values []reflect.Value) {
	for _, v := range values {
		n, err := size(v)
		if err == nil {
			err = b.spend(n)
		}
		if err != nil {
			panic(err)
		}
	}
}

// size returns how much memory a value takes, roughly. It fails with errSpent beyond
// maxValue, and looks no further.
func size(v reflect.Value) (int, error) {
	left := maxValue
	if !measure(v, &left, maxDeep) {
		return 0, errSpent
	}
	return maxValue - left, nil
}

// measure takes the size of v from left; false when that is spent, or v is too deep.
func measure(v reflect.Value, left *int, levels int) bool {
	if *left -= elementSize; *left < 0 || levels == 0 {
		return false
	}
	switch v.Kind() {
	case reflect.String:
		*left -= v.Len()
	case reflect.Interface, reflect.Pointer:
		return v.IsNil() || v.Kind() == reflect.Pointer || measure(v.Elem(), left, levels)
	case reflect.Slice, reflect.Array, reflect.Map:
		return measureElements(v, left, levels-1)
	default: // numbers, and structs of the libraries, which hold no more than they were made of
	}
	return *left >= 0
}

func measureElements(v reflect.Value, left *int, levels int) bool {
	if v.Kind() == reflect.Map {
		for entries := v.MapRange(); entries.Next(); {
			if !measure(entries.Key(), left, levels) || !measure(entries.Value(), left, levels) {
				return false
			}
		}
		return true
	}
	if v.Type().Elem().Kind() == reflect.Uint8 {
		*left -= v.Len()
		return *left >= 0
	}
	for i := range v.Len() {
		if !measure(v.Index(i), left, levels) {
			return false
		}
	}
	return true
}

// count returns how many elements a value has; a text its bytes, anything else one.
func count(v reflect.Value) int {
	for v.Kind() == reflect.Interface && !v.IsNil() {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.String, reflect.Slice, reflect.Array, reflect.Map:
		return v.Len() + 1
	default:
		return 1
	}
}

// strs returns the arguments that are texts, in order.
func strs(args []reflect.Value) []string {
	var all []string
	for _, a := range args {
		for a.Kind() == reflect.Interface && !a.IsNil() {
			a = a.Elem()
		}
		if a.Kind() == reflect.String {
			all = append(all, a.String())
		}
	}
	return all
}

// ints returns the arguments that are whole numbers, in order. It fails with errNumber.
func ints(args []reflect.Value) ([]int, error) {
	var all []int
	for _, a := range args {
		if !a.CanInt() {
			continue
		}
		if a.Int() > maxNumber || a.Int() < -maxNumber {
			return nil, errNumber
		}
		all = append(all, int(a.Int()))
	}
	return all, nil
}
