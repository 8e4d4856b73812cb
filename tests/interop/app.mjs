// An app over HTTP/1.1; with the argument `ws` also over WebSockets, with `http2` over HTTP/2 by prior
// knowledge instead. Prints its port; ends when its stdin does.

import { createHash } from 'node:crypto';
import { EventEmitter } from 'node:events';
import http from 'node:http';
import http2 from 'node:http2';

async function answer(request, response) {
  const url = new URL(request.url, 'http://app');
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  switch (url.pathname) {
    case '/echo':
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({
        method: request.method,
        path: request.url,
        version: `HTTP/${request.httpVersion}`,
        headers: Object.entries(request.headers),
        length: body.length,
        sha256: createHash('sha256').update(body).digest('hex'),
      }));
      break;
    case '/mirror':
      for (let start = 0; start < body.length; start += 10_000) {
        response.write(body.subarray(start, start + 10_000));
      }
      response.end();
      break;
    case '/trailers':
      response.setHeader('trailer', 'x-checksum');
      response.write('body');
      response.addTrailers({ 'x-checksum': 'abc' });
      response.end();
      break;
    default:
      response.statusCode = 404;
      response.end();
  }
}

/** Says back what it gets, and does what some texts ask for. */
async function webSockets(server) {
  const { WebSocketServer } = await import('ws');
  const sockets = new WebSocketServer({
    server,
    perMessageDeflate: true,
    handleProtocols: (offered) => (offered.has('chat') ? 'chat' : false),
    verifyClient: ({ req }, done) => done(req.headers.authorization !== 'none', 401, 'who are you'),
  });
  // Said by the connection that asks for it, for the next one that ends.
  const closed = new EventEmitter();
  sockets.on('connection', (socket, request) => {
    socket.send(`hello ${request.headers.host} ${request.url}`);
    socket.on('message', (data, binary) => {
      if (!binary && data.toString() === 'close me') socket.close(4001, 'as asked');
      else if (!binary && data.toString() === 'ping me') socket.ping('are you there');
      else if (!binary && data.toString() === 'tell me') {
        closed.once('closed', (how) => socket.send(how));
        socket.send('listening');
      } else socket.send(data, { binary });
    });
    socket.on('pong', (data) => socket.send(`pong ${data}`));
    socket.on('close', (code, reason) => closed.emit('closed', `${code} ${reason}`));
  });
}

const server = process.argv[2] === 'http2' ? http2.createServer(answer) : http.createServer(answer);
if (process.argv[2] === 'ws') await webSockets(server);
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.resume().on('end', () => process.exit());
