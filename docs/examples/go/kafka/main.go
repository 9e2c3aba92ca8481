// Command kafka is an example: a consumer group member that handles each event in Apache Kafka once.
//
//nolint:depguard,forbidigo // a consumer's own program: it uses clients, the environment and log as it likes
package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/twmb/franz-go/pkg/kgo"
	_ "modernc.org/sqlite" // or the driver of your database
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := consume(ctx)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

func consume(ctx context.Context) error {
	db, err := sql.Open("sqlite", cmp.Or(os.Getenv("HANDLED_DB"), "handled.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS handled (id TEXT PRIMARY KEY)"); err != nil {
		return err
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(cmp.Or(os.Getenv("KAFKA_BROKERS"), "127.0.0.1:9092"), ",")...),
		kgo.ConsumerGroup("example-go"),
		kgo.ConsumeTopics("tensorlake-events"),
		kgo.AutoCommitMarks(),      // what is committed in the background is what MarkCommitRecords has been told
		kgo.BlockRebalanceOnPoll(), // a partition stays here while its records are handled
	)
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance() // commits what is marked, and leaves the group
	for {
		fetches := client.PollRecords(ctx, 100)
		if err := fetches.Err(); err != nil {
			return err
		}
		for record := range fetches.RecordsAll() {
			if err := handle(context.WithoutCancel(ctx), db, record); err != nil {
				return err // the next start begins with it
			}
			client.MarkCommitRecords(record)
		}
		client.AllowRebalance()
	}
}

// handle does its work and notes the event's id in one transaction, so that an event that comes twice counts once.
func handle(ctx context.Context, db *sql.DB, record *kgo.Record) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	id := attribute(record, "id")
	noted, err := tx.ExecContext(ctx, "INSERT INTO handled (id) VALUES (?) ON CONFLICT DO NOTHING", id)
	if err != nil {
		return err
	}
	if rows, err := noted.RowsAffected(); err != nil || rows == 0 {
		return err // handled before
	}
	if _, err := fmt.Println(id, attribute(record, "type"), string(record.Value)); err != nil {
		return err
	}
	return tx.Commit()
}

// attribute returns a CloudEvents attribute.
func attribute(record *kgo.Record, name string) string {
	for _, h := range record.Headers {
		if h.Key == "ce_"+name {
			return string(h.Value)
		}
	}
	return ""
}
