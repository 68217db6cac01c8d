package sops

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"regexp"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/getsops/sops/v3/keyservice"
	"go.yaml.in/yaml/v3"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// awsCredentials open data keys that AWS KMS sealed.
type awsCredentials struct {
	id, secret, session string
	client              *http.Client
}

func (a awsCredentials) fingerprint() string { return digest(a.id, a.secret, a.session) }

func (k *Keys) parseAWS(content []byte, client *http.Client) error {
	var fields struct {
		ID      string `yaml:"aws_access_key_id"`
		Secret  string `yaml:"aws_secret_access_key"`
		Session string `yaml:"aws_session_token"`
	}
	if !strict(content, &fields) || fields.ID == "" || fields.Secret == "" {
		return about(entryAWS, fault.Invalid, "is not YAML with aws_access_key_id, aws_secret_access_key and, if need be, aws_session_token")
	}
	k.aws = append(k.aws, awsCredentials{fields.ID, fields.Secret, fields.Session, client})
	return nil
}

// strict reads YAML, or JSON, and reports whether it has no field but those of out.
func strict(content []byte, out any) bool {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if decoder.Decode(out) != nil {
		return false
	}
	return errors.Is(decoder.Decode(&yaml.Node{}), io.EOF)
}

var (
	keyARN  = regexp.MustCompile(`^arn:aws[a-z-]*:kms:([a-z0-9-]+):[0-9]{12}:(key|alias)/[A-Za-z0-9/_-]+$`)
	roleARN = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+$`)
)

const awsTries = 2

// kms returns a client for the region of a key, as the role that the file names, if it
// does. Nothing is configured but what is here: the library's own key looks for regions,
// profiles, endpoints and certificates in the environment and in ~/.aws. Profiles that a
// file names are those of whoever sealed it.
func (a awsCredentials) kms(ctx context.Context, key *keyservice.KmsKey) (*kms.Client, error) {
	match := keyARN.FindStringSubmatch(key.GetArn())
	if match == nil {
		return nil, fault.New(fault.Invalid, "the file is sealed by a key of AWS KMS whose ARN cannot be read")
	}
	region := match[1]
	var provider aws.CredentialsProvider = credentials.NewStaticCredentialsProvider(a.id, a.secret, a.session)
	if role := key.GetRole(); role != "" {
		if !roleARN.MatchString(role) {
			return nil, fault.New(fault.Invalid, "the file names a role of AWS whose ARN cannot be read")
		}
		client := sts.New(sts.Options{Region: region, Credentials: provider, HTTPClient: a.client, RetryMaxAttempts: awsTries})
		out, err := client.AssumeRole(ctx, &sts.AssumeRoleInput{RoleArn: &role, RoleSessionName: aws.String("holdfast")})
		if err != nil {
			return nil, awsError(err)
		}
		provider = credentials.NewStaticCredentialsProvider(
			aws.ToString(out.Credentials.AccessKeyId), aws.ToString(out.Credentials.SecretAccessKey), aws.ToString(out.Credentials.SessionToken))
	}
	return kms.New(kms.Options{Region: region, Credentials: provider, HTTPClient: a.client, RetryMaxAttempts: awsTries}), nil
}

// awsError keeps what kind of failure it was, and nothing of its text.
func awsError(err error) *fault.Error {
	if answer, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		if known, ok := awsKinds[code(err)]; ok {
			return status("AWS KMS", known)
		}
		return status("AWS KMS", answer.HTTPStatusCode())
	}
	return unanswered("AWS KMS", err)
}

// awsKinds are errors that AWS answers with a status 400 though nothing is wrong with
// what was asked (https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html).
var awsKinds = map[string]int{
	"AccessDeniedException":       http.StatusForbidden,
	"UnrecognizedClientException": http.StatusForbidden,
	"InvalidSignatureException":   http.StatusForbidden,
	"ExpiredTokenException":       http.StatusForbidden,
	"DisabledException":           http.StatusForbidden,
	"KMSInvalidStateException":    http.StatusForbidden,
	"NotFoundException":           http.StatusNotFound,
	"ThrottlingException":         http.StatusTooManyRequests,
	"LimitExceededException":      http.StatusTooManyRequests,
}

func code(err error) string {
	if c, ok := errors.AsType[interface {
		error
		ErrorCode() string
	}](err); ok {
		return c.ErrorCode()
	}
	return ""
}

// openAWS asks AWS KMS (https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html).
// Errors: errOther, and those of [status].
func (k *Keys) openAWS(ctx context.Context, key *keyservice.KmsKey, sealed []byte) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(string(sealed))
	if err != nil {
		return nil, damagedKey("AWS KMS " + shown(key.GetArn()))
	}
	return first(k.aws, func(a awsCredentials) ([]byte, error) {
		client, err := a.kms(ctx, key)
		if err != nil {
			return nil, err
		}
		arn := key.GetArn()
		out, err := client.Decrypt(ctx, &kms.DecryptInput{KeyId: &arn, CiphertextBlob: raw, EncryptionContext: key.GetContext()})
		if err != nil {
			return nil, awsError(err)
		}
		return out.Plaintext, nil
	})
}

func (k *Keys) sealAWS(ctx context.Context, key *keyservice.KmsKey, plain []byte) ([]byte, error) {
	if len(k.aws) == 0 {
		return nil, noCredentials("AWS KMS")
	}
	return first(k.aws, func(a awsCredentials) ([]byte, error) {
		client, err := a.kms(ctx, key)
		if err != nil {
			return nil, err
		}
		arn := key.GetArn()
		out, err := client.Encrypt(ctx, &kms.EncryptInput{KeyId: &arn, Plaintext: plain, EncryptionContext: key.GetContext()})
		if err != nil {
			return nil, awsError(err)
		}
		return []byte(base64.StdEncoding.EncodeToString(out.CiphertextBlob)), nil
	})
}
