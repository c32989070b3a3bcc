"""A foreign AMQP client for the tests of Tidings.

    pika_client.py listen URL EXCHANGE...    binds a queue of its own to each; a JSON line per message, after one that says "bound"
    pika_client.py publish URL EXCHANGE      a JSON line of stdin per message, each answered by a line "confirmed" or "refused"
"""
import datetime
import decimal
import json
import sys

import pika
import pika.exceptions

mode, url, *names = sys.argv[1:]
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()

# Every type that a header can have.
ODD = {
    "a number": 7,
    "a large number": 2**40,
    "a negative number": -(2**40),
    "a decimal": decimal.Decimal("3.14"),
    "a truth": True,
    "nothing": None,
    "a time": datetime.datetime(2026, 5, 4, 10, 0, 0),
    "a list": [1, "two", [-3, None]],
    "a table": {"nested": {"deeper": [b"\xff\x00"]}},
    "bytes": b"\xff\xfe\x00",
    "traceparent": 17,
    "attributes": ["no", "object"],
    "subject": {"a": "table"},
}


def plain(value):
    return value if isinstance(value, (str, int, float, bool, list, dict, type(None))) else repr(value)


if mode == "listen":
    queue = channel.queue_declare("", exclusive=True).method.queue
    for name in names:
        channel.queue_bind(queue, name)
    print(json.dumps("bound"), flush=True)
    for delivery, properties, body in channel.consume(queue, auto_ack=True):
        headers = {name: plain(value) for name, value in (properties.headers or {}).items()}
        message = {
            "exchange": delivery.exchange,
            "body": body.decode(),
            "headers": headers,
            "message_id": properties.message_id,
            "content_type": properties.content_type,
            "delivery_mode": properties.delivery_mode,
        }
        print(json.dumps(message), flush=True)
elif mode == "publish":
    channel.confirm_delivery()
    for line in sys.stdin:
        message = json.loads(line)
        headers = ODD if message.get("odd") else message.get("headers")
        body = message["body"] * message.get("times", 1)
        properties = pika.BasicProperties(message_id=message.get("message_id"), headers=headers, delivery_mode=2)
        data = bytes.fromhex(message["hex"]) if "hex" in message else body.encode()
        try:
            channel.basic_publish(names[0], "", data, properties, mandatory=True)
            print("confirmed", flush=True)
        except pika.exceptions.AMQPError as error:
            print(f"refused {error!r}", flush=True)
else:
    sys.exit(__doc__)
