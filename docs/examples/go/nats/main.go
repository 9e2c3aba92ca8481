// Command nats is an example: a durable consumer of the events of workflows in NATS JetStream.
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
	err := consume(ctx)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func consume(ctx context.Context) error {
	nc, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	// The server keeps the place of a durable consumer. Programs that share its name share the events.
	consumer, err := js.CreateOrUpdateConsumer(ctx, "TENSORLAKE", jetstream.ConsumerConfig{
		Durable:       "example-go",
		FilterSubject: "tensorlake.workflow.>",
	})
	if err != nil {
		return err
	}
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		if err := settle(m, handle(m)); err != nil {
			log.Print(err)
		}
	}, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { log.Print(err) }))
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		consuming.Drain() // what has arrived is still handled
		<-consuming.Closed()
		return nc.FlushTimeout(5 * time.Second)
	case <-consuming.Closed():
		return errors.New("the consumer has ended: was it deleted?")
	}
}

// handle may get an event again, with the same ce-id: when it failed, or when its acknowledgement was lost.
func handle(m jetstream.Msg) error {
	_, err := fmt.Println(m.Headers().Get("ce-id"), m.Headers().Get("ce-type"), string(m.Data()))
	return err
}

// settle acknowledges an event that was handled, and has one that was not delivered again.
func settle(m jetstream.Msg, err error) error {
	if err != nil {
		return errors.Join(err, m.NakWithDelay(5*time.Second))
	}
	return m.Ack()
}
