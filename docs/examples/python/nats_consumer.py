import asyncio
import logging
import os

import nats


async def main():
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1)
    try:
        # The server keeps the place of a durable consumer. Programs that share its name share the events.
        events = await nc.jetstream().pull_subscribe(
            "tensorlake.workflow.>", durable="example-python", stream="TENSORLAKE"
        )
        while True:
            try:
                [m] = await events.fetch(1, timeout=5)
            except asyncio.TimeoutError:  # no event in all that time
                continue
            try:
                await handle(m)
            except Exception:
                logging.exception("%s is delivered again in 5 s", m.subject)
                await m.nak(delay=5)
            else:
                await m.ack()
    finally:
        await nc.close()


async def handle(m):
    """May get an event again, with the same ce-id: when it failed, or when its acknowledgement was lost."""
    print(m.headers["ce-id"], m.headers["ce-type"], m.data.decode(), flush=True)


try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
