"""The events that rows send: what a gateway for language models would."""

from bench.load import COUNTER

BATCH = 100


def event(index: int = 0) -> bytes:
    """A CloudEvent as JSON whose id has the load generator's counter in it."""
    return (
        b'{"specversion":"1.0","id":"req-%s-%02d","source":"edge-gw-2","type":"llm.request","subject":"customer-%d",'
        b'"time":"2031-02-03T04:05:%02d.789Z","data":{"model":"m-%d","prompt_tokens":%d,"tokens":"%d.5"}}'
        % (COUNTER, index, index % 50, index % 60, index % 7, 100 + index, 10 + index)
    )


def batch(size: int = BATCH) -> bytes:
    return b"[" + b",".join(event(index) for index in range(size)) + b"]"
