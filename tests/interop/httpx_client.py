"""httpx: `httpx_client.py TOPIC WAY ADDRESS`, where WAY may end in `/2` for HTTP/2. Prints `ok`."""

import asyncio
import hashlib
import os
import sys

import httpx

topic, way, address = sys.argv[1:]
way, _, version = way.partition("/")
wanted = "HTTP/2" if version else "HTTP/1.1"
settings = {"timeout": 15, "trust_env": False, "http1": not version, "http2": bool(version)}
base = f"http://{address}"
match way:
    case "host" | "mesh":
        settings["headers"] = {"host": "app" if way == "host" else "mesh"}
    case "proxy":
        base = "http://app"
        settings["proxy"] = f"http://{address}"
name = f"httpx-{way}-{wanted}"


def same(got, want):
    if got != want:
        raise SystemExit(f"{topic} by {way}, {wanted}: got {got!r}, want {want!r}")


def pieces(body):
    for start in range(0, len(body), 7000):
        yield body[start : start + 7000]


def requests(client):
    response = client.get(f"{base}/echo", params={"q": "ä b"})
    same((response.status_code, response.http_version), (200, wanted))
    seen = response.json()
    same((seen["method"], seen["path"]), ("GET", "/echo?q=%C3%A4+b"))
    same(client.head(f"{base}/echo").content, b"")
    same(client.options(f"{base}/echo").json()["method"], "OPTIONS")
    response = client.post(f"{base}/echo", json={"a": 1})
    headers = dict(map(tuple, response.json()["headers"]))
    headers = {name.lower(): value for name, value in headers.items()}
    same((headers["content-type"], response.json()["length"]), ("application/json", 7))
    same(client.get(f"{base}/nowhere").status_code, 404)


def upload(client):
    body = os.urandom(2_000_000)
    digest = hashlib.sha256(body).hexdigest()
    same(client.post(f"{base}/echo", content=body).json()["sha256"], digest)
    # A generator has no length: chunks on HTTP/1, plain frames on HTTP/2.
    seen = client.post(f"{base}/echo", content=pieces(body)).json()
    same((seen["length"], seen["sha256"]), (len(body), digest))
    with client.stream("POST", f"{base}/mirror", content=pieces(body)) as response:
        got = b"".join(response.iter_bytes())
    same(hashlib.sha256(got).hexdigest(), digest)


def cookies(client):
    client.get(f"{base}/cookies")
    same(dict(client.cookies), {"a": "1", "b": "2"})
    headers = client.get(f"{base}/echo").json()["headers"]
    sent = [value for name, value in headers if name.lower() == "cookie"]
    same([sorted(value.split("; ")) for value in sent], [["a=1", "b=2"]])


def events(client):
    seen = []
    with client.stream("GET", f"{base}/events", params={"name": name}) as response:
        same(response.headers["content-type"], "text/event-stream")
        for line in response.iter_lines():
            if line:
                seen.append(line)
                same(client.post(f"{base}/ack", params={"name": name}).status_code, 200)
    same(seen, ["data: 1", "data: 2", "data: 3"])


async def together(client):
    """Many at a time: over HTTP/2 they share one connection."""

    async def one(number):
        body = b"%d" % number * 1000
        response = await client.post(f"{base}/mirror", content=body)
        same(response.http_version, wanted)
        same(response.content, body)

    await asyncio.gather(*(one(number) for number in range(50)))


async def long_poll(client):
    poll = asyncio.create_task(client.get(f"{base}/poll", params={"name": name}))
    # It answers when the poll has arrived.
    same((await client.post(f"{base}/release", params={"name": name})).status_code, 200)
    same((await poll).text, "released")


async def run(steps):
    async with httpx.AsyncClient(**settings) as client:
        await steps(client)


steps = globals()[topic]
if asyncio.iscoroutinefunction(steps):
    asyncio.run(run(steps))
else:
    with httpx.Client(**settings) as client:
        steps(client)
print("ok")
