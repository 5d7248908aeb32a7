// Logins of node-postgres: reads connection strings, a line each, and prints for each of them who it is there and by which SASL
// mechanism (it cannot insist on one), or the refusal.
import { createInterface } from "node:readline/promises";

import pg from "pg";

async function logIn(connectionString) {
  const client = new pg.Client({ connectionString, enableChannelBinding: true, connectionTimeoutMillis: 30000 });
  client.on("error", () => {});
  let mechanism = "none";
  const send = client.connection.sendSASLInitialResponseMessage;
  client.connection.sendSASLInitialResponseMessage = function (name, ...rest) {
    mechanism = name;
    return send.call(this, name, ...rest);
  };
  try {
    await client.connect();
    const { rows } = await client.query("select current_user::text as name");
    return `in as ${rows[0].name} by ${mechanism}`;
  } finally {
    client.end().catch(() => {}); // after a failed handshake its promise is never settled
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  try {
    console.log(await logIn(line));
  } catch (refused) {
    console.log(`refused: ${refused.message} ${refused.code}`.replace(/\s+/g, " "));
  }
}
process.exit(0);
