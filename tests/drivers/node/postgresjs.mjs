// Checks of postgres (postgres.js), which prepares everything under names of its own and pipelines by default.
// Connection data come from PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE.
import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

import postgres from "postgres";

import { check, main, refused, sleep, together, within } from "./checks.mjs";

async function withSql(work, settings = {}) {
  const sql = postgres({ max: 1, onnotice: () => {}, connect_timeout: 15, ...settings });
  try {
    return await work(sql);
  } finally {
    await sql.end({ timeout: 3 });
  }
}

check("tagged_templates", () =>
  withSql(async (sql) => {
    for (let i = 0; i < 50; i++) {
      const [row] = await sql`select ${i}::int4 as i, ${"text " + i} as t, ${null}::text as n, ${[1, i]}::int4[] as a, ${sql.json({ i })} as j`;
      assert.deepEqual({ ...row }, { i, t: `text ${i}`, n: null, a: [1, i], j: { i } });
    }
    assert.equal((await sql.unsafe("select 1 as a; select 2 as a")).length, 2);
  }),
);

check("pipelined_queries", () =>
  withSql(async (sql) => {
    for (let round = 0; round < 5; round++) {
      await Promise.all(
        Array.from({ length: 200 }, async (_, i) => {
          if (i % 20 === 7) return refused("22012", sql`select 1 / ${0}::int4`);
          const [row] = await sql`select ${i}::int4 as i, ${`round ${round}`} as tag`;
          assert.deepEqual({ ...row }, { i, tag: `round ${round}` });
        }),
      );
    }
  }),
);

check("pool_tagged_rows", () =>
  withSql(
    (sql) =>
      together(20, async (n) => {
        for (let i = 0; i < 100; i++) {
          const tag = `worker ${n} item ${i}`;
          const [row] = await sql.unsafe(`select $1::text as tag where ${i % 13} = ${i % 13}`, [tag], { prepare: true });
          assert.equal(row.tag, tag);
        }
      }),
    { max: 20 },
  ),
);

check("without_prepare", () =>
  withSql(
    (sql) =>
      together(20, async (n) => {
        for (let i = 0; i < 40; i++) assert.equal((await sql`select ${`${n} ${i}`}::text as tag`)[0].tag, `${n} ${i}`);
      }),
    { max: 10, prepare: false },
  ),
);

check("transactions_and_savepoints", () =>
  withSql(
    async (sql) => {
      await sql`drop table if exists pjs_tx`;
      await sql`create table pjs_tx (a int primary key)`;
      await together(8, async (n) => {
        await sql.begin(async (tx) => {
          await tx`insert into pjs_tx values (${n})`;
          await refused("23505", tx.savepoint((inner) => inner`insert into pjs_tx values (${n})`));
          await tx.savepoint((inner) => inner`insert into pjs_tx values (${n + 100})`);
        });
        await refused("22012", sql.begin(async (tx) => {
          await tx`insert into pjs_tx values (${n + 200})`;
          await tx`select 1/0`;
        }));
      });
      assert.equal((await sql`select count(*)::int as n from pjs_tx`)[0].n, 16);
      await sql.begin("isolation level serializable read only", async (tx) => {
        assert.equal((await tx`show transaction_isolation`)[0].transaction_isolation, "serializable");
        // As the sender's pipelined statements do: several at once inside one transaction.
        const rows = await Promise.all([1, 2, 3, 4].map((i) => tx`select ${i}::int4 as i`));
        assert.deepEqual(rows.map(([row]) => row.i), [1, 2, 3, 4]);
      });
      await sql`drop table pjs_tx`;
    },
    { max: 4 },
  ),
);

check("reprepare_after_ddl", () =>
  withSql((sql) =>
    withSql(async (other) => {
      await sql`drop table if exists pjs_ddl`;
      await sql`create table pjs_ddl (a int)`;
      await sql`insert into pjs_ddl values (1)`;
      const ask = () => sql`select * from pjs_ddl`;
      for (let round = 0; round < 4; round++) {
        await other.unsafe(`alter table pjs_ddl add column c${round} int`);
        // postgres.js prepares again and retries by itself.
        const result = await ask();
        assert.equal(result.columns.length, round + 2);
      }
      await sql`drop table pjs_ddl`;
    }),
  ),
);

check("cursor", () =>
  withSql(async (sql) => {
    let sum = 0;
    for await (const rows of sql`select i from generate_series(1, 1000) i`.cursor(70)) sum += rows.reduce((part, row) => part + row.i, 0);
    assert.equal(sum, 500500);
    let seen = 0;
    await sql`select i from generate_series(1, 1000) i`.cursor(10, async () => (++seen === 5 ? sql.CLOSE : undefined));
    assert.equal(seen, 5);
    assert.equal((await sql`select 1 as one`)[0].one, 1);
  }),
);

