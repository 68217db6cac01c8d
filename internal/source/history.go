package source

import "context"

// History reads the commits behind a revision as Git hashed them. What is missing
// of the history is fetched when it is asked for, with the credential that found
// the revision. Errors are *fault.Error: Unreachable, Unauthorized, Limit,
// Internal, and NotFound for an object that the revision does not reach.
type History interface {
	// Commit returns the raw content of the commit id, which the revision reaches:
	// the bytes that Git hashes behind the header "commit <size>\x00".
	Commit(ctx context.Context, id string) ([]byte, error)
	// Tag returns the annotated tag by which the revision was found and its raw
	// content (behind "tag <size>\x00"); "" and nil if there is none.
	Tag(ctx context.Context) (id string, raw []byte, err error)
	// Since lists the commits that the revision reaches and base does not, parents
	// after their children, the revision's own first; along first parents only if
	// asked. An empty base lists all. A base that is not among the ancestors is
	// NotFound: the branch was rewound.
	Since(ctx context.Context, base string, firstParent bool) ([]string, error)
	// Contains reports whether the revision is, or descends from, the commit.
	Contains(ctx context.Context, commit string) (bool, error)
}
