'use strict';
// Starts telegram-test-api, a Bot API server by others, on HOST:PORT (default 0.0.0.0:9000).
//
// Its answers are put into the Bot API's shape where typed clients would choke on them; what it
// does with updates and messages is left alone.

const TelegramServer = require('telegram-test-api');

const host = process.env.HOST || '0.0.0.0';
const port = Number(process.env.PORT || 9000);
if (!Number.isInteger(port) || port < 1 || port > 65535) {
  console.error(`PORT is "${process.env.PORT}": give a port between 1 and 65535`);
  process.exit(1);
}

// It answers getUpdates at once, which sends a long-polling client into a busy loop.
const EMPTY_POLL_MILLISECONDS = 200;

function inBotApiShape(path, body) {
  if (body.ok === undefined) {
    return { status: 404, body: { ok: false, error_code: 404, description: 'Not Found' } };
  }
  if (!body.ok) {
    return { status: body.error_code, body };
  }
  if (/\/getMe$/i.test(path)) {
    // A client checks that its token belongs to this bot.
    const id = Number(/^\/bot(\d+)/.exec(path)?.[1] ?? body.result.id);
    return { status: 200, body: { ok: true, result: { ...body.result, id, is_bot: true } } };
  }
  if (/\/getUpdates$/i.test(path)) {
    for (const { callback_query: query } of body.result) {
      if (query) query.chat_instance ??= '1';
    }
  }
  // Telegram answers true where this server answers null.
  return { status: 200, body: { ...body, result: body.result ?? true } };
}

const server = new TelegramServer({ host, port, storeTimeout: 3600 });
const { response } = server.webServer;
const sendJson = response.json;
response.json = function json(body) {
  const { path } = this.req;
  if (!path.startsWith('/bot')) {
    return sendJson.call(this, body);
  }
  const shaped = inBotApiShape(path, body);
  this.status(shaped.status);
  if (/\/getUpdates$/i.test(path) && shaped.body.ok && shaped.body.result.length === 0) {
    setTimeout(() => sendJson.call(this, shaped.body), EMPTY_POLL_MILLISECONDS);
    return this;
  }
  return sendJson.call(this, shaped.body);
};
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => server.stop().then(() => process.exit(0)));
}
server.start().then(
  () => console.log(`listening on ${host}:${port}`),
  (error) => {
    console.error(`listening on ${host}:${port}: ${error.message}`);
    process.exit(1);
  },
);
