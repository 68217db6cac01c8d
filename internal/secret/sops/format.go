package sops

import (
	"bytes"
	"encoding/json"
	"path"
	"regexp"
	"strings"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/config"
	"github.com/getsops/sops/v3/stores/dotenv"
	"github.com/getsops/sops/v3/stores/ini"
	sopsjson "github.com/getsops/sops/v3/stores/json"
	"github.com/getsops/sops/v3/stores/yaml"

	"github.com/holdfastcd/holdfast/internal/secret"
)

// format is how a file is written; the names are SOPS's own.
type format string

const (
	formatYAML   format = "YAML"
	formatJSON   format = "JSON"
	formatDotenv format = "dotenv"
	formatINI    format = "INI"
	formatBinary format = "binary"
)

// store returns the library's reader and writer of the format.
func (f format) store(c *config.StoresConfig) sops.Store {
	switch f {
	case formatYAML:
		return yaml.NewStore(&c.YAML)
	case formatJSON:
		return sopsjson.NewStore(&c.JSON)
	case formatDotenv:
		return dotenv.NewStore(&c.Dotenv)
	case formatINI:
		return ini.NewStore(&c.INI)
	case formatBinary:
	}
	return sopsjson.NewBinaryStore(&c.JSONBinary)
}

// byName is the format that a file's name says, as the library reads it; "" for a
// name that says nothing.
func byName(file string) format {
	switch path.Ext(file) {
	case ".yaml", ".yml":
		return formatYAML
	case ".json":
		return formatJSON
	case ".env":
		return formatDotenv
	case ".ini":
		return formatINI
	}
	return ""
}

// Where the metadata begin, at the beginning of a line.
var (
	yamlMetadata   = []string{`sops:`, `"sops":`, `'sops':`}
	dotenvMetadata = []string{"sops_mac=", "sops_version=", "sops_lastmodified="}
	iniMetadata    = []string{"[sops]"}
)

func hasLine(content []byte, beginnings []string) bool {
	for {
		for _, b := range beginnings {
			if bytes.HasPrefix(content, []byte(b)) {
				return true
			}
		}
		_, rest, more := bytes.Cut(content, []byte("\n"))
		if !more {
			return false
		}
		content = rest
	}
}

// formatOf returns the format of a sealed file: what its name says where the content
// may be that, what the content looks like otherwise. A file of a name that says
// nothing is binary, as it is for the library, if its envelope holds but one value.
func formatOf(file string, content []byte) format {
	named, shape := byName(file), byShape(content)
	switch {
	case shape == "":
		return cmpOr(named, formatBinary)
	case named == "" || named == shape:
		return shape
	case shape == formatBinary && named == formatJSON:
		return named // one value, whose key is "data"
	case named == formatYAML && (shape == formatJSON || shape == formatBinary):
		return named // JSON is YAML
	}
	return shape
}

func cmpOr(a, b format) format {
	if a != "" {
		return a
	}
	return b
}

// byShape tells the format from where the metadata is; "" where there are none.
func byShape(content []byte) format {
	if bytes.HasPrefix(bytes.TrimLeft(content, " \t\r\n"), []byte("{")) {
		return jsonShape(content)
	}
	switch {
	case hasLine(content, yamlMetadata):
		return formatYAML
	case hasLine(content, dotenvMetadata):
		return formatDotenv
	case hasLine(content, iniMetadata):
		return formatINI
	}
	return ""
}

func jsonShape(content []byte) format {
	if len(content) > maxFile {
		return formatJSON
	}
	var envelope map[string]json.RawMessage
	if json.Unmarshal(content, &envelope) != nil {
		return "" // YAML may begin with a brace, too
	}
	if _, ok := envelope["sops"]; !ok {
		return ""
	}
	if data := envelope["data"]; len(envelope) == 2 && bytes.HasPrefix(data, []byte(`"`)) {
		return formatBinary
	}
	return formatJSON
}

// Sealed reports whether SOPS sealed a file, wholly or in part; it reads no more of
// it than it must. What has sealed values but lost its metadata is sealed, too: nobody
// is to take "ENC[…]" for the value.
func Sealed(file string, content []byte) bool {
	if !bytes.Contains(content, []byte(secret.SOPS)) {
		// The MAC itself may be damaged.
		return bytes.Contains(content, []byte("lastmodified")) && bytes.Contains(content, []byte("sops")) &&
			bytes.Contains(content, []byte("mac")) && byShape(content) != ""
	}
	return byShape(content) != "" || hasSealedValue(formatOf(file, content), content)
}

// value is a sealed value, from its beginning.
var value = regexp.MustCompile(`^` + regexp.QuoteMeta(secret.SOPS) + `data:[A-Za-z0-9+/=]*,iv:[A-Za-z0-9+/=]+,tag:[A-Za-z0-9+/=]+,type:[a-z]+\]`)

func hasSealedValue(f format, content []byte) bool {
	if f == formatYAML {
		return yamlSealed(content)
	}
	return textSealed(content)
}

// textSealed reports whether there is a sealed value where a value may begin. Sealed
// text that is part of another, as in a page about SOPS, is no value.
func textSealed(content []byte) bool {
	for from := 0; ; {
		i := bytes.Index(content[from:], []byte(secret.SOPS))
		if i < 0 {
			return false
		}
		at := from + i
		before := bytes.TrimRight(bytes.TrimSuffix(bytes.TrimSuffix(content[:at], []byte(`"`)), []byte("'")), " \t")
		begins := len(before) == 0 || strings.IndexByte("\n:=[{,-", before[len(before)-1]) >= 0
		if begins && value.Match(content[at:]) {
			return true
		}
		from = at + len(secret.SOPS)
	}
}
