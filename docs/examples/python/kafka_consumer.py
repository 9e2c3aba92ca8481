import logging
import os
import signal
import sqlite3
import threading

from confluent_kafka import Consumer, KafkaException

stop = threading.Event()


def consume(db):
    """Ends with an error where the topic is not there yet, and where an event is not handled: it comes again then."""
    consumer = Consumer({
        "bootstrap.servers": os.environ.get("KAFKA_BROKERS", "127.0.0.1:9092"),
        "group.id": "example-python",
        "auto.offset.reset": "earliest",
        "enable.auto.offset.store": False,  # what is committed in the background is what store_offsets has been told
    })
    try:
        consumer.subscribe(["tensorlake-events"])
        while not stop.is_set():
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error():
                raise KafkaException(message.error())
            handle(db, message)
            consumer.store_offsets(message)
    finally:
        consumer.close()  # commits what is stored, and leaves the group


def handle(db, message):
    """Does its work and notes the event in one transaction, so that an event that comes twice counts once."""
    event = {name: value.decode() for name, value in message.headers() or []}
    with db:  # commits, or rolls back what raises
        noted = db.execute(
            "INSERT INTO handled (source, id) VALUES (?, ?) ON CONFLICT DO NOTHING",
            [event["ce_source"], event["ce_id"]],
        )
        if noted.rowcount == 0:
            return  # handled before
        # Your work.
        print(event["ce_type"], event.get("ce_subject"), message.value().decode(), flush=True)


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stop.set())
db = sqlite3.connect(os.environ.get("HANDLED_DB", "handled.db"))
db.execute("CREATE TABLE IF NOT EXISTS handled (source TEXT, id TEXT, PRIMARY KEY (source, id))")
while not stop.is_set():
    try:
        consume(db)
    except Exception as error:
        logging.warning("trying again in a second: %s", error)
        stop.wait(1)
db.close()
