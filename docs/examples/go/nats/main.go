// Command nats is an example: a durable consumer that handles every event of workflows and applications in NATS
// JetStream.
//
//nolint:depguard,forbidigo,importas // a consumer's own program: it uses clients, the environment and log as it likes
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
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
	url := cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL)
	nc, err := nats.Connect(url, nats.Token(os.Getenv("NATS_TOKEN")),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	handled := &recent{known: make(map[string]bool)}
	for ctx.Err() == nil {
		if err := consume(ctx, js, handled); err != nil && ctx.Err() == nil {
			log.Printf("trying again in a second: %v", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// consume ends with an error where the stream is not there yet, or where it or the consumer is not there any more.
func consume(ctx context.Context, js jetstream.JetStream, handled *recent) error {
	// The server keeps the place of a durable consumer. Programs that share its name share the events.
	consumer, err := js.CreateOrUpdateConsumer(ctx, "TENSORLAKE", jetstream.ConsumerConfig{
		Durable:        "example-go",
		FilterSubjects: []string{"tensorlake.workflow.>", "tensorlake.application.>"},
		AckWait:        30 * time.Second, // for all that is fetched at once
	})
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		batch, err := consumer.Fetch(10, jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return err
		}
		for m := range batch.Messages() {
			if err := settle(m, handled); err != nil {
				log.Print(err)
			}
		}
		if err := batch.Error(); err != nil {
			return err
		}
	}
	return nil
}

// settle has an event handled and acknowledges it, or has it delivered again.
func settle(m jetstream.Msg, handled *recent) error {
	event := m.Headers().Get("ce-source") + " " + m.Headers().Get("ce-id")
	if !handled.known[event] {
		if err := handle(m); err != nil {
			return errors.Join(err, m.NakWithDelay(5*time.Second))
		}
		handled.add(event)
	}
	return m.Ack()
}

// handle is where your work goes.
func handle(m jetstream.Msg) error {
	_, err := fmt.Println(m.Headers().Get("ce-type"), m.Headers().Get("ce-subject"), string(m.Data()))
	return err
}

// recent knows the events that were handled last, so that one that comes twice counts once.
type recent struct {
	known map[string]bool
	ring  [10_000]string
	next  int
}

func (r *recent) add(event string) {
	delete(r.known, r.ring[r.next])
	r.known[event], r.ring[r.next] = true, event
	r.next = (r.next + 1) % len(r.ring)
}
