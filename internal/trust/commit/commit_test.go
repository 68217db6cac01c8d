package commit

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// TestSignatures judges commits that git made, with gpg and ssh-keygen, each fetched
// from a server.
func TestSignatures(t *testing.T) {
	f := newForge(t)
	team := func(t *testing.T) trust.Authority {
		return trust.Authority{Name: "team", GPG: shared.keys(t, "alice", "bob", "carol", "erin", "old", "weak")}
	}
	revoked := func(name string) func(*testing.T) trust.Authority {
		return func(t *testing.T) trust.Authority {
			return trust.Authority{Name: "team", GPG: shared.revoked(t, name)}
		}
	}
	lines := func(rows ...[3]string) func(*testing.T) trust.Authority {
		return func(t *testing.T) trust.Authority {
			text := "# signers\n\n"
			for _, r := range rows {
				text += shared.line(t, r[0], r[1], r[2])
			}
			return trust.Authority{Name: "team", SSH: []byte(text)}
		}
	}
	ssh := lines([3]string{"alice@example.com", "", "alice"}, [3]string{"bob@example.com,rob@*", "", "bob"}, [3]string{"*@example.com", "", "rsa"})
	with := func(from func(*testing.T) trust.Authority, change func(*trust.Authority)) func(*testing.T) trust.Authority {
		return func(t *testing.T) trust.Authority {
			a := from(t)
			change(&a)
			return a
		}
	}
	cases := map[string]struct {
		reason string
		made   made
		by     func(*testing.T) trust.Authority
		author bool   // must match
		want   string // of the problem; "" if it is proven
	}{
		"gpg":          {"signed by a key of the team", made{by: "gpg:alice"}, team, true, ""},
		"gpg rsa":      {"RSA of 2048 bits suffices", made{by: "gpg:bob"}, team, true, ""},
		"unsigned":     {"nobody signed", made{}, team, false, "it is not signed"},
		"gpg stranger": {"signed by a key of nobody", made{by: "gpg:stranger"}, team, false, "belongs to no authority"},
		"gpg weak key": {"RSA of 1024 bits does not suffice", made{by: "gpg:weak"}, team, false, "too weak"},
		"gpg weak hash": {
			"SHA-1 can be made to collide",
			made{by: "gpg:alice", gpg: []string{"--digest-algo", "SHA1"}},
			team, false, "SHA-1, which is too weak",
		},
		"gpg old key":       {"the key vouches for itself by SHA-1", made{by: "gpg:old"}, team, false, "may not sign"},
		"gpg before expiry": {"the key expired later", made{by: "gpg:carol", at: day2026(1, 20)}, team, true, ""},
		"gpg expired": {
			"the commit is younger than the key was valid, whatever its signature claims",
			made{by: "gpg:carol", at: day2026(3, 1), signed: day2026(1, 20)},
			team, false, "had expired, or was revoked, by 2026-03-01",
		},
		"gpg older than its key": {
			"a key cannot sign before it was made",
			made{by: "gpg:alice", at: day2026(1, 5), signed: time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC), gpg: []string{"--ignore-time-conflict", "--ignore-valid-from"}},
			team, false, "may not sign",
		},
		"gpg signature expired": {
			"the signature itself was for a few days", made{by: "gpg:alice", gpg: []string{"--default-sig-expire", "3d"}}, team, false, "has expired",
		},
		"gpg future": {
			"a clock is wrong", made{by: "gpg:alice", at: now.Add(time.Hour)}, team, false, "a clock is wrong",
		},
		"gpg a little ahead": {"clocks differ", made{by: "gpg:alice", at: now.Add(time.Minute)}, team, false, ""},
		"gpg signed in the future": {
			"the commit is dated well, its signature is not",
			made{by: "gpg:alice", at: day2026(2, 1), signed: now.Add(time.Hour)},
			team, false, "a clock is wrong",
		},
		"gpg subkey":         {"a subkey signs for its key", made{by: "gpg:erin", at: day2026(2, 1)}, team, true, ""},
		"gpg retired before": {"it was signed before the key was retired", made{by: "gpg:dave", at: day2026(2, 1)}, revoked("dave"), false, ""},
		"gpg retired":        {"it was signed after that", made{by: "gpg:dave", at: day2026(4, 1)}, revoked("dave"), false, "revoked"},
		"gpg compromised":    {"nothing counts of a key that was stolen, whenever", made{by: "gpg:frank", at: day2026(2, 1)}, revoked("frank"), false, "is revoked"},
		"gpg other author":   {"the author is not the signer", made{by: "gpg:alice", author: "bob"}, team, true, "the author is <bob@example.com>"},
		"gpg any author":     {"it is not demanded", made{by: "gpg:alice", author: "bob"}, team, false, ""},
		"gpg not yet": {
			"the authority counts from a date on",
			made{by: "gpg:alice", at: day2026(2, 1)},
			with(team, func(a *trust.Authority) { a.NotBefore = day2026(2, 2) }), false, "counts from 2026-02-02",
		},
		"gpg no longer": {
			"the authority counted until a date",
			made{by: "gpg:alice", at: day2026(2, 3)},
			with(team, func(a *trust.Authority) { a.NotAfter = day2026(2, 2) }), false, "counted until 2026-02-02",
		},
		"gpg within": {
			"between both dates",
			made{by: "gpg:alice", at: day2026(2, 2)},
			with(team, func(a *trust.Authority) { a.NotBefore, a.NotAfter = day2026(2, 1), day2026(2, 3) }), false, "",
		},
		"gpg revoked by the policy": {
			"whenever it signed",
			made{by: "gpg:alice"},
			with(team, func(a *trust.Authority) { a.Revoked = []trust.Revocation{{Fingerprint: shared.gpg["alice"]}} }), false, "is revoked",
		},
		"gpg revoked by the policy since": {
			"from that day on",
			made{by: "gpg:alice", at: day2026(2, 2)},
			with(team, func(a *trust.Authority) {
				a.Revoked = []trust.Revocation{{Fingerprint: strings.ToLower(shared.gpg["alice"]), Since: day2026(2, 2)}}
			}), false, "is revoked since 2026-02-02",
		},
		"gpg before it was revoked": {
			"what is older counts",
			made{by: "gpg:alice", at: day2026(2, 1)},
			with(team, func(a *trust.Authority) {
				a.Revoked = []trust.Revocation{{Fingerprint: shared.gpg["alice"], Since: day2026(2, 2)}}
			}), false, "",
		},
		"gpg identity": {
			"the key of somebody who may sign",
			made{by: "gpg:alice"},
			with(team, func(a *trust.Authority) { a.Identities = []string{"ali*@example.com"} }), false, "",
		},
		"gpg other identity": {
			"the key of somebody who may not",
			made{by: "gpg:alice"},
			with(team, func(a *trust.Authority) { a.Identities = []string{"bob@example.com"} }), false, "not among the identities",
		},

		"ssh":             {"signed by an allowed key", made{by: "ssh:alice"}, ssh, true, ""},
		"ssh ecdsa":       {"and by a pattern's principal", made{by: "ssh:bob"}, ssh, true, ""},
		"ssh rsa":         {"RSA of 2048 bits, with SHA-2", made{by: "ssh:rsa", author: "anybody"}, ssh, true, ""},
		"ssh stranger":    {"a key that nobody allowed", made{by: "ssh:stranger"}, ssh, false, "belongs to no authority"},
		"ssh for gpg":     {"an authority of the other kind", made{by: "ssh:alice"}, team, false, "a signature of kind ssh belongs to no authority"},
		"gpg for ssh":     {"an authority of the other kind", made{by: "gpg:alice"}, ssh, false, "a signature of kind gpg belongs to no authority"},
		"ssh other":       {"the author is not the signer", made{by: "ssh:alice", author: "bob"}, ssh, true, "the author is <bob@example.com>"},
		"ssh not yet":     {"before its line is valid", made{by: "ssh:alice", at: day2026(2, 1)}, lines([3]string{"alice@example.com", `valid-after="20260202"`, "alice"}), false, "is not valid before 2026-02-02"},
		"ssh expired":     {"after its line was valid", made{by: "ssh:alice", at: day2026(2, 3)}, lines([3]string{"alice@example.com", `valid-before="202602021200Z"`, "alice"}), false, "is not valid after 2026-02-02"},
		"ssh valid":       {"in between", made{by: "ssh:alice", at: day2026(2, 2)}, lines([3]string{"alice@example.com", `valid-after="20260201",valid-before="20260203"`, "alice"}), false, ""},
		"ssh rotated":     {"one of two lines suffices", made{by: "ssh:alice", at: day2026(2, 2)}, lines([3]string{"alice@example.com", `valid-before="20260201"`, "alice"}, [3]string{"alice@example.com", `valid-after="20260201"`, "alice"}), true, ""},
		"ssh namespace":   {"its line is for git, too", made{by: "ssh:alice"}, lines([3]string{"alice@example.com", `namespaces="file,git"`, "alice"}), false, ""},
		"ssh no git":      {"its line is for something else", made{by: "ssh:alice"}, lines([3]string{"alice@example.com", `namespaces="file"`, "alice"}), false, `is not allowed for "git"`},
		"ssh revoked":     {"by the policy", made{by: "ssh:alice"}, with(ssh, func(a *trust.Authority) { a.Revoked = []trust.Revocation{{Fingerprint: fingerprint("alice")}} }), false, "is revoked"},
		"ssh certificate": {"a key that an authority certified", made{by: "ssh:certified-cert.pub", author: "carol", at: day2026(3, 1)}, lines([3]string{"*@example.com", "cert-authority", "ca"}), true, ""},
		"ssh certificate expired": {
			"the certificate was valid until April",
			made{by: "ssh:certified-cert.pub", author: "carol", at: day2026(4, 2)},
			lines([3]string{"*@example.com", "cert-authority", "ca"}), true, "the SSH certificate",
		},
		"ssh certificate principal": {
			"the authority may not speak for that name",
			made{by: "ssh:certified-cert.pub", author: "carol", at: day2026(3, 1)},
			lines([3]string{"*@example.org", "cert-authority", "ca"}), true, "names no principal",
		},
		"ssh certificate stranger": {
			"the line of the authority is no authority's",
			made{by: "ssh:certified-cert.pub", author: "carol", at: day2026(3, 1)},
			lines([3]string{"*@example.com", "", "ca"}), true, "belongs to no authority",
		},
		"ssh certificate revoked": {
			"the authority's key is revoked",
			made{by: "ssh:certified-cert.pub", author: "carol", at: day2026(3, 1)},
			with(lines([3]string{"*@example.com", "cert-authority", "ca"}), func(a *trust.Authority) {
				a.Revoked = []trust.Revocation{{Fingerprint: fingerprint("ca"), Since: day2026(2, 1)}}
			}), true, "is revoked since",
		},
		"ssh plain key of an authority": {
			"an authority certifies, and does not sign itself",
			made{by: "ssh:ca"},
			lines([3]string{"*@example.com", "cert-authority", "ca"}), false, "belongs to no authority",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			id := f.commit(tc.made)
			v, err := newVerifier().Verify(t.Context(), f.fetch(id, ""), demand(trust.Commits{Authorities: []trust.Authority{tc.by(t)}, AuthorMatches: tc.author}), "")
			check(t, tc.reason, v, err, tc.want)
			if tc.want == "" && v.Revision().Commit != id {
				t.Errorf("the revision is %q", v.Revision().Commit)
			}
		})
	}
}

func fingerprint(key string) string {
	out, err := shared.run(nil, "", "ssh-keygen", "-l", "-f", "ssh-"+key+".pub")
	if err != nil {
		panic(err)
	}
	return strings.Fields(out)[1]
}

// check compares an outcome with a part of its problem, or "" for success.
func check(t *testing.T, reason string, v trust.Verified, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("%s: %v", reason, err)
		}
		for _, c := range v.Evidence().Commits {
			if !c.Tag && c.Signer == nil && len(v.Evidence().Commits) == 1 {
				t.Errorf("%s: there is no signer of %s", reason, c.ID)
			}
		}
		return
	}
	if fault.KindOf(err) != fault.Refused || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: error is %v, want one that is refused with %q", reason, err, want)
	}
	if v.Revision().Commit != "" {
		t.Errorf("%s: what is refused comes with its revision", reason)
	}
}
