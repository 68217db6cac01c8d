package s3

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"net"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/holdfastcd/holdfast/internal/audit/bucket"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// How long the database may take.
const (
	dialTimeout  = 5 * time.Second
	queryTimeout = 10 * time.Second
)

// MySQL's numbers of errors (https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html).
const (
	accessDenied  = 1045
	accessToTable = 1142
	accessToBase  = 1044
	unknownBase   = 1049
	unknownTable  = 1146
)

// database implements [bucket.Database] with the tables of tessera's, and one of ours.
type database struct{ db *sql.DB }

// settingsOf reads a DSN, and bounds what it leaves open. What it holds is never told.
func settingsOf(dsn string) (*mysql.Config, error) {
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil || cfg.DBName == "" {
		return nil, fault.New(fault.Invalid, "the address of the audit log's database is not one").
			WithHint("USER:PASSWORD@tcp(HOST:3306)/DATABASE?tls=true is expected")
	}
	if cfg.TLSConfig == "" && cfg.Net == "tcp" && !local(cfg.Addr) {
		return nil, fault.New(fault.Refused, "the database of the audit log at %s would be reached without TLS", cfg.Addr).
			WithHint("add ?tls=true to its address; ?tls=false says that it is meant so")
	}
	for at, usual := range map[*time.Duration]time.Duration{&cfg.Timeout: dialTimeout, &cfg.ReadTimeout: queryTimeout, &cfg.WriteTimeout: queryTimeout} {
		if *at <= 0 || *at > usual {
			*at = usual
		}
	}
	cfg.RejectReadOnly = true // a replica after a failover is not the one to ask
	cfg.Logger = &mysql.NopLogger{}
	return cfg, nil
}

// local reports whether an address is this machine's.
func local(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// openDatabase connects, and returns the DSN for tessera, too.
func openDatabase(ctx context.Context, dsn string) (*database, string, error) {
	cfg, err := settingsOf(dsn)
	if err != nil {
		return nil, "", err
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, "", fault.New(fault.Invalid, "the address of the audit log's database is not one")
	}
	d := &database{sql.OpenDB(connector)}
	d.db.SetMaxOpenConns(maxConnections / 2)
	d.db.SetConnMaxIdleTime(time.Minute)
	if err := d.begin(ctx); err != nil {
		return nil, "", errors.Join(err, d.db.Close())
	}
	return d, cfg.FormatDSN(), nil
}

// begin makes the table of the claim, and looks whether what is committed is durable.
func (d *database) begin(ctx context.Context) error {
	var flush int
	if err := d.db.QueryRowContext(ctx, "SELECT @@innodb_flush_log_at_trx_commit").Scan(&flush); err != nil {
		return trouble(err)
	}
	if flush != 1 {
		return fault.New(fault.Refused, "the database of the audit log could lose what it has acknowledged: innodb_flush_log_at_trx_commit is %d", flush).
			WithHint("set it to 1, which is MySQL's default")
	}
	for _, statement := range []string{
		`CREATE TABLE IF NOT EXISTS HoldfastClaim (id INT UNSIGNED NOT NULL PRIMARY KEY, holder VARCHAR(64) NOT NULL, beat BIGINT NOT NULL)`,
		`INSERT IGNORE INTO HoldfastClaim (id, holder, beat) VALUES (0, '', 0)`,
	} {
		if _, err := d.db.ExecContext(ctx, statement); err != nil {
			return trouble(err)
		}
	}
	return nil
}

// Tree implements bucket.Database.
func (d *database) Tree(ctx context.Context) (size uint64, root []byte, err error) {
	err = d.db.QueryRowContext(ctx, "SELECT seq, rootHash FROM IntCoord WHERE id = 0").Scan(&size, &root)
	return size, root, trouble(err)
}

// Claim implements bucket.Database.
func (d *database) Claim(ctx context.Context) (c bucket.Claim, err error) {
	err = d.db.QueryRowContext(ctx, "SELECT holder, beat FROM HoldfastClaim WHERE id = 0").Scan(&c.Holder, &c.Beat)
	return c, trouble(err)
}

// Swap implements bucket.Database.
func (d *database) Swap(ctx context.Context, old, next bucket.Claim) (bool, error) {
	res, err := d.db.ExecContext(ctx, "UPDATE HoldfastClaim SET holder = ?, beat = ? WHERE id = 0 AND holder = ? AND beat = ?",
		next.Holder, next.Beat, old.Holder, old.Beat)
	if err != nil {
		return false, trouble(err)
	}
	n, err := res.RowsAffected()
	return n == 1, trouble(err)
}

// Undate implements bucket.Database.
func (d *database) Undate(ctx context.Context, now time.Time) error {
	_, err := d.db.ExecContext(ctx, "UPDATE PubCoord SET publishedAt = 0 WHERE publishedAt > ?", now.Unix())
	return trouble(err)
}

// Close implements bucket.Database.
func (d *database) Close() error { return trouble(d.db.Close()) }

// trouble says what went wrong with the database, and what to do.
func trouble(err error) error {
	if err == nil {
		return nil
	}
	told, _ := errors.AsType[*mysql.MySQLError](err)
	number := uint16(0)
	if told != nil {
		number = told.Number
	}
	const what = "the database of the audit log"
	switch number {
	case unknownTable:
		return fault.New(fault.NotFound, "%s has no log yet", what).Because(fs.ErrNotExist)
	case accessDenied, accessToBase, accessToTable:
		return fault.New(fault.Unauthorized, "%s refuses: %s", what, told.Message).
			WithHint("see to the user and the password in its address; all rights in its own database are needed").Because(err)
	case unknownBase:
		return fault.New(fault.NotFound, "%s refuses: %s", what, told.Message).WithHint("make it; Holdfast does not").Because(err)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return fault.New(fault.NotFound, "%s has no log yet", what).Because(fs.ErrNotExist)
	}
	return fault.New(fault.Unreachable, "%s cannot be used: %s", what, err).WithHint("see to the database").Because(err)
}
