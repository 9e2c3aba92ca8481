import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

const nc = await connect({ servers: process.env.NATS_URL ?? "127.0.0.1:4222", maxReconnectAttempts: -1 });
// The server keeps the place of a durable consumer. Programs that share its name share the events.
const manager = await jetstreamManager(nc);
await manager.consumers.add("TENSORLAKE", {
  durable_name: "example-node",
  filter_subject: "tensorlake.workflow.>",
  ack_policy: AckPolicy.Explicit,
});
const consumer = await jetstream(nc).consumers.get("TENSORLAKE", "example-node");
const messages = await consumer.consume();
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => messages.close());

for await (const m of messages) {
  try {
    await handle(m);
    m.ack();
  } catch (error) {
    console.error(`${m.subject} is delivered again in 5 s:`, error);
    m.nak(5000);
  }
}
await nc.drain();

// May get an event again, with the same ce-id: when it failed, or when its acknowledgement was lost.
async function handle(m) {
  console.log(m.headers.get("ce-id"), m.headers.get("ce-type"), m.string());
}
