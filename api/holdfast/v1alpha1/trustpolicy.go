package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TrustPolicy says what deliveries must prove before anything of them is applied:
// who signed their commits and their images. Several that select one delivery add
// up: each must hold.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=trustpolicies,scope=Cluster,shortName=trust,categories=holdfast
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Selected",type=integer,JSONPath=`.status.selected`
// +kubebuilder:printcolumn:name="Refused",type=integer,JSONPath=`.status.refused`
// +kubebuilder:printcolumn:name="Unproven",type=integer,JSONPath=`.status.unproven`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Status",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type TrustPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	// +required
	Spec   TrustPolicySpec   `json:"spec"`
	Status TrustPolicyStatus `json:"status,omitzero"`
}

// TrustPolicyList is a list of TrustPolicies.
//
// +kubebuilder:object:root=true
type TrustPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []TrustPolicy `json:"items"`
}

// The modes.
const (
	ModeEnforce = "enforce"
	ModeAudit   = "audit"
)

// TrustPolicySpec is what is demanded, and of which deliveries.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="has(self.commits) || has(self.history) || has(self.images) || has(self.secrets) || (has(self.strict) && self.strict)",message="the policy demands nothing: set commits, history, images, secrets or strict"
type TrustPolicySpec struct {
	// Mode is enforce, which refuses a delivery that does not prove what is
	// demanded, or audit, which delivers it and tells.
	//
	// +kubebuilder:validation:Enum=enforce;audit
	// +kubebuilder:default=enforce
	Mode string `json:"mode,omitempty"`
	// Select says which deliveries the policy is for; all of them if it is empty.
	Select Select `json:"select,omitzero"`
	// Commits demands signatures of commits.
	Commits *Commits `json:"commits,omitempty"`
	// History protects the line of commits that was delivered.
	History *History `json:"history,omitempty"`
	// Images demands proof about the images that the delivery runs.
	Images *Images `json:"images,omitempty"`
	// Secrets demands that no secret stands in plaintext in the files of the delivery.
	Secrets *Secrets `json:"secrets,omitempty"`
	// Strict removes from managed objects the fields that others added to them.
	Strict bool `json:"strict,omitempty"`
}

// Select chooses deliveries. Of the fields that are set, all must match; of a list,
// one entry. Nothing set selects every delivery.
//
// +kubebuilder:pruning:PreserveUnknownFields
type Select struct {
	// Namespaces are globs over the namespace of the Application or Kustomization.
	//
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Namespaces []string `json:"namespaces,omitempty"`
	// Projects are globs over the AppProject of an Application. A Kustomization has
	// none, so that no project matches it.
	//
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Projects []string `json:"projects,omitempty"`
	// Labels selects by the labels of the Application or Kustomization.
	//
	// +kubebuilder:pruning:PreserveUnknownFields
	Labels *metav1.LabelSelector `json:"labels,omitempty"`
	// Repositories are globs over the address of the repository: host/path, however
	// the delivery writes it. * ends at a slash, ** does not.
	//
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	Repositories []string `json:"repositories,omitempty"`
}

// The values of Commits.
const (
	VerifyHead      = "head"
	VerifyRange     = "range"
	LineFirstParent = "firstParent"
	LineAll         = "all"
)

// Commits demands signatures of commits.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!has(self.line) || (has(self.verify) && self.verify == 'range')",message="line is for verify: range"
// +kubebuilder:validation:XValidation:rule="!has(self.from) || (has(self.verify) && self.verify == 'range')",message="from is for verify: range"
type Commits struct {
	// Verify is head, the delivered commit or its tag alone, or range, every commit
	// since the last one that was delivered and verified.
	//
	// +kubebuilder:validation:Enum=head;range
	Verify string `json:"verify,omitempty"`
	// Line is firstParent, the commits of the branch itself, or all, those that were
	// merged into it as well. It is for verify: range.
	//
	// +kubebuilder:validation:Enum=firstParent;all
	Line string `json:"line,omitempty"`
	// From are the first commits to trust, one for each repository; they and what is
	// behind them are not judged. It is for verify: range.
	//
	// +kubebuilder:validation:MaxItems=256
	From []From `json:"from,omitempty"`
	// Authorities are those of whom one must have signed each commit.
	//
	// +required
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	Authorities []CommitAuthority `json:"authorities"`
	// Forge are those who may sign merge commits, whoever their author is: the key
	// by which GitHub or GitLab signs what is merged there.
	//
	// +kubebuilder:validation:MaxItems=8
	// +listType=map
	// +listMapKey=name
	Forge []CommitAuthority `json:"forge,omitempty"`
	// AuthorMatches demands that the author's address is one of the signer's.
	AuthorMatches bool `json:"authorMatches,omitempty"`
}

