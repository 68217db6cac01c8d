package signing

import (
	"strconv"
	"time"
)

// The types of the predicates, as cosign has them.
const (
	SLSA1     = "https://slsa.dev/provenance/v1"
	SLSA02    = "https://slsa.dev/provenance/v0.2"
	Vuln      = "https://cosign.sigstore.dev/attestation/vuln/v1"
	SPDX      = "https://spdx.dev/Document"
	CycloneDX = "https://cyclonedx.org/bom"
)

// Predicate is what an attestation says.
type Predicate struct {
	Type    string
	Content any
}

// Provenance is SLSA provenance, version 1, as GitHub's builders write it.
func Provenance(builder, repository string) Predicate {
	return Predicate{SLSA1, map[string]any{
		"buildDefinition": map[string]any{
			"buildType":            "https://actions.github.io/buildtypes/workflow/v1",
			"externalParameters":   map[string]any{"workflow": map[string]any{"repository": repository, "path": ".github/workflows/build.yaml", "ref": "refs/heads/main"}},
			"resolvedDependencies": []any{map[string]any{"uri": "git+" + repository + "@refs/heads/main", "digest": map[string]any{"gitCommit": "0123456789012345678901234567890123456789"}}},
		},
		"runDetails": map[string]any{"builder": map[string]any{"id": builder}, "metadata": map[string]any{"invocationId": repository + "/actions/runs/1"}},
	}}
}

// Provenance02 is SLSA provenance, version 0.2.
func Provenance02(builder, repository string) Predicate {
	return Predicate{SLSA02, map[string]any{
		"builder":    map[string]any{"id": builder},
		"buildType":  "https://github.com/slsa-framework/slsa-github-generator/container@v1",
		"invocation": map[string]any{"configSource": map[string]any{"uri": "git+" + repository + "@refs/heads/main", "entryPoint": ".github/workflows/build.yaml"}},
		"materials":  []any{map[string]any{"uri": "git+" + repository + "@refs/heads/main", "digest": map[string]any{"sha1": "0123456789012345678901234567890123456789"}}},
	}}
}

// Scan is a scan for vulnerabilities in the form that cosign specifies, with the
// result as Trivy writes it: one finding of each severity given.
func Scan(at time.Time, severities ...string) Predicate {
	findings := []any{}
	for i, severity := range severities {
		findings = append(findings, map[string]any{"VulnerabilityID": "CVE-2026-" + strconv.Itoa(1000+i), "PkgName": "openssl", "Severity": severity})
	}
	return Predicate{Vuln, map[string]any{
		"invocation": map[string]any{"parameters": nil, "uri": "", "event_id": "", "builder.id": ""},
		"scanner": map[string]any{
			"uri": "pkg:github/aquasecurity/trivy@0.65.0", "version": "0.65.0", "db": map[string]any{"uri": "", "version": ""},
			"result": map[string]any{"SchemaVersion": 2, "Results": []any{map[string]any{"Target": "image", "Class": "os-pkgs", "Type": "debian", "Vulnerabilities": findings}}},
		},
		"metadata": map[string]any{"scanStartedOn": at.UTC().Format(time.RFC3339), "scanFinishedOn": at.UTC().Format(time.RFC3339)},
	}}
}

// Bill is a bill of materials, SPDX or CycloneDX by its type.
func Bill(kind string) Predicate {
	if kind == CycloneDX {
		return Predicate{CycloneDX, map[string]any{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": []any{}}}
	}
	return Predicate{SPDX, map[string]any{
		"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "image", "dataLicense": "CC0-1.0",
		"documentNamespace": "https://holdfast.test/image", "packages": []any{},
		"creationInfo": map[string]any{"created": "2026-01-01T00:00:00Z", "creators": []any{"Tool: test"}},
	}}
}
