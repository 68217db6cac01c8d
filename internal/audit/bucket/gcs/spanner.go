package gcs

import (
	"context"
	"errors"
	"io/fs"
	"regexp"
	"time"

	"cloud.google.com/go/spanner"
	admin "cloud.google.com/go/spanner/admin/database/apiv1"
	"cloud.google.com/go/spanner/admin/database/apiv1/databasepb"
	"google.golang.org/grpc/codes"

	"github.com/holdfastcd/holdfast/internal/audit/bucket"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// queryTimeout is how long the database may take, schemaTimeout its schema.
const (
	queryTimeout  = 10 * time.Second
	schemaTimeout = 2 * time.Minute
)

// The table of the claim.
const (
	claimTable  = "HoldfastClaim"
	claimSchema = "CREATE TABLE IF NOT EXISTS HoldfastClaim (id INT64 NOT NULL, holder STRING(64) NOT NULL, beat INT64 NOT NULL) PRIMARY KEY (id)"
)

var (
	isDatabase   = regexp.MustCompile(`^projects/[^/]+/instances/[^/]+/databases/[^/]+$`)
	claimColumns = []string{"id", "holder", "beat"}
)

// database implements [bucket.Database] with the tables of tessera's, and one of ours.
type database struct{ client *spanner.Client }

func openDatabase(ctx context.Context, name string) (*database, error) {
	if !isDatabase.MatchString(name) {
		return nil, fault.New(fault.Invalid, "%.200q is no database of Spanner", name).WithHint("projects/P/instances/I/databases/D is expected")
	}
	client, err := spanner.NewClient(ctx, name)
	if err != nil {
		return nil, trouble(err)
	}
	d := &database{client}
	bounded, cancel := context.WithTimeout(ctx, schemaTimeout)
	defer cancel()
	if err := d.begin(bounded, name); err != nil {
		client.Close()
		return nil, err
	}
	return d, nil
}

// begin makes the table of the claim, where it is missing.
func (d *database) begin(ctx context.Context, name string) error {
	_, err := d.Claim(ctx)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	schema, err := admin.NewDatabaseAdminClient(ctx)
	if err != nil {
		return trouble(err)
	}
	defer func() { _ = schema.Close() }() // nothing is asked of it any more
	made, err := schema.UpdateDatabaseDdl(ctx, &databasepb.UpdateDatabaseDdlRequest{Database: name, Statements: []string{claimSchema}})
	if err == nil {
		err = made.Wait(ctx)
	}
	if err == nil {
		_, err = d.client.Apply(ctx, []*spanner.Mutation{spanner.Insert(claimTable, claimColumns, []any{0, "", 0})})
	}
	if spanner.ErrCode(err) == codes.AlreadyExists {
		return nil
	}
	return trouble(err)
}

// Tree implements bucket.Database.
func (d *database) Tree(ctx context.Context) (uint64, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	row, err := d.client.Single().ReadRow(ctx, "IntCoord", spanner.Key{0}, []string{"seq", "rootHash"})
	if err != nil {
		return 0, nil, trouble(err)
	}
	var size int64
	var root []byte
	if err := row.Columns(&size, &root); err != nil || size < 0 {
		return 0, nil, fault.New(fault.Invalid, "what the database of the audit log tells of the tree cannot be read")
	}
	return uint64(size), root, nil
}

// Claim implements bucket.Database.
func (d *database) Claim(ctx context.Context) (bucket.Claim, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	return claimOf(d.client.Single().ReadRow(ctx, claimTable, spanner.Key{0}, claimColumns[1:]))
}

func claimOf(row *spanner.Row, err error) (c bucket.Claim, _ error) {
	if err == nil {
		err = row.Columns(&c.Holder, &c.Beat)
	}
	return c, trouble(err)
}

// Swap implements bucket.Database.
func (d *database) Swap(ctx context.Context, old, next bucket.Claim) (swapped bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	_, err = d.client.ReadWriteTransaction(ctx, func(ctx context.Context, tx *spanner.ReadWriteTransaction) error {
		row, err := tx.ReadRow(ctx, claimTable, spanner.Key{0}, claimColumns[1:])
		if err != nil {
			return err // as it is: the client knows what to try again
		}
		var now bucket.Claim
		if err := row.Columns(&now.Holder, &now.Beat); err != nil {
			return err
		}
		if swapped = now == old; !swapped {
			return nil
		}
		return tx.BufferWrite([]*spanner.Mutation{spanner.Update(claimTable, claimColumns, []any{0, next.Holder, next.Beat})})
	})
	return swapped && err == nil, trouble(err)
}

// Undate implements bucket.Database.
func (d *database) Undate(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	_, err := d.client.ReadWriteTransaction(ctx, func(ctx context.Context, tx *spanner.ReadWriteTransaction) error {
		row, err := tx.ReadRow(ctx, "PubCoord", spanner.Key{0}, []string{"publishedAt"})
		if err != nil {
			return err // as it is: the client knows what to try again
		}
		var signed time.Time
		if err := row.Columns(&signed); err != nil || !signed.After(now) {
			return err
		}
		return tx.BufferWrite([]*spanner.Mutation{spanner.Update("PubCoord", []string{"id", "publishedAt"}, []any{0, time.Unix(0, 0)})})
	})
	return trouble(err)
}

// Close implements bucket.Database.
func (d *database) Close() error {
	d.client.Close()
	return nil
}

// trouble says what went wrong with the database, and what to do.
func trouble(err error) error {
	if err == nil {
		return nil
	}
	const what = "the database of the audit log"
	switch spanner.ErrCode(err) {
	case codes.NotFound: // no table, or no row
		return fault.New(fault.NotFound, "%s has no log yet: %s", what, err).Because(fs.ErrNotExist)
	case codes.PermissionDenied, codes.Unauthenticated:
		return fault.New(fault.Unauthorized, "%s refuses: %s", what, err).
			WithHint("the role Cloud Spanner Database Admin on the database is needed at the first start, Database User later").Because(err)
	default:
		return fault.New(fault.Unreachable, "%s cannot be used: %s", what, err).WithHint("see to the database").Because(err)
	}
}
