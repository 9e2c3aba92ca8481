// Command kafka is an example: a consumer group member that handles each event in Apache Kafka once.
//
//nolint:depguard,forbidigo // a consumer's own program: it uses clients, the environment and log as it likes
package main

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	_ "modernc.org/sqlite" // or the driver of your database
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	db, err := sql.Open("sqlite", cmp.Or(os.Getenv("HANDLED_DB"), "handled.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	const table = "CREATE TABLE IF NOT EXISTS handled (source TEXT, id TEXT, PRIMARY KEY (source, id))"
	if _, err := db.ExecContext(ctx, table); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := consume(ctx, db); err != nil && ctx.Err() == nil {
			log.Printf("trying again in a second: %v", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// consume ends with an error where the topic is not there yet, or was made anew, and where an event is not handled: it
// comes again then.
func consume(ctx context.Context, db *sql.DB) error {
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
		fetches := client.PollRecords(ctx, 10)
		if err := fetches.Err(); err != nil {
			return err
		}
		for record := range fetches.RecordsAll() {
			if err := handle(context.WithoutCancel(ctx), db, record); err != nil {
				return err
			}
			client.MarkCommitRecords(record)
		}
		client.AllowRebalance()
	}
}

// handle does its work and notes the event in one transaction, so that an event that comes twice counts once.
func handle(ctx context.Context, db *sql.DB, record *kgo.Record) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	noted, err := tx.ExecContext(ctx, "INSERT INTO handled (source, id) VALUES (?, ?) ON CONFLICT DO NOTHING",
		attribute(record, "source"), attribute(record, "id"))
	if err != nil {
		return err
	}
	if rows, err := noted.RowsAffected(); err != nil || rows == 0 {
		return err // handled before
	}
	// Your work.
	_, err = fmt.Println(attribute(record, "type"), attribute(record, "subject"), string(record.Value))
	if err != nil {
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
