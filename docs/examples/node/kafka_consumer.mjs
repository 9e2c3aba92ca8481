import { DatabaseSync } from "node:sqlite"; // or the driver of your database
import { setTimeout as sleep } from "node:timers/promises";
import { Consumer, stringDeserializers } from "@platformatic/kafka";

const db = new DatabaseSync(process.env.HANDLED_DB ?? "handled.db");
db.exec("CREATE TABLE IF NOT EXISTS handled (source TEXT, id TEXT, PRIMARY KEY (source, id))");
const note = db.prepare("INSERT INTO handled (source, id) VALUES (?, ?) ON CONFLICT DO NOTHING");
const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => stop.abort());

while (!stop.signal.aborted) {
  try {
    await consume();
  } catch (error) {
    console.error("trying again in a second:", error.message);
    await sleep(1000);
  }
}
db.close();

// Ends with an error where the topic is not there yet, and where an event is not handled: it comes again then.
async function consume() {
  const consumer = new Consumer({
    clientId: "example-node",
    groupId: "example-node",
    bootstrapBrokers: (process.env.KAFKA_BROKERS ?? "127.0.0.1:9092").split(","),
    deserializers: stringDeserializers,
  });
  try {
    const stream = await consumer.consume({
      topics: ["tensorlake-events"],
      mode: "committed",
      fallbackMode: "earliest",
      autocommit: false,
    });
    stop.signal.addEventListener("abort", () => stream.close());
    for await (const message of stream) {
      await handle(message);
      await message.commit();
    }
  } finally {
    await consumer.close(true);
  }
}

// Does its work and notes the event in one transaction, so that an event that comes twice counts once.
async function handle(message) {
  const attribute = (name) => message.headers.get(`ce_${name}`);
  db.exec("BEGIN");
  try {
    if (note.run(attribute("source"), attribute("id")).changes === 1) {
      // Your work.
      console.log(attribute("type"), attribute("subject"), message.value);
    } // else it was handled before
    db.exec("COMMIT");
  } catch (error) {
    db.exec("ROLLBACK");
    throw error;
  }
}
