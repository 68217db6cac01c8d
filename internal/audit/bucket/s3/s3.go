// Package s3 keeps an audit log in a bucket of S3, or of what speaks like it, with MySQL
// (MariaDB, Aurora) for the order of its entries. It needs conditional writes
// (If-None-Match), which S3 has, and most of what speaks like it.
package s3

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	tessera "github.com/transparency-dev/tessera/storage/aws"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/bucket"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// Options say where a log is. Credentials for the bucket are found as Amazon's tools
// find them: environment, files, the account of the Pod.
type Options struct {
	Bucket, Prefix string
	Region         string // "": as Amazon's tools find it
	Endpoint       string // of what speaks like S3; "": Amazon's
	PathStyle      bool   // the bucket is in the path, not in the host's name
	// DSN is how the database is reached (https://github.com/go-sql-driver/mysql#dsn-data-source-name):
	// a secret. "": the log can only be read.
	DSN      string
	Takeover time.Duration // see [bucket.Options]
}

// Bounds of a request.
const (
	requestTimeout = 30 * time.Second
	maxConnections = 8
)

// Open returns the store of a log. Nothing is asked of the bucket yet. Errors are
// *fault.Error: Invalid (the DSN, or what Amazon's configuration holds), Refused (a
// database that is reached without TLS, or does not make durable what it commits),
// Unauthorized, NotFound, Unreachable.
func Open(ctx context.Context, o Options) (*bucket.Store, error) {
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(requestTimeout)),
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the settings for S3 cannot be read: %s", err).Because(err)
	}
	if cfg.Region == "" {
		return nil, fault.New(fault.Invalid, "the region of the bucket %s is not known", o.Bucket).
			WithHint("add ?region=REGION to the store, or set AWS_REGION")
	}
	objects := &objects{client: s3.NewFromConfig(cfg, o.settings), bucket: o.Bucket, prefix: o.Prefix}
	store := bucket.Options{Where: "s3://" + path.Join(o.Bucket, o.Prefix), Objects: objects, MinSign: time.Second, Takeover: o.Takeover}
	if o.DSN == "" {
		return bucket.New(store), nil
	}
	db, dsn, err := openDatabase(ctx, o.DSN)
	if err != nil {
		return nil, err
	}
	store.Database = db
	store.Driver = func(ctx context.Context) (audit.Driver, error) {
		made, err := tessera.New(ctx, tessera.Config{
			SDKConfig: &cfg, S3Options: o.settings, Bucket: o.Bucket, BucketPrefix: o.Prefix,
			DSN: dsn, MaxOpenConns: maxConnections, MaxIdleConns: maxConnections / 2,
		})
		d, ok := made.(audit.Driver)
		if err != nil || !ok {
			return nil, fault.New(fault.Internal, "tessera's driver for S3 cannot append: %v", err)
		}
		return d, nil
	}
	return bucket.New(store), nil
}

// settings are those of the client.
func (o Options) settings(s *s3.Options) {
	s.UsePathStyle = o.PathStyle
	s.APIOptions = append(s.APIOptions, skipEmptyDeletes)
	if o.Endpoint != "" {
		s.BaseEndpoint = &o.Endpoint
		// What speaks like S3 often does not know its newer checksums.
		s.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		s.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	}
}

// skipEmptyDeletes answers for requests to delete nothing, which tessera makes when it
// tidies up and S3 refuses, so that it would tidy no further.
func skipEmptyDeletes(stack *middleware.Stack) error {
	return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("SkipEmptyDeletes",
		func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
			if d, ok := in.Parameters.(*s3.DeleteObjectsInput); ok && d.Delete != nil && len(d.Delete.Objects) == 0 {
				return middleware.InitializeOutput{Result: &s3.DeleteObjectsOutput{}}, middleware.Metadata{}, nil
			}
			return next.HandleInitialize(ctx, in)
		}), middleware.Before)
}

// objects implements [bucket.Objects].
type objects struct {
	client         *s3.Client
	bucket, prefix string
}

func (b *objects) key(name string) *string { return aws.String(path.Join(b.prefix, name)) }

// Read implements audit.Reader.
func (b *objects) Read(ctx context.Context, name string, limit int64) ([]byte, error) {
	res, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.bucket, Key: b.key(name)})
	if err != nil {
		return nil, b.trouble(name, err)
	}
	defer res.Body.Close()
	return bucket.ReadAll(res.Body, name, limit, b.trouble)
}

// Put implements bucket.Objects.
func (b *objects) Put(ctx context.Context, name string, data []byte, replace bool) (bool, error) {
	put := &s3.PutObjectInput{
		Bucket: &b.bucket, Key: b.key(name), Body: bytes.NewReader(data),
		ContentType: aws.String("application/octet-stream"),
	}
	if !replace {
		put.IfNoneMatch = aws.String("*")
	}
	_, err := b.client.PutObject(ctx, put)
	if api, ok := errors.AsType[smithy.APIError](err); ok && api.ErrorCode() == "PreconditionFailed" {
		return false, nil
	}
	if err != nil {
		return false, b.trouble(name, err)
	}
	return true, nil
}

// List implements audit.Lister.
func (b *objects) List(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		prefix := ""
		if b.prefix != "" {
			prefix = b.prefix + "/"
		}
		pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{Bucket: &b.bucket, Prefix: &prefix})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield("", b.trouble("", err))
				return
			}
			for _, o := range page.Contents {
				name := strings.TrimPrefix(aws.ToString(o.Key), prefix)
				if !strings.HasSuffix(name, "/") && !yield(name, nil) {
					return
				}
			}
		}
	}
}

// trouble says what went wrong with an object, and what to do.
func (b *objects) trouble(name string, err error) error {
	where := "s3://" + b.bucket
	api, told := errors.AsType[smithy.APIError](err)
	status := 0
	if res, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		status = res.HTTPStatusCode()
	}
	switch {
	case told && api.ErrorCode() == "NoSuchBucket":
		return fault.New(fault.NotFound, "the bucket does not exist").On(where).WithHint("make it; Holdfast does not").Because(err)
	case told && (api.ErrorCode() == "NoSuchKey" || api.ErrorCode() == "NotFound"):
		return bucket.Missing(name)
	case told && (status == http.StatusForbidden || status == http.StatusUnauthorized):
		return fault.New(fault.Unauthorized, "the bucket may not be used: %s", api.ErrorCode()).On(where).At(name, 0).
			WithHint("s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket are needed, by the credentials that Amazon's tools would find").Because(err)
	case told && (api.ErrorCode() == "AuthorizationHeaderMalformed" || status == http.StatusMovedPermanently):
		return fault.New(fault.Invalid, "the bucket is in another region: %s", api.ErrorMessage()).On(where).
			WithHint("see to ?region= of the store, or AWS_REGION").Because(err)
	case told:
		return fault.New(fault.Unreachable, "the bucket answers %s: %s", api.ErrorCode(), api.ErrorMessage()).On(where).At(name, 0).
			WithHint("see to the bucket; it is tried again").Because(err)
	}
	return fault.New(fault.Unreachable, "the bucket cannot be reached: %s", err).On(where).At(name, 0).
		WithHint("see to the bucket, its endpoint and the credentials").Because(err)
}
