package sops

import (
	"net/url"
	"strings"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/azkv"
	"github.com/getsops/sops/v3/gcpkms"
	"github.com/getsops/sops/v3/hcvault"
	"github.com/getsops/sops/v3/kms"
	"github.com/getsops/sops/v3/pgp"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// group is a key group of a creation rule.
type group struct {
	Merge  []group  `yaml:"merge"`
	Age    []string `yaml:"age"`
	PGP    []string `yaml:"pgp"`
	Vault  []string `yaml:"hc_vault"`
	GCPKMS []struct {
		ResourceID string `yaml:"resource_id"`
	} `yaml:"gcp_kms"`
	HCKMS []struct {
		KeyID string `yaml:"key_id"`
	} `yaml:"hckms"`
	KMS []struct {
		ARN        string             `yaml:"arn"`
		Role       string             `yaml:"role"`
		Context    map[string]*string `yaml:"context"`
		AWSProfile string             `yaml:"aws_profile"`
	} `yaml:"kms"`
	AzureKV []struct {
		VaultURL string `yaml:"vaultUrl"`
		Key      string `yaml:"key"`
		Version  string `yaml:"version"`
	} `yaml:"azure_keyvault"`
}

// groups are the recipients of a rule: its key groups, or one of all that it names.
func (r *rule) groups() ([]sops.KeyGroup, error) {
	if len(r.HCKMS) > 0 {
		return nil, unsupportedKMS()
	}
	if len(r.KeyGroups) == 0 {
		one, err := r.single()
		return []sops.KeyGroup{one}, err
	}
	var all []sops.KeyGroup
	for _, g := range r.KeyGroups {
		keys, err := g.keys(0)
		if err != nil {
			return nil, err
		}
		if len(keys) == 0 {
			return nil, nobody()
		}
		all = append(all, unique(keys))
	}
	return all, nil
}

func unsupportedKMS() *fault.Error {
	return fault.New(fault.Unsupported, "the creation rule names HuaweiCloud KMS, which Holdfast does not have").At(".sops.yaml", 0)
}

func nobody() *fault.Error {
	return fault.New(fault.Invalid, "the creation rule names no recipient").At(".sops.yaml", 0)
}

// single is the group of a rule without key groups.
func (r *rule) single() (sops.KeyGroup, error) {
	keys, err := group{Age: r.Age, PGP: r.PGP, Vault: r.Vault}.keys(0)
	if err != nil {
		return nil, err
	}
	for _, arn := range r.KMS {
		keys = append(keys, kms.NewMasterKeyFromArn(arn, nil, r.AWSProfile))
	}
	for _, id := range r.GCPKMS {
		keys = append(keys, gcpkms.NewMasterKeyFromResourceID(id))
	}
	for _, address := range r.AzureKeyVault {
		key, err := azureKey(address)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, nobody()
	}
	return unique(keys), nil
}

// keys are the recipients of a group, with those of the groups that it merges.
func (g group) keys(depth int) (sops.KeyGroup, error) {
	if depth > maxDepth {
		return nil, fault.New(fault.Limit, "key groups merge deeper than %d levels", maxDepth).At(".sops.yaml", 0)
	}
	if len(g.HCKMS) > 0 {
		return nil, unsupportedKMS()
	}
	var all sops.KeyGroup
	for _, m := range g.Merge {
		keys, err := m.keys(depth + 1)
		if err != nil {
			return nil, err
		}
		all = append(all, keys...)
	}
	named, err := g.named()
	if err != nil {
		return nil, err
	}
	all = append(all, named...)
	for _, k := range g.KMS {
		all = append(all, kms.NewMasterKeyWithProfile(k.ARN, k.Role, withoutNulls(k.Context), k.AWSProfile))
	}
	for _, k := range g.GCPKMS {
		all = append(all, gcpkms.NewMasterKeyFromResourceID(k.ResourceID))
	}
	for _, k := range g.AzureKV {
		key, err := azureKey(strings.TrimSuffix(k.VaultURL, "/") + "/keys/" + k.Key + "/" + k.Version)
		if err != nil {
			return nil, err
		}
		all = append(all, key)
	}
	return all, nil
}

// named are the recipients that are one word each.
func (g group) named() (sops.KeyGroup, error) {
	var all sops.KeyGroup
	for _, names := range g.Age {
		for name := range strings.SplitSeq(names, ",") {
			key, err := ageRecipient(strings.TrimSpace(name))
			if err != nil {
				return nil, err
			}
			all = append(all, key)
		}
	}
	for _, fingerprint := range g.PGP {
		all = append(all, pgp.NewMasterKeyFromFingerprint(fingerprint))
	}
	for _, uri := range g.Vault {
		key, err := hcvault.NewMasterKeyFromURI(uri)
		if err != nil || key == nil {
			return nil, fault.New(fault.Invalid, "a Vault recipient is written https://HOST/v1/ENGINE/keys/KEY").At(".sops.yaml", 0)
		}
		all = append(all, key)
	}
	return all, nil
}

// azureKey reads a recipient. The library would ask Azure for a version that is not
// named, as whoever the environment says.
func azureKey(address string) (*azkv.MasterKey, error) {
	u, err := url.Parse(address)
	if err == nil && u.Scheme == "https" {
		parts := strings.Split(strings.Trim(u.Path, "/"), "/")
		if len(parts) == 3 && parts[0] == "keys" && parts[1] != "" && parts[2] != "" {
			return azkv.NewMasterKey("https://"+u.Host, parts[1], parts[2]), nil
		}
	}
	return nil, fault.New(fault.Invalid, "an Azure recipient is written https://VAULT/keys/KEY/VERSION, with its version").At(".sops.yaml", 0)
}

func withoutNulls(m map[string]*string) map[string]*string {
	out := map[string]*string{}
	for k, v := range m {
		if v != nil {
			out[k] = v
		}
	}
	return out
}

// unique leaves out what is named twice.
func unique(keys sops.KeyGroup) sops.KeyGroup {
	seen := map[string]bool{}
	var out sops.KeyGroup
	for _, k := range keys {
		id := k.TypeToIdentifier() + "/" + k.ToString()
		if !seen[id] {
			seen[id] = true
			out = append(out, k)
		}
	}
	return out
}
