// Checks of node-postgres (pg, pg-pool, pg-cursor, pg-query-stream, pg-copy-streams).
// Connection data come from PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE.
import assert from "node:assert/strict";
import { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";

import pg from "pg";
import copyStreams from "pg-copy-streams";
import Cursor from "pg-cursor";
import QueryStream from "pg-query-stream";

import { check, main, refused, sleep, together, within } from "./checks.mjs";

/** Connects, runs work(client), ends. An error on the connection itself is handed to whoever waits for a query. */
async function withClient(work, settings = {}) {
  const client = new pg.Client(settings);
  client.on("error", () => {});
  await client.connect();
  try {
    return await work(client);
  } finally {
    await within(5000, client.end(), "end of a client").catch(() => client.connection.stream.destroy());
  }
}

async function value(client, text, values) {
  const result = await client.query({ text, values, rowMode: "array" });
  return result.rows[0][0];
}

async function run(client, ...statements) {
  for (const text of statements) await client.query(text);
}

check("simple_query", () =>
  withClient(async (client) => {
    for (let i = 0; i < 50; i++) assert.equal(await value(client, `select ${i}`), i);
    assert.equal((await client.query("")).rows.length, 0);
  }),
);

check("parameters_all_types", () =>
  withClient(async (client) => {
    const moment = new Date("2024-02-29T12:34:56.789Z");
    for (let i = 0; i < 3; i++) {
      const { rows } = await client.query(
        `select $1::bool a, $2::int2 b, $3::int4 c, $4::int8 d, $5::float8 e, $6::numeric f, $7::text g,
                $8::bytea h, $9::timestamptz i, $10::jsonb j, $11::int4[] k, $12::uuid l, $13::text m`,
        [true, -32768, 2147483647, "-9223372036854775808", 2.25, "123456789012345678901234567890.125", "snowman ☃ 'quoted' \\",
          Buffer.from([0, 1, 255, 92]), moment, { k: [1.5, "é", null] }, [1, null, 3], "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", null],
      );
      assert.deepEqual(rows, [
        { a: true, b: -32768, c: 2147483647, d: "-9223372036854775808", e: 2.25, f: "123456789012345678901234567890.125",
          g: "snowman ☃ 'quoted' \\", h: Buffer.from([0, 1, 255, 92]), i: moment, j: { k: [1.5, "é", null] }, k: [1, null, 3],
          l: "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", m: null },
      ]);
    }
  }),
);

check("binary_results", () =>
  // pg reads several types wrongly in its binary mode (8.23.1); the ones here it can.
  withClient(
    async (client) => {
      for (let i = 0; i < 20; i++) {
        const { rows } = await client.query("select $1::int4 a, $2::float8 b, $3::text c, $4::bool d", [i, 2.25, `text ${i}`, true]);
        assert.deepEqual(rows, [{ a: i, b: 2.25, c: `text ${i}`, d: true }]);
      }
    },
    { binary: true },
  ),
);

check("big_text_both_ways", () =>
  withClient(async (client) => {
    const big = "0123456789abcdef".repeat((10 << 20) / 16);
    assert.ok((await value(client, "select $1::text", [big])) === big, "10 MB changed on the way");
    assert.ok((await value(client, `select '${big}'`)) === big, "10 MB changed on the way");
    assert.equal(await value(client, "select 1"), 1);
  }),
);

check("many_parameters", () =>
  withClient(async (client) => {
    const count = 65535;
    const values = Array.from({ length: count }, (_, i) => i);
    const text = `select (array[${values.map((i) => `$${i + 1}::int4`).join(",")}])[${count}]`;
    assert.equal(await value(client, text, values), count - 1);
  }),
);

check("named_repeated", () =>
  withClient(async (client) => {
    for (let i = 0; i < 300; i++) {
      const { rows } = await client.query({ name: "add", text: "select $1::int4 + 1 as sum", values: [i] });
      assert.equal(rows[0].sum, i + 1);
    }
  }),
);

check("names_collide", () =>
  together(10, (n) =>
    withClient(async (client) => {
      for (let i = 0; i < 80; i++) {
        const one = await client.query({ name: "q", text: `select 'client ${n} ' || $1::text as tag`, values: [i] });
        assert.equal(one.rows[0].tag, `client ${n} ${i}`);
        const two = await client.query({ name: "r", text: `select ${n * 1000} + $1::int4 as sum`, values: [i] });
        assert.equal(two.rows[0].sum, n * 1000 + i);
      }
    }),
  ),
);

check("many_names", () =>
  together(3, (n) =>
    withClient(async (client) => {
      for (let round = 0; round < 3; round++) {
        for (let i = 0; i < 150; i++) {
          const { rows } = await client.query({ name: `many ${i}`, text: `select $1::int4 * ${i} as product`, values: [n + round] });
          assert.equal(rows[0].product, (n + round) * i);
        }
      }
    }),
  ),
);

check("named_with_errors", () =>
  withClient(async (client) => {
    for (let i = 0; i < 5; i++) {
      await refused("42601", client.query({ name: "bad", text: "selec $1", values: [1] }));
      await refused("22012", client.query({ name: "div", text: "select 1 / $1::int4 as q", values: [0] }));
      const { rows } = await client.query({ name: "div", text: "select 1 / $1::int4 as q", values: [1] });
      assert.equal(rows[0].q, 1);
      await refused("22P02", client.query({ name: "cast", text: "select $1::int4", values: ["x"] }));
    }
  }),
);

check("named_after_ddl", () =>
  withClient(async (client) =>
    withClient(async (other) => {
      await run(client, "drop table if exists node_ddl", "create table node_ddl (a int)", "insert into node_ddl values (1)");
      const ask = () => client.query({ name: "ddl", text: "select * from node_ddl" });
      await ask();
      await run(other, "alter table node_ddl add column b int");
      // node-postgres never prepares a name again, so the direct answer is this error, each time.
      const outcomes = [];
      for (let i = 0; i < 3; i++) {
        outcomes.push(await ask().then((result) => result.fields.length, (error) => error.code));
      }
      for (const outcome of outcomes) assert.ok(outcome === "0A000" || outcome === 2, `after DDL: ${outcome}`);
      assert.equal((await client.query("select * from node_ddl")).fields.length, 2);
      await run(client, "drop table node_ddl");
    }),
  ),
);

check("pipelined_queue", () =>
  withClient(
    async (client) => {
      for (let round = 0; round < 5; round++) {
        const asked = Array.from({ length: 60 }, (_, i) => {
          if (i % 10 === 7) return refused("22012", client.query("select 1 / $1::int4", [0]));
          if (i % 10 === 3) return value(client, `select ${i}`).then((seen) => assert.equal(seen, i));
          const query = i % 2 ? { name: `p${i % 6}`, text: `select $1::int4 + ${i % 6} as v`, values: [i] } : { text: `select $1::int4 + ${i % 6} as v`, values: [i] };
          return client.query(query).then((result) => assert.equal(result.rows[0].v, i + (i % 6)));
        });
        await Promise.all(asked);
      }
    },
    { pipeline: true },
  ),
);

check("query_queue_with_errors", () =>
  withClient(async (client) => {
    const asked = Array.from({ length: 100 }, (_, i) =>
      i % 5 === 2 ? refused("22012", client.query("select $1::int4 / 0", [i])) : value(client, "select $1::int4", [i]).then((seen) => assert.equal(seen, i)),
    );
    await Promise.all(asked);
  }),
);

check("multi_statement", () =>
  withClient(async (client) => {
    const results = await client.query("select 1 as a; select 'two' as b; select 3 as c");
    assert.deepEqual(results.map((result) => Object.values(result.rows[0])[0]), [1, "two", 3]);
    await refused("22012", client.query("select 1; select 1/0; select 3"));
    assert.equal(await value(client, "select 4"), 4);
  }),
);

check("transactions", () =>
  withClient(async (client) => {
    await run(client, "drop table if exists node_tx", "create table node_tx (a int primary key)");
    for (let i = 0; i < 10; i++) {
      await client.query("BEGIN");
      await client.query("insert into node_tx values ($1)", [i]);
      await client.query(i % 2 ? "ROLLBACK" : "COMMIT");
    }
    assert.equal(await value(client, "select count(*)::int from node_tx"), 5);
    await client.query("begin");
    await refused("23505", client.query("insert into node_tx values (0)"));
    await refused("25P02", client.query("select 1"));
    assert.equal((await client.query("commit")).command, "ROLLBACK");
    await run(client, "begin", "insert into node_tx values (100)", "savepoint s");
    await refused("23505", client.query("insert into node_tx values ($1)", [100]));
    await run(client, "rollback to savepoint s", "insert into node_tx values (101)", "release savepoint s", "commit");
    assert.equal(await value(client, "select count(*)::int from node_tx"), 7);
    await run(client, "begin", "commit", "begin", "rollback");
    await run(client, "drop table node_tx");
  }),
);

check("isolation_and_read_only", () =>
  withClient(async (client) => {
    for (const level of ["serializable", "repeatable read", "read committed"]) {
      await client.query(`begin transaction isolation level ${level}, read only`);
      assert.equal(await value(client, "show transaction_isolation"), level);
      await refused("25006", client.query("create table node_never (a int)"));
      await client.query("rollback");
    }
  }),
);

check("cursor_portal", () =>
  together(3, (n) =>
    withClient(async (client) => {
      for (let round = 0; round < 3; round++) {
        await client.query("begin");
        const cursor = client.query(new Cursor("select i + $1::int4 as i from generate_series(1, 500) i", [n * 1000]));
        let seen = 0;
        for (;;) {
          const rows = await cursor.read(37);
          if (rows.length === 0) break;
          assert.equal(rows[0].i, n * 1000 + seen + 1);
          seen += rows.length;
        }
        assert.equal(seen, 500);
        await cursor.close();
        await client.query("commit");
      }
    }),
  ),
);

check("cursor_without_transaction", () =>
  together(3, (n) =>
    withClient(async (client) => {
      // The cursor's Flush without a Sync keeps the implicit transaction open between reads.
      for (let round = 0; round < 3; round++) {
        const cursor = client.query(new Cursor("select i + $1::int4 as i from generate_series(1, 300) i", [n * 1000]));
        let seen = 0;
        for (let rows = await cursor.read(50); rows.length; rows = await cursor.read(50)) {
          assert.equal(rows[0].i, n * 1000 + seen + 1);
          seen += rows.length;
          await sleep(3);
        }
        assert.equal(seen, 300);
        const half = client.query(new Cursor("select generate_series(1, 300)"));
        await half.read(10);
        await half.close();
        assert.equal(await value(client, "select $1::int4", [n]), n);
      }
    }),
  ),
);

check("query_stream", () =>
  withClient(async (client) => {
    let sum = 0;
    for await (const row of client.query(new QueryStream("select generate_series(1, $1::int4) as i", [20000], { batchSize: 300 }))) sum += row.i;
    assert.equal(sum, (20000 * 20001) / 2);
    for await (const row of client.query(new QueryStream("select generate_series(1, 100000) as i"))) {
      if (row.i > 500) break;
    }
    assert.equal(await value(client, "select 1"), 1);
  }),
);

check("declared_cursors", () =>
  together(2, (n) =>
    withClient(async (client) => {
      await run(client, "begin", `declare c cursor for select i + ${n * 100} as i from generate_series(1, 50) i`);
      assert.equal((await client.query("fetch 20 from c")).rows[0].i, n * 100 + 1);
      await run(client, `declare held cursor with hold for select i + ${n * 100} as i from generate_series(1, 50) i`, "commit");
      await refused("34000", client.query("fetch 1 from c"));
      for (let i = 0; i < 5; i++) assert.equal((await client.query("fetch 10 from held")).rows[0].i, n * 100 + i * 10 + 1);
      await client.query("close held");
      await refused("34000", client.query("fetch 1 from held"));
    }),
  ),
);

check("copy_both_ways", () =>
  withClient(async (client) => {
    await run(client, "drop table if exists node_copy", "create table node_copy (id int, text text)");
    const rows = 100000;
    function* lines() {
      for (let i = 0; i < rows; i += 1000) {
        let chunk = "";
        for (let j = i; j < i + 1000; j++) chunk += `${j}\tsome text of a row\n`;
        yield chunk;
      }
    }
    await pipeline(Readable.from(lines()), client.query(copyStreams.from("copy node_copy from stdin")));
    assert.equal(await value(client, "select sum(id)::text from node_copy"), String((rows * (rows - 1)) / 2));
    let bytes = 0;
    const sink = new Writable({
      write(chunk, _, done) {
        bytes += chunk.length;
        done();
      },
    });
    await pipeline(client.query(copyStreams.to("copy node_copy to stdout")), sink);
    assert.equal(bytes, [...lines()].reduce((sum, chunk) => sum + chunk.length, 0));
    await run(client, "drop table node_copy");
  }),
);

check("copy_in_fails", () =>
  withClient(async (client) => {
    await run(client, "drop table if exists node_copyfail", "create table node_copyfail (id int primary key)");
    for (let i = 0; i < 6; i++) {
      const data = Readable.from(Array.from({ length: 100 }, () => "1\n".repeat(5000)));
      await refused("23505", pipeline(data, client.query(copyStreams.from("copy node_copyfail from stdin"))));
      assert.equal(await value(client, "select count(*)::int from node_copyfail"), 0);
      const broken = new Readable({
        read() {
          this.push("5\n".repeat(1000));
          setImmediate(() => this.destroy(new Error("the source of the data broke")));
        },
      });
      const copy = client.query(copyStreams.from("copy node_copyfail from stdin"));
      await assert.rejects(pipeline(broken, copy));
      assert.equal(await value(client, "select count(*)::int from node_copyfail"), 0);
    }
    await run(client, "drop table node_copyfail");
  }),
);

check("copy_out_fails_half_way", () =>
  withClient(async (client) => {
    for (let i = 0; i < 5; i++) {
      const out = client.query(copyStreams.to("copy (select 1 / (5000 - i) from generate_series(1, 10000) i) to stdout"));
      await refused("22012", pipeline(out, new Writable({ write: (_chunk, _encoding, done) => done() })));
      assert.equal(await value(client, "select 1"), 1);
    }
  }),
);

check("listen_notify", () =>
  withClient((listener) =>
    withClient((stranger) =>
      withClient(async (sender) => {
        const heard = [];
        const wrong = [];
        listener.on("notification", (note) => heard.push(`${note.channel} ${note.payload}`));
        stranger.on("notification", (note) => wrong.push(note));
        await run(listener, "listen node_a", 'listen "Node B"');
        for (let i = 0; i < 5; i++) {
          await run(sender, `notify node_a, '${i}'`, `notify "Node B", '${i}'`, "notify node_c");
          await run(stranger, "select 1");
        }
        await within(5000, (async () => { while (heard.length < 10) await sleep(10); })(), `10 notifications (${heard.length} came)`);
        assert.deepEqual(heard, Array.from({ length: 10 }, (_, i) => `${i % 2 ? "Node B" : "node_a"} ${i >> 1}`));
        await run(listener, "unlisten *");
        await run(sender, "notify node_a, 'late'");
        await sleep(300);
        assert.equal(heard.length, 10);
        assert.deepEqual(wrong, []);
      }),
    ),
  ),
);

check("listen_while_idle", () =>
  withClient((listener) =>
    withClient(async (sender) => {
      await run(listener, "listen node_idle");
      const note = new Promise((resolve) => listener.once("notification", resolve));
      await sleep(800);
      await sender.query("select pg_notify('node_idle', $1)", ["wake"]);
      assert.equal((await within(5000, note, "a notification")).payload, "wake");
    }),
  ),
);

check("notify_self_in_transaction", () =>
  withClient(async (client) => {
    const heard = [];
    client.on("notification", (note) => heard.push(note.payload));
    await run(client, "begin", "listen node_self", "notify node_self, 'mine'");
    assert.deepEqual(heard, []);
    await run(client, "commit");
    await within(5000, (async () => { while (heard.length < 1) await sleep(10); })(), "a notification of its own");
    assert.deepEqual(heard, ["mine"]);
    await run(client, "begin", "unlisten node_self", "rollback", "notify node_self, 'still'");
    await within(5000, (async () => { while (heard.length < 2) await sleep(10); })(), "a notification after a rolled back UNLISTEN");
  }),
);

check("cancel_running_query", () =>
  withClient(async (client) => {
    for (let i = 0; i < 3; i++) {
      const query = new pg.Query("select pg_sleep(20)");
      const failed = new Promise((resolve) => {
        query.on("error", resolve);
        query.on("end", () => resolve(new Error("the query ended well")));
      });
      client.query(query);
      await sleep(400);
      const started = Date.now();
      new pg.Client().cancel(client, query);
      assert.equal((await within(9000, failed, "the end of a cancelled query")).code, "57014");
      assert.ok(Date.now() - started < 8000, "the cancel took more than 8 s");
      await sleep(50);
      assert.equal(await value(client, "select 1"), 1);
    }
  }),
);

check("search_path_sticks", async () => {
  const schemas = [0, 1, 2, 3];
  await withClient(async (setup) => {
    for (const n of schemas) {
      await run(setup, `drop schema if exists node_s${n} cascade`, `create schema node_s${n}`, `create table node_s${n}.whose as select ${n} as owner`);
    }
  });
  await together(4, (n) =>
    withClient(async (client) => {
      await run(client, `set search_path to node_s${n}`);
      for (let i = 0; i < 50; i++) {
        assert.equal(await value(client, "select owner from whose"), n);
        assert.equal((await client.query({ name: "whose", text: "select owner from whose" })).rows[0].owner, n);
      }
    }),
  );
  await withClient(async (setup) => {
    assert.equal(await value(setup, "show search_path"), '"$user", public');
    for (const n of schemas) await run(setup, `drop schema node_s${n} cascade`);
  });
});

check("settings_stick", () =>
  withClient(
    (client) =>
      withClient(async (other) => {
        await run(client, "set work_mem = '9MB'", "set time zone 'Asia/Tokyo'", "select set_config('app.tenant', 'blue', false)");
        for (let i = 0; i < 5; i++) {
          assert.equal(await value(client, "show geqo"), "off");
          assert.equal(await value(client, "show statement_timeout"), "4321ms");
          assert.equal(await value(client, "show application_name"), "node one");
          assert.equal(await value(client, "show work_mem"), "9MB");
          assert.equal(await value(client, "select '2024-01-01T00:00:00Z'::timestamptz::text"), "2024-01-01 09:00:00+09");
          assert.equal(await value(client, "show app.tenant"), "blue");
          assert.equal(await value(other, "show geqo"), "on");
          assert.equal(await value(other, "show work_mem"), "4MB");
          assert.equal(await value(other, "select coalesce(current_setting('app.tenant', true), '')"), "");
        }
        await run(client, "begin", "set local work_mem = '10MB'", "commit", "begin", "set work_mem = '11MB'", "rollback");
        assert.equal(await value(client, "show work_mem"), "9MB");
        await run(client, "reset all");
        assert.equal(await value(client, "show work_mem"), "4MB");
        assert.equal(await value(client, "show application_name"), "node one");
      }),
    { application_name: "node one", options: "-c geqo=off", statement_timeout: 4321 },
  ),
);

check("statement_timeout", () =>
  withClient((limited) =>
    withClient(async (free) => {
      await run(limited, "set statement_timeout = 150");
      for (let i = 0; i < 3; i++) {
        await refused("57014", limited.query("select pg_sleep(5)"));
        await run(free, "select pg_sleep(0.3)");
      }
    }),
  ),
);

check("temp_table", () =>
  together(2, (n) =>
    withClient(async (client) => {
      await run(client, "create temp table mine (a int)");
      for (let i = 0; i < 30; i++) await client.query("insert into mine values ($1)", [n * 100 + i]);
      assert.equal(await value(client, "select min(a) from mine"), n * 100);
      await run(client, "drop table mine");
      await refused("42P01", client.query("select * from mine"));
    }),
  ),
);

check("advisory_locks", () =>
  withClient((holder) =>
    withClient(async (other) => {
      await run(holder, "select pg_advisory_lock(77003)");
      for (let i = 0; i < 5; i++) {
        assert.equal(await value(other, "select pg_try_advisory_lock(77003)"), false);
        await run(holder, "select 1");
      }
      assert.equal(await value(holder, "select pg_advisory_unlock($1)", [77003]), true);
      assert.equal(await value(other, "select pg_try_advisory_lock(77003)"), true);
      assert.equal(await value(other, "select pg_advisory_unlock(77003)"), true);
    }),
  ),
);

check("sql_prepare_execute", () =>
  together(4, (n) =>
    withClient(async (client) => {
      await run(client, `prepare plan (int) as select ${n * 100} + $1 as sum`);
      for (let i = 0; i < 20; i++) assert.equal((await client.query(`execute plan(${i})`)).rows[0].sum, n * 100 + i);
      await run(client, "deallocate plan");
      await refused("26000", client.query("execute plan(1)"));
    }),
  ),
);

check("discard_all", () =>
  withClient(async (client) => {
    await run(client, "set work_mem = '9MB'");
    const { command } = await client.query("discard all");
    assert.equal(command, "DISCARD");
    assert.equal(await value(client, "show work_mem"), "4MB");
    await client.query({ name: "gone", text: "select 1" });
    await client.query("discard all");
    // node-postgres believes that it still has the name, and sends no Parse.
    await refused("26000", client.query({ name: "gone", text: "select 1" }));
  }),
);

check("sqlstates", () =>
  withClient(async (client) => {
    await run(client, "drop table if exists node_states", "create table node_states (id int primary key, n int not null check (n > 0))");
    const states = {
      selec: "42601", "select * from node_nowhere": "42P01", "select nothing from node_states": "42703",
      "insert into node_states values (1, null)": "23502", "insert into node_states values (1, 0)": "23514",
      "select 'x'::int": "22P02", "select 1/0": "22012", "set no_such_thing = 1": "42704",
      "do $$ begin raise exception 'mine' using errcode = 'ZZ001'; end $$": "ZZ001",
    };
    for (const [text, state] of Object.entries(states)) {
      await refused(state, client.query(text));
      await refused(state, client.query({ text, queryMode: "extended" }));
    }
    const error = await refused("23514", client.query("insert into node_states values (1, 0)"));
    assert.equal(error.constraint, "node_states_n_check");
    assert.equal(error.severity, "ERROR");
    assert.match(error.detail, /^Failing row/);
    await run(client, "drop table node_states");
  }),
);

check("notices", () =>
  withClient(async (client) => {
    const heard = [];
    client.on("notice", (notice) => heard.push(`${notice.severity} ${notice.message}`));
    await run(client, "do $$ begin raise notice 'one'; raise warning 'two'; end $$", "commit");
    assert.deepEqual(heard, ["NOTICE one", "WARNING two", "WARNING there is no transaction in progress"]);
  }),
);

check("pool_tagged_rows", async () => {
  const pool = new pg.Pool({ max: 20, connectionTimeoutMillis: 15000 });
  try {
    await together(20, async (n) => {
      for (let i = 0; i < 80; i++) {
        const tag = `worker ${n} item ${i}`;
        const query = { text: `select $1::text as tag where ${i % 13} = ${i % 13}`, values: [tag] };
        if (i % 2) query.name = `tagged ${i % 13}`;
        assert.equal((await pool.query(query)).rows[0].tag, tag);
      }
    });
  } finally {
    await pool.end();
  }
});

check("pool_transactions", async () => {
  const pool = new pg.Pool({ max: 20, connectionTimeoutMillis: 15000 });
  try {
    await pool.query("drop table if exists node_bank");
    await pool.query("create table node_bank as select i as id, 100 as amount from generate_series(0, 19) i");
    await together(20, async (n) => {
      for (let i = 0; i < 15; i++) {
        const client = await pool.connect();
        try {
          const [low, high] = [n, (n + i + 1) % 20].sort((a, b) => a - b);
          await client.query("begin");
          await client.query("update node_bank set amount = amount - 1 where id = $1", [low]);
          if (i % 5 === 4) {
            await refused("22012", client.query("select 1/0"));
            await client.query("rollback");
          } else {
            await client.query("update node_bank set amount = amount + 1 where id = $1", [high]);
            await client.query("commit");
          }
        } finally {
          client.release();
        }
      }
    });
    assert.equal((await pool.query("select sum(amount)::int as sum from node_bank")).rows[0].sum, 2000);
    await pool.query("drop table node_bank");
  } finally {
    await pool.end();
  }
});

check("reconnect_loop", () =>
  together(3, async (n) => {
    for (let i = 0; i < 25; i++) {
      await withClient(async (client) => {
        assert.equal(await value(client, "select $1::int4", [n * 100 + i]), n * 100 + i);
        if (i % 3 === 0) {
          await client.query("begin");
          client.connection.stream.destroy();
        }
      });
    }
  }),
);

check("wrong_password_and_database", async () => {
  await refused("28P01", withClient(() => {}, { password: "certainly wrong" }));
  await refused("3D000", withClient(() => {}, { database: "no_such_database" }));
  await withClient(async (client) => assert.equal(await value(client, "select 1"), 1));
});

check("idle_in_transaction", () =>
  withClient(async (idle) => {
    await idle.query("begin");
    const pid = await value(idle, "select pg_backend_pid()");
    await together(4, () =>
      withClient(async (client) => {
        for (let i = 0; i < 20; i++) assert.notEqual(await value(client, "select pg_backend_pid()"), pid);
      }),
    );
    await sleep(500);
    assert.equal(await value(idle, "select pg_backend_pid()"), pid);
    await idle.query("commit");
  }),
);

check("backend_terminated", async () => {
  for (let i = 0; i < 3; i++) {
    await withClient((victim) =>
      withClient(async (killer) => {
        await victim.query("begin");
        const pid = await value(victim, "select pg_backend_pid()");
        assert.equal(await value(killer, "select pg_terminate_backend($1, 5000)", [pid]), true);
        await assert.rejects(victim.query("select 1"));
        assert.equal(await value(killer, "select 1"), 1);
      }),
    );
  }
});

await main();
