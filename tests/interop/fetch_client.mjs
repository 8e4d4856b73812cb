// Node's fetch: `fetch_client.mjs TOPIC WAY ADDRESS`. Prints `ok`.

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import dns from 'node:dns';

const [topic, way, address] = process.argv.slice(2);
const port = address.split(':')[1];
// fetch sends no other Host than that of its URL. Not every machine resolves *.localhost.
const lookup = dns.lookup;
dns.lookup = (name, ...rest) => lookup(name.endsWith('.localhost') ? '127.0.0.1' : name, ...rest);
const host = { host: 'app', mesh: 'mesh' }[way];
const base = host ? `http://${host}.localhost:${port}` : `http://${address}`;
const name = `fetch-${way}`;
const call = (path, options) => fetch(base + path, options);
const sha256 = (data) => createHash('sha256').update(data).digest('hex');

const topics = {
  async requests() {
    const response = await call('/echo?a=1');
    const seen = await response.json();
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('x-case'), 'Kept');
    assert.equal(seen.path, '/echo?a=1');
    assert.equal(seen.headers.find(([key]) => key.toLowerCase() === 'host')[1], host ?? address);
    assert.equal((await call('/nowhere')).status, 404);
    const head = await call('/echo', { method: 'HEAD' });
    assert.equal(await head.text(), '');
    const many = await Promise.all(Array.from({ length: 50 }, (_, number) =>
      call('/mirror', { method: 'POST', body: `number ${number}` }).then((r) => r.text())));
    assert.deepEqual(many, Array.from({ length: 50 }, (_, number) => `number ${number}`));
  },

  async upload() {
    const body = randomBytes(2_000_000);
    const seen = await (await call('/echo', { method: 'POST', body })).json();
    assert.equal(seen.sha256, sha256(body));
    const stream = new ReadableStream({
      start(controller) {
        for (let at = 0; at < body.length; at += 9000) controller.enqueue(body.subarray(at, at + 9000));
        controller.close();
      },
    });
    const mirrored = await call('/mirror', { method: 'POST', body: stream, duplex: 'half' });
    assert.equal(sha256(Buffer.from(await mirrored.arrayBuffer())), sha256(body));
  },

  async events() {
    const response = await call(`/events?name=${name}`);
    const seen = [];
    for await (const chunk of response.body) {
      for (const line of Buffer.from(chunk).toString().split('\n').filter(Boolean)) {
        seen.push(line);
        await (await call(`/ack?name=${name}`, { method: 'POST' })).text();
      }
    }
    assert.deepEqual(seen, ['data: 1', 'data: 2', 'data: 3']);
  },

  // What the client gives up, the app sees given up.
  async abort() {
    const controller = new AbortController();
    const hanging = call(`/hang?name=${name}`, { signal: controller.signal });
    assert.equal((await call(`/waiting?name=${name}`)).status, 200);
    controller.abort();
    await assert.rejects(hanging, { name: 'AbortError' });
    assert.equal((await call(`/gone?name=${name}`)).status, 200);
  },
};

await topics[topic]();
console.log('ok');
process.exit();
