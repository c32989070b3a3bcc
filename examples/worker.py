#!/usr/bin/env python3
"""Your own code between a POST and its mail, on the profile selfhosted.

Takes what is posted to the topic `jobs`, does the work, and writes a row of the topic `done`: whoever is subscribed to `done`
gets the mail. Both topics are made with `PUT /v1/topics/{name}`. Run as many of these as you like; one ends with an error
when the broker or the database goes away, and is to be started again (a unit, a container, a `while` loop).

    apt install python3-pika python3-psycopg2       # or: pip install pika psycopg2-binary
    AMQP_URL=amqp://... DATABASE_URL=postgres://... python3 examples/worker.py
"""
import os
import sys
import uuid

import pika  # add ?heartbeat=3600 to AMQP_URL where one job takes longer than a minute
import psycopg2


def work(text):
    """The work. What it returns is what people are mailed."""
    return f"words counted: {len(text.split())}"


database = psycopg2.connect(os.environ["DATABASE_URL"])
channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
channel.queue_declare("worker-jobs", durable=True, arguments={"x-queue-type": "quorum"})
channel.queue_bind("worker-jobs", "tidings-topic-jobs")
channel.basic_qos(prefetch_count=1)  # a job that ends the worker takes no other back to the queue with it

for delivery, properties, body in channel.consume("worker-jobs"):
    headers = properties.headers or {}
    job = headers.get("id") or properties.message_id or uuid.uuid4()
    try:
        result = work(body.decode())
    except Exception as error:  # the fault of this one job: people hear of it, and the next one is done
        result = f"job {job!r} failed: {error!r}"
    trace = str(headers.get("traceparent", ""))
    # The message has a row of its own under its id. This one's id is made from it: done twice, it is one row and one mail.
    row = (str(uuid.uuid5(uuid.NAMESPACE_URL, f"done/{job}")), result, trace if len(trace) == 55 else None)
    with database, database.cursor() as cursor:  # commits
        cursor.execute(
            "insert into items (id, topic, message, traceparent) values (%s, 'done', %s, %s) on conflict do nothing", row
        )
    channel.basic_ack(delivery.delivery_tag)  # only now: a worker that dies before this leaves the job to another

sys.exit("the queue worker-jobs is gone, and every job that was in it")
