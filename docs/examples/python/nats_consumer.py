import asyncio
import logging
import os
import signal
import threading

import nats

stop = threading.Event()
handled = {}  # the last 10,000 events that were handled, so that one that comes twice counts once


async def main():
    nc = await nats.connect(
        os.environ.get("NATS_URL", "nats://127.0.0.1:4222"),
        token=os.environ.get("NATS_TOKEN"),
        max_reconnect_attempts=-1,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while not stop.is_set():
        try:
            await consume(nc.jetstream())
        except Exception as error:
            logging.warning("trying again in a second: %s", error)
            await asyncio.sleep(1)
    await nc.close()


async def consume(js):
    """Ends with an error where the stream is not there yet, or where it or the consumer is not there any more."""
    # The server keeps the place of a durable consumer. Programs that share its name share the events.
    await js.add_consumer(
        "TENSORLAKE",
        durable_name="example-python",
        filter_subjects=["tensorlake.workflow.>", "tensorlake.application.>"],
        ack_policy="explicit",
        ack_wait=30,  # for all that is fetched at once
    )
    events = await js.pull_subscribe_bind("example-python", "TENSORLAKE")
    try:
        while not stop.is_set():
            try:
                batch = await events.fetch(10, timeout=1)
            except asyncio.TimeoutError:  # no event in all that time
                continue
            for m in batch:
                await settle(m)
    finally:
        await events.unsubscribe()


async def settle(m):
    event = m.headers["ce-source"], m.headers["ce-id"]
    try:
        if event not in handled:
            await handle(m)
    except Exception:
        logging.exception("%s is delivered again in 5 s", m.subject)
        await m.nak(delay=5)
        return
    handled[event] = True
    if len(handled) > 10_000:
        del handled[next(iter(handled))]
    await m.ack()


async def handle(m):
    """Is where your work goes."""
    print(m.headers["ce-type"], m.headers.get("ce-subject"), m.data.decode(), flush=True)


asyncio.run(main())