// From is the first commit to trust of a repository.
//
// +kubebuilder:pruning:PreserveUnknownFields
type From struct {
	// Repository is its address, in any form.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	Repository string `json:"repository"`
	// Commit is its full id.
	//
	// +required
	// +kubebuilder:validation:Pattern=`^([0-9a-f]{40}|[0-9a-f]{64})$`
	Commit string `json:"commit"`
}

// Terms bound what an authority is trusted with.
type Terms struct {
	// Identities are patterns of which the signer's address, principal or subject
	// must match one; none: whoever the keys know.
	//
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	Identities []string `json:"identities,omitempty"`
	// NotBefore is when its signatures begin to count.
	NotBefore *metav1.Time `json:"notBefore,omitempty"`
	// NotAfter is when new signatures end to count.
	NotAfter *metav1.Time `json:"notAfter,omitempty"`
	// Revoked are keys or certificates that do not count any more.
	//
	// +kubebuilder:validation:MaxItems=256
	Revoked []Revocation `json:"revoked,omitempty"`
}

// CommitAuthority is somebody who may sign commits, by one kind of key.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="[has(self.gpg), has(self.ssh), has(self.x509), has(self.sigstore)].filter(x, x).size() == 1",message="set exactly one of gpg, ssh, x509 and sigstore"
type CommitAuthority struct {
	// Name is how verdicts call it.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// GPG are OpenPGP public keys, armoured.
	GPG *Keys `json:"gpg,omitempty"`
	// SSH are lines of an allowed_signers file.
	SSH *Keys `json:"ssh,omitempty"`
	// X509 are PEM certificates of the authorities that give certificates to signers.
	X509 *Keys `json:"x509,omitempty"`
	// Sigstore is keyless signing, as by gitsign.
	Sigstore *Sigstore `json:"sigstore,omitempty"`

	Terms `json:",inline"`
}

// ImageAuthority is somebody who may sign images and attestations, by one kind of key.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="[has(self.key), has(self.sigstore), has(self.notation)].filter(x, x).size() == 1",message="set exactly one of key, sigstore and notation"
type ImageAuthority struct {
	// Name is how verdicts call it.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Key is a public key in PEM, as cosign's.
	Key *Keys `json:"key,omitempty"`
	// Sigstore is keyless signing, as by cosign.
	Sigstore *Sigstore `json:"sigstore,omitempty"`
	// Notation are PEM certificates: the roots of notation's trust store.
	Notation *Keys `json:"notation,omitempty"`

	Terms `json:",inline"`
}

// Keys are public keys or certificates: here, or in a ConfigMap or Secret.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="[has(self.inline), has(self.configMapRef), has(self.secretRef)].filter(x, x).size() == 1",message="set exactly one of inline, configMapRef and secretRef"
type Keys struct {
	// Inline is the text itself.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=262144
	Inline string `json:"inline,omitempty"`
	// ConfigMapRef names it in a ConfigMap.
	ConfigMapRef *KeyRef `json:"configMapRef,omitempty"`
	// SecretRef names it in a Secret.
	SecretRef *KeyRef `json:"secretRef,omitempty"`
}

// KeyRef names one key of a ConfigMap or Secret.
//
// +kubebuilder:pruning:PreserveUnknownFields
type KeyRef struct {
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key"`
}

