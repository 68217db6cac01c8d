package remote

import (
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// values writes a query into a URL.
func (q *Query) values() url.Values {
	v := url.Values{}
	set := func(key, value string) {
		if value != "" {
			v.Set(key, value)
		}
	}
	set("namespace", q.Namespace)
	set("delivery", q.Delivery)
	set("action", string(q.Action))
	if !q.Since.IsZero() {
		set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	if q.From != nil {
		set("from", strconv.FormatUint(*q.From, 10))
	}
	if q.Before != nil {
		set("before", strconv.FormatUint(*q.Before, 10))
	}
	if q.Limit > 0 {
		set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

// ParseQuery reads a query from a URL. It fails with Invalid for what it does not
// know, by name.
func ParseQuery(v url.Values) (Query, error) {
	if err := only(v, "namespace", "delivery", "action", "since", "from", "before", "limit"); err != nil {
		return Query{}, err
	}
	q := Query{Namespace: v.Get("namespace"), Delivery: v.Get("delivery"), Action: audit.Action(v.Get("action"))}
	var err error
	if s := v.Get("since"); s != "" {
		if q.Since, err = time.Parse(time.RFC3339Nano, s); err != nil {
			return Query{}, invalid("since")
		}
	}
	if q.From, err = index(v, "from"); err != nil {
		return Query{}, err
	}
	if q.Before, err = index(v, "before"); err != nil {
		return Query{}, err
	}
	if q.From != nil && q.Before != nil {
		return Query{}, fault.New(fault.Invalid, "from and before do not go together")
	}
	q.Limit, err = ParseLimit(v, MaxEntries)
	return q, err
}

// ParseLimit reads the limit of a URL; most where there is none, or a greater one. It
// fails with Invalid.
func ParseLimit(v url.Values, most int) (int, error) {
	s := v.Get("limit")
	if s == "" {
		return most, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, invalid("limit")
	}
	return min(n, most), nil
}

func index(v url.Values, key string) (*uint64, error) {
	s := v.Get(key)
	if s == "" {
		return nil, nil //nolint:nilnil // no index is what is meant
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return nil, invalid(key)
	}
	return &n, nil
}

func only(v url.Values, keys ...string) error {
	for key, values := range v {
		if !slices.Contains(keys, key) || len(values) > 1 {
			return invalid(key)
		}
	}
	return nil
}

func invalid(key string) error {
	return fault.New(fault.Invalid, "the parameter %.40q is not understood", key)
}
