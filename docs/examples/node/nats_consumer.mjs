import { setTimeout as sleep } from "node:timers/promises";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, nanos } from "@nats-io/transport-node";

const nc = await connect({
  servers: process.env.NATS_URL ?? "127.0.0.1:4222",
  token: process.env.NATS_TOKEN,
  waitOnFirstConnect: true,
  maxReconnectAttempts: -1,
});
let stopping = false;
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => (stopping = true));
const handled = new Set(); // the last 10,000 events that were handled, so that one that comes twice counts once

while (!stopping) {
  try {
    await consume();
  } catch (error) {
    console.error("trying again in a second:", error.message);
    await sleep(1000);
  }
}
await nc.drain();

// Ends with an error where the stream is not there yet, or where it or the consumer is not there any more.
async function consume() {
  // The server keeps the place of a durable consumer. Programs that share its name share the events.
  const { consumers } = await jetstreamManager(nc);
  const config = {
    durable_name: "example-node",
    filter_subject: undefined, // an update keeps what it is not told
    filter_subjects: ["tensorlake.workflow.>", "tensorlake.application.>"],
    ack_policy: AckPolicy.Explicit,
    ack_wait: nanos(30_000), // for all that is fetched at once
  };
  await consumers.add("TENSORLAKE", config).catch(() => consumers.update("TENSORLAKE", "example-node", config));
  const consumer = await jetstream(nc).consumers.get("TENSORLAKE", "example-node");
  while (!stopping) {
    for await (const m of await consumer.fetch({ max_messages: 10, expires: 1000 })) await settle(m);
  }
}

async function settle(m) {
  const event = `${m.headers.get("ce-source")} ${m.headers.get("ce-id")}`;
  try {
    if (!handled.has(event)) await handle(m);
  } catch (error) {
    console.error(`${m.subject} is delivered again in 5 s:`, error);
    m.nak(5000);
    return;
  }
  handled.add(event);
  if (handled.size > 10_000) handled.delete(handled.values().next().value);
  m.ack();
}

// Is where your work goes.
async function handle(m) {
  console.log(m.headers.get("ce-type"), m.headers.get("ce-subject"), m.string());
}