// ObjectRef names a Secret.
//
// +kubebuilder:pruning:PreserveUnknownFields
type ObjectRef struct {
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// Sigstore is keyless signing: certificates for identities, proven by a log.
//
// +kubebuilder:pruning:PreserveUnknownFields
type Sigstore struct {
	// TrustedRoot is sigstore's trusted_root.json.
	//
	// +required
	TrustedRoot Keys `json:"trustedRoot"`
	// Identities are who may sign; one must match.
	//
	// +required
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Identities []Identity `json:"identities"`
	// IgnoreLog accepts signatures that no transparency log has an entry of, where a
	// timestamp proves when they were made.
	IgnoreLog bool `json:"ignoreLog,omitempty"`
}

// Identity is who a certificate was given to, and who says so.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="has(self.issuer) != has(self.issuerRegexp)",message="set issuer or issuerRegexp"
// +kubebuilder:validation:XValidation:rule="has(self.subject) != has(self.subjectRegexp)",message="set subject or subjectRegexp"
type Identity struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Issuer string `json:"issuer,omitempty"`
	// IssuerRegexp must match the whole of it.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	IssuerRegexp string `json:"issuerRegexp,omitempty"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Subject string `json:"subject,omitempty"`
	// SubjectRegexp must match the whole of it.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	SubjectRegexp string `json:"subjectRegexp,omitempty"`
}

// Revocation ends the trust in a key or certificate.
//
// +kubebuilder:pruning:PreserveUnknownFields
type Revocation struct {
	// Fingerprint is how verdicts name the key.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Fingerprint string `json:"fingerprint"`
	// Since is when it was compromised: what was provably signed before still
	// counts. Without it nothing does.
	Since *metav1.Time `json:"since,omitempty"`
	// Reason is for people.
	//
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason,omitempty"`
}

// The values of History.
const (
	RewindRefuse = "refuse"
	RewindAllow  = "allow"
)

// History protects the line of commits that was delivered.
//
// +kubebuilder:pruning:PreserveUnknownFields
type History struct {
	// Rewind is refuse, or allow: whether a branch may lose the commit that was
	// delivered last. It is told either way.
	//
	// +kubebuilder:validation:Enum=refuse;allow
	Rewind string `json:"rewind,omitempty"`
}

// PlaintextRefuse is the value of Secrets.
const PlaintextRefuse = "Refuse"

// Secrets demands that no secret stands in plaintext in the files of the delivery.
//
// +kubebuilder:pruning:PreserveUnknownFields
type Secrets struct {
	// Plaintext is Refuse: a revision is not delivered in which a file that the
	// delivery reads holds a secret value that is not sealed.
	//
	// +required
	// +kubebuilder:validation:Enum=Refuse
	Plaintext string `json:"plaintext"`
	// Allow excuses findings.
	//
	// +kubebuilder:validation:MaxItems=256
	Allow []AllowedSecret `json:"allow,omitempty"`
	// HonorRepositoryAllowList excuses as well what .holdfast/allow-secrets.yaml in
	// the repository lists: whoever may change the repository may change that.
	HonorRepositoryAllowList bool `json:"honorRepositoryAllowList,omitempty"`
}

