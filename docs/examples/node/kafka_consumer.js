import { DatabaseSync } from "node:sqlite"; // or the driver of your database
import { Consumer, stringDeserializers } from "@platformatic/kafka";

const db = new DatabaseSync(process.env.HANDLED_DB ?? "handled.db");
db.exec("CREATE TABLE IF NOT EXISTS handled (id TEXT PRIMARY KEY)");
const note = db.prepare("INSERT INTO handled (id) VALUES (?) ON CONFLICT DO NOTHING");

const consumer = new Consumer({
  clientId: "example-node",
  groupId: "example-node",
  bootstrapBrokers: (process.env.KAFKA_BROKERS ?? "127.0.0.1:9092").split(","),
  deserializers: stringDeserializers,
});
const stream = await consumer.consume({
  topics: ["tensorlake-events"],
  mode: "committed",
  fallbackMode: "earliest",
  autocommit: false,
});
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => stream.close());

for await (const message of stream) {
  handle(message);
  await message.commit();
}
await consumer.close();
db.close();

// Does its work and notes the event's id in one transaction, so that an event that comes twice counts once.
function handle(message) {
  db.exec("BEGIN");
  try {
    const id = message.headers.get("ce_id");
    if (note.run(id).changes === 1) {
      console.log(id, message.headers.get("ce_type"), message.value);
    } // else it was handled before
    db.exec("COMMIT");
  } catch (error) {
    db.exec("ROLLBACK");
    throw error; // the next start begins with it
  }
}
