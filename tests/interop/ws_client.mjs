// The WebSocket client of `ws`: `ws_client.mjs TOPIC WAY ADDRESS`. Prints `ok`.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';

import WebSocket from 'ws';

const [topic, way, address] = process.argv.slice(2);
const host = { host: 'app', mesh: 'mesh' }[way];
const [hostname, port] = address.split(':');

/** A socket through `CONNECT app:80`. */
async function tunnel() {
  const request = http.request({ hostname, port, method: 'CONNECT', path: 'app:80' }).end();
  const [response, socket] = await once(request, 'connect');
  assert.equal(response.statusCode, 200);
  return socket;
}

/** An open socket, and its messages one by one. */
async function open(path = '/chat?room=1', protocols = [], headers = {}) {
  const options = { headers: { ...headers, ...(host && { host }) } };
  let url = `ws://${address}${path}`;
  if (way === 'connect') {
    const through = await tunnel();
    options.createConnection = () => through;
    url = `ws://app${path}`;
  }
  const socket = new WebSocket(url, protocols, options);
  const messages = [];
  let wake = () => {};
  socket.on('message', (data, binary) => {
    messages.push(binary ? data : data.toString());
    wake();
  });
  socket.next = async () => {
    while (messages.length === 0) await new Promise((resolve) => { wake = resolve; });
    return messages.shift();
  };
  return socket;
}

const topics = {
  async messages() {
    const socket = await open();
    assert.equal(await socket.next(), `hello ${way === 'connect' ? 'app' : host ?? address} /chat?room=1`);
    assert.match(socket.extensions, /permessage-deflate/);
    for (const text of ['', 'one', 'ä'.repeat(70_000)]) {
      socket.send(text);
      assert.equal(await socket.next(), text);
    }
    const bytes = randomBytes(1_000_000);
    socket.send(bytes);
    assert.ok(bytes.equals(await socket.next()));
    // In fragments, then many at once.
    socket.send('frag', { fin: false });
    socket.send('ments', { fin: true });
    assert.equal(await socket.next(), 'fragments');
    for (let number = 0; number < 500; number++) socket.send(String(number));
    for (let number = 0; number < 500; number++) assert.equal(await socket.next(), String(number));
    // Pings go both ways.
    socket.ping('hey');
    assert.equal((await once(socket, 'pong'))[0].toString(), 'hey');
    socket.send('ping me');
    assert.equal(await socket.next(), 'pong are you there');
    socket.terminate();
  },

  async close() {
    const witness = await open();
    await witness.next();
    witness.send('tell me');
    assert.equal(await witness.next(), 'listening');
    const first = await open();
    await first.next();
    first.close(4000, 'enough');
    const [code, reason] = await once(first, 'close');
    assert.deepEqual([code, reason.toString()], [4000, 'enough']);
    assert.equal(await witness.next(), '4000 enough');
    const second = await open();
    await second.next();
    second.send('close me');
    const [theirs, because] = await once(second, 'close');
    assert.deepEqual([theirs, because.toString()], [4001, 'as asked']);
  },

  async subprotocol() {
    const socket = await open('/', ['other', 'chat']);
    await once(socket, 'open');
    assert.equal(socket.protocol, 'chat');
    socket.terminate();
  },

  async refused() {
    const socket = await open('/', [], { authorization: 'none' });
    socket.on('error', () => {});
    const [, response] = await once(socket, 'unexpected-response');
    const body = [];
    for await (const chunk of response) body.push(chunk);
    assert.deepEqual([response.statusCode, Buffer.concat(body).toString()], [401, 'who are you']);
  },
};

await topics[topic]();
console.log('ok');
process.exit();
