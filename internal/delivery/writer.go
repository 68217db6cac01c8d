package delivery

// Writer returns the user in whose name a delivery, named as marks name it, is applied, as
// its last pass had it: "" for Holdfast's own. It is false before the first pass.
func (e *Engine) Writer(owner string) (user string, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, st := range e.states {
		if id.String() == owner && st.writer != nil {
			return *st.writer, true
		}
	}
	return "", false
}

// writes notes in whose name a delivery is applied from now on.
func (e *Engine) writes(st *state, user string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	st.writer = &user
}
