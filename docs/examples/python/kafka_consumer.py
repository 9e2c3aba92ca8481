import os
import signal
import sqlite3
import threading

from confluent_kafka import Consumer, KafkaException


def handle(db, headers, message):
    """Does its work and notes the event's id in one transaction, so that an event that comes twice counts once."""
    with db:  # commits, or rolls back what raises
        noted = db.execute("INSERT INTO handled (id) VALUES (?) ON CONFLICT DO NOTHING", [headers["ce_id"]])
        if noted.rowcount == 0:
            return  # handled before
        print(headers["ce_id"], headers["ce_type"], message.value().decode(), flush=True)


db = sqlite3.connect(os.environ.get("HANDLED_DB", "handled.db"))
db.execute("CREATE TABLE IF NOT EXISTS handled (id TEXT PRIMARY KEY)")
consumer = Consumer({
    "bootstrap.servers": os.environ.get("KAFKA_BROKERS", "127.0.0.1:9092"),
    "group.id": "example-python",
    "auto.offset.reset": "earliest",
    "enable.auto.offset.store": False,  # what is committed in the background is what store_offsets has been told
})
consumer.subscribe(["tensorlake-events"])
stop = threading.Event()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stop.set())
try:
    while not stop.is_set():
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        headers = {name: value.decode() for name, value in message.headers() or []}
        handle(db, headers, message)
        consumer.store_offsets(message)
finally:
    consumer.close()  # commits what is stored, and leaves the group
    db.close()
