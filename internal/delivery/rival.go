package delivery

import "github.com/holdfastcd/holdfast/internal/object"

// rivals are the deliveries that want an object whose events go to another one, each
// with the owner that it was told of last. Two that make an object at the same moment
// find it absent both; the one whose mark was written over must hear of it.
type rivals map[object.ID]map[ID]string

// enter notes that id wants o as well. What it was told of stays.
func (r rivals) enter(o object.ID, id ID) {
	if r[o] == nil {
		r[o] = map[ID]string{}
	}
	if _, known := r[o][id]; !known {
		r[o][id] = ""
	}
}

// leave forgets that id wants o.
func (r rivals) leave(o object.ID, id ID) {
	delete(r[o], id)
	if len(r[o]) == 0 {
		delete(r, o)
	}
}

// told returns those who have not heard yet that o carries owner's mark.
func (r rivals) told(o object.ID, owner string) []ID {
	var news []ID
	for id, last := range r[o] {
		if last != owner {
			r[o][id] = owner
			news = append(news, id)
		}
	}
	return news
}