// AllowedSecret excuses findings of a rule in some files until a day.
//
// +kubebuilder:pruning:PreserveUnknownFields
type AllowedSecret struct {
	// Path is a glob over the file's path. * ends at a slash, ** does not.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Path string `json:"path"`
	// Rule is the one by which the finding was made; "*" stands for any.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Rule string `json:"rule"`
	// Fingerprint of the finding; none: any.
	//
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{32}$`
	Fingerprint string `json:"fingerprint,omitempty"`
	// Reason is for people.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason"`
	// Expires is the last day on which it counts, as 2006-01-02; at most a year ahead.
	//
	// +required
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`
	Expires string `json:"expires"`
}

// The values of Images.
const (
	PinnedRequired = "required"
	PinnedResolve  = "resolve"
)

// Images demands proof about images.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="has(self.authorities) || ((!has(self.provenance) || has(self.provenance.authorities)) && (!has(self.scan) || has(self.scan.authorities)) && (!has(self.sbom) || has(self.sbom.authorities)))",message="nobody is named who may sign the attestations: set authorities, of images or of the attestation"
type Images struct {
	// Match are globs over registry/repository of the images that this is for; none:
	// all images. Those that match none are not judged.
	//
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	Match []string `json:"match,omitempty"`
	// Pinned is required, which refuses images that are not given by digest, or
	// resolve, which looks a tag up once and applies its digest.
	//
	// +kubebuilder:validation:Enum=required;resolve
	Pinned string `json:"pinned,omitempty"`
	// Allowed are globs over registry/repository; none: any. ** crosses slashes.
	//
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	Allowed []string `json:"allowed,omitempty"`
	// Authorities are those of whom one must have signed each image; none: no
	// signature is demanded.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	Authorities []ImageAuthority `json:"authorities,omitempty"`
	// Provenance demands SLSA provenance.
	Provenance *Provenance `json:"provenance,omitempty"`
	// Scan demands a vulnerability scan.
	Scan *Scan `json:"scan,omitempty"`
	// SBOM demands a software bill of materials.
	SBOM *Attested `json:"sbom,omitempty"`
	// Registries say how registries are asked.
	//
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=host
	Registries []Registry `json:"registries,omitempty"`
	// Paths say where custom resources name images.
	//
	// +kubebuilder:validation:MaxItems=256
	Paths []ImagePath `json:"paths,omitempty"`
}

// Attested is an attestation that must be there.
//
// +kubebuilder:pruning:PreserveUnknownFields
type Attested struct {
	// Authorities are those of whom one must have signed it; none: those of the images.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	Authorities []ImageAuthority `json:"authorities,omitempty"`
}

// Provenance demands SLSA provenance.
//
// +kubebuilder:pruning:PreserveUnknownFields
type Provenance struct {
	Attested `json:",inline"`

	// Builders are globs over the builder's id; none: any.
	//
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=1024
	Builders []string `json:"builders,omitempty"`
	// Repositories are globs over the repository that was built; none: any.
	//
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=1024
	Repositories []string `json:"repositories,omitempty"`
}

// Scan demands a vulnerability scan.
//
// +kubebuilder:pruning:PreserveUnknownFields
type Scan struct {
	Attested `json:",inline"`

	// Below: no finding may be of this severity or above.
	//
	// +required
	// +kubebuilder:validation:Enum=LOW;MEDIUM;HIGH;CRITICAL
	Below string `json:"below"`
	// MaxAge is how old the scan may be, such as 168h; none: any age.
	//
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,6}(h|m|s))+$`
	MaxAge *metav1.Duration `json:"maxAge,omitempty"`
}

// Registry says how one registry is asked.
//
// +kubebuilder:pruning:PreserveUnknownFields
type Registry struct {
	// Host is its name, with a port if it has one.
	//
	// +required
	// +kubebuilder:validation:Pattern=`^[a-z0-9.-]+(:[0-9]{1,5})?$`
	// +kubebuilder:validation:MaxLength=300
	Host string `json:"host"`
	// PullSecretRef names a Secret of type kubernetes.io/dockerconfigjson or
	// kubernetes.io/basic-auth.
	PullSecretRef *ObjectRef `json:"pullSecretRef,omitempty"`
	// CA are PEM certificates that are trusted instead of the system's.
	CA *Keys `json:"ca,omitempty"`
	// Insecure speaks HTTP to it.
	Insecure bool `json:"insecure,omitempty"`
}

// ImagePath says where the objects of a kind name images.
//
// +kubebuilder:pruning:PreserveUnknownFields
type ImagePath struct {
	// Group is the kind's; empty for those of Kubernetes' core.
	//
	// +kubebuilder:validation:MaxLength=253
	Group string `json:"group,omitempty"`
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind"`
	// Path are fields with dots between, [] for every item of a list, such as
	// spec.containers[].image.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Path string `json:"path"`
}

// The conditions of a TrustPolicy.
const (
	// ConditionReady is True where the policy is judged by.
	ConditionReady = "Ready"
	// ConditionBroken is there, as True, where the policy cannot be judged: one that
	// enforces refuses what it selects.
	ConditionBroken = "Broken"
)

// TrustPolicyStatus is how a policy stands.
type TrustPolicyStatus struct {
	// ObservedGeneration is the generation that the status is about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions are Ready, and Broken where it is.
	//
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Selected is how many deliveries the policy is for.
	Selected int64 `json:"selected"`
	// Refused is how many of them it refuses at present; absent while nobody knows.
	Refused *int64 `json:"refused,omitempty"`
	// Unproven is how many of them it would refuse, and only audits; absent while nobody
	// knows.
	Unproven *int64 `json:"unproven,omitempty"`
}