check("for_each_and_big_values", () =>
  withSql(async (sql) => {
    let count = 0;
    await sql`select i from generate_series(1, 50000) i`.forEach(() => count++);
    assert.equal(count, 50000);
    const big = "0123456789abcdef".repeat((10 << 20) / 16);
    assert.ok((await sql`select ${big}::text as big`)[0].big === big, "10 MB changed on the way");
  }),
);

check("copy_both_ways", () =>
  withSql(async (sql) => {
    await sql`drop table if exists pjs_copy`;
    await sql`create table pjs_copy (id int primary key, text text)`;
    const chunks = Array.from({ length: 50 }, (_, i) => Array.from({ length: 1000 }, (__, j) => `${i * 1000 + j}\tsome text\n`).join(""));
    await pipeline(Readable.from(chunks), await sql`copy pjs_copy from stdin`.writable());
    assert.equal((await sql`select count(*)::int as n from pjs_copy`)[0].n, 50000);
    // On a connection of its own: 3.4.9 can forget to resume its socket behind a COPY OUT, without any pooler too.
    await withSql(async (reader) => {
      let bytes = 0;
      for await (const chunk of await reader`copy pjs_copy to stdout`.readable()) bytes += chunk.length;
      assert.equal(bytes, chunks.reduce((sum, chunk) => sum + chunk.length, 0));
    });
    await sql`drop table pjs_copy`;
  }),
);

check("listen_notify", () =>
  withSql(async (sql) => {
    const heard = [];
    const listening = await sql.listen("pjs_channel", (payload) => heard.push(payload));
    await sleep(500);
    for (let i = 0; i < 5; i++) await sql.notify("pjs_channel", `message ${i}`);
    await within(5000, (async () => { while (heard.length < 5) await sleep(10); })(), "5 notifications");
    assert.deepEqual(heard, [0, 1, 2, 3, 4].map((i) => `message ${i}`));
    await listening.unlisten();
    await sql.notify("pjs_channel", "late");
    await sleep(300);
    assert.equal(heard.length, 5);
  }),
);

check("cancel", () =>
  withSql(async (sql) => {
    for (let i = 0; i < 4; i++) {
      const query = sql`select pg_sleep(20)`;
      const failed = refused("57014", query.execute());
      await sleep(400);
      query.cancel();
      await within(9000, failed, "the end of a cancelled query");
      await sleep(50);
      assert.equal((await sql`select 1 as one`)[0].one, 1);
    }
  }),
);

check("connection_settings", () =>
  together(4, (n) =>
    withSql(
      async (sql) => {
        for (let i = 0; i < 20; i++) {
          assert.equal((await sql`show application_name`)[0].application_name, `pjs ${n}`);
          assert.equal((await sql`show search_path`)[0].search_path, `pjs_path_${n}`);
        }
        await sql`set work_mem = '9MB'`;
        for (let i = 0; i < 5; i++) assert.equal((await sql`show work_mem`)[0].work_mem, "9MB");
      },
      { connection: { application_name: `pjs ${n}`, search_path: `pjs_path_${n}` } },
    ),
  ),
);

check("large_objects", () =>
  withSql(async (sql) => {
    const content = Buffer.from("0123456789".repeat(20000));
    const object = await sql.largeObject();
    await object.write(content);
    await object.seek(0);
    const [{ data }] = await object.read(content.length);
    assert.ok(Buffer.compare(data, content) === 0, "a large object changed");
    await object.close();
    await sql`select lo_unlink(${object.oid ?? 0}::oid) from pg_largeobject_metadata where oid = ${object.oid ?? 0}::oid`;
  }),
);

check("errors", () =>
  withSql(async (sql) => {
    await refused("42601", sql`selec ${1}`);
    await refused("42P01", sql`select * from pjs_nowhere`);
    await refused("22P02", sql`select ${"x"}::text::int4`);
    await withSql((wrong) => refused("28P01", wrong`select 1`), { password: "certainly wrong" });
    await withSql((wrong) => refused("3D000", wrong`select 1`), { database: "no_such_database" });
    assert.equal((await sql`select 1 as one`)[0].one, 1);
  }),
);

check("reconnects", () =>
  withSql(async (sql) => {
    for (let i = 0; i < 3; i++) {
      await assert.rejects(sql`select pg_terminate_backend(pg_backend_pid()), pg_sleep(1)`);
      // The driver may hand the error of the lost connection to the next query too, but no longer than that.
      const outcomes = [];
      for (let j = 0; j < 3; j++) {
        await sleep(100);
        outcomes.push(await sql`select 1 as one`.then(([row]) => row.one, (error) => error.code));
      }
      assert.equal(outcomes[2], 1, `after a lost connection: ${outcomes}`);
    }
  }),
);

await main();
