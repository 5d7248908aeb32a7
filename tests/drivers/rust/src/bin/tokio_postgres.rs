//! Checks of tokio-postgres. Connection data come from PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use drivers_rust::{Checks, sleep, together, variable};
use futures_util::future::{join_all, poll_fn};
use futures_util::{SinkExt, StreamExt, TryStreamExt, pin_mut};
use tokio::sync::mpsc;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, Error, IsolationLevel, NoTls, SimpleQueryMessage};

fn config() -> Config {
    let mut config = Config::new();
    config
        .host(variable("PGHOST"))
        .port(variable("PGPORT").parse().unwrap())
        .user(variable("PGUSER"))
        .password(variable("PGPASSWORD"))
        .dbname(variable("PGDATABASE"));
    config
}

async fn connect() -> Client {
    connect_with(&config()).await.unwrap()
}

async fn connect_with(config: &Config) -> Result<Client, Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async {
        let _ = connection.await;
    });
    Ok(client)
}

/// A client and everything that the server says by itself, as text.
async fn connect_listening() -> (Client, mpsc::UnboundedReceiver<String>) {
    let (client, mut connection) = config().connect(NoTls).await.unwrap();
    let (said, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            let _ = match message {
                AsyncMessage::Notification(note) => said.send(format!("{} {}", note.channel(), note.payload())),
                AsyncMessage::Notice(notice) => said.send(format!("{} {}", notice.severity(), notice.message())),
                _ => Ok(()),
            };
        }
    });
    (client, heard)
}

async fn hear(heard: &mut mpsc::UnboundedReceiver<String>) -> String {
    tokio::time::timeout(Duration::from_secs(5), heard.recv())
        .await
        .expect("nothing within 5 s")
        .expect("connection lost")
}

fn refused<T>(outcome: Result<T, Error>, state: &str) -> Error {
    match outcome {
        Ok(_) => panic!("expected SQLSTATE {state}, but nothing failed"),
        Err(error) => {
            let code = error.code().map(SqlState::code).unwrap_or("none").to_owned();
            assert_eq!(code, state, "{error:?}");
            error
        }
    }
}

async fn text(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

async fn number(client: &Client, sql: &str, values: &[&(dyn ToSql + Sync)]) -> i32 {
    client.query_one(sql, values).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut c = Checks::default();

    c.check("simple_query", async || {
        let client = connect().await;
        for i in 0..50 {
            let messages = client.simple_query(&format!("select {i}; select 'two'")).await.unwrap();
            let rows: Vec<String> = messages
                .iter()
                .filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                })
                .collect();
            assert_eq!(rows, [i.to_string(), "two".to_owned()]);
        }
        client.simple_query("").await.unwrap();
        refused(client.simple_query("select 1; select 1/0; select 2").await, "22012");
        assert_eq!(number(&client, "select 4", &[]).await, 4);
    });

    c.check("parameters_all_types", async || {
        let client = connect().await;
        let moment: DateTime<Utc> = "2024-02-29T12:34:56.789012Z".parse().unwrap();
        let plain: NaiveDateTime = moment.naive_utc();
        let day = NaiveDate::from_ymd_opt(2024, 2, 29).unwrap();
        let id = uuid::Uuid::parse_str("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11").unwrap();
        let json = serde_json::json!({"k": [1.5, "é", null]});
        for _ in 0..3 {
            let row = client
                .query_one(
                    "select $1::bool, $2::int2, $3::int4, $4::int8, $5::float4, $6::float8, $7::text, $8::bytea, $9::date, $10::timestamp,
                     $11::timestamptz, $12::uuid, $13::jsonb, $14::int4[], $15::text",
                    &[
                        &true, &i16::MIN, &i32::MAX, &i64::MIN, &1.5f32, &2.25f64, &"snowman ☃ 'quoted' \\", &vec![0u8, 1, 255, 92], &day,
                        &plain, &moment, &id, &json, &vec![Some(1), None, Some(3)], &None::<String>,
                    ],
                )
                .await
                .unwrap();
            assert_eq!((row.get::<_, bool>(0), row.get::<_, i16>(1), row.get::<_, i32>(2)), (true, i16::MIN, i32::MAX));
            assert_eq!((row.get::<_, i64>(3), row.get::<_, f32>(4), row.get::<_, f64>(5)), (i64::MIN, 1.5, 2.25));
            assert_eq!((row.get::<_, &str>(6), row.get::<_, &[u8]>(7)), ("snowman ☃ 'quoted' \\", &[0u8, 1, 255, 92][..]));
            assert_eq!((row.get::<_, NaiveDate>(8), row.get::<_, NaiveDateTime>(9)), (day, plain));
            assert_eq!((row.get::<_, DateTime<Utc>>(10), row.get::<_, uuid::Uuid>(11)), (moment, id));
            assert_eq!((row.get::<_, serde_json::Value>(12), row.get::<_, Vec<Option<i32>>>(13)), (json.clone(), vec![Some(1), None, Some(3)]));
            assert_eq!(row.get::<_, Option<String>>(14), None);
        }
    });

    c.check("typed_without_prepare", async || {
        together(6, async |n: usize| {
            let client = connect().await;
            for i in 0..60 {
                let rows = client
                    .query_typed(
                        "select $1::text || ' ' || $2::int4",
                        &[(&format!("client {n}"), Type::TEXT), (&i, Type::INT4)],
                    )
                    .await
                    .unwrap();
                assert_eq!(rows[0].get::<_, &str>(0), format!("client {n} {i}"));
            }
        })
        .await;
    });

    c.check("big_text_both_ways", async || {
        let client = connect().await;
        let big = "0123456789abcdef".repeat((10 << 20) / 16);
        let row = client.query_one("select $1::text", &[&big]).await.unwrap();
        assert!(row.get::<_, &str>(0) == big, "10 MB changed on the way");
        assert_eq!(number(&client, "select 1", &[]).await, 1);
    });

    c.check("many_parameters", async || {
        let client = connect().await;
        let count = 65535;
        let names: Vec<String> = (1..=count).map(|i| format!("${i}::int4")).collect();
        let values: Vec<i32> = (0..count).collect();
        let references: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
        let sql = format!("select (array[{}])[{count}]", names.join(","));
        assert_eq!(number(&client, &sql, &references).await, count - 1);
    });

    c.check("prepared_names_collide", async || {
        // Every client names its statements s0, s1, ...
        together(10, async |n: usize| {
            let client = connect().await;
            let one = client.prepare(&format!("select 'client {n} ' || $1::int4")).await.unwrap();
            let two = client.prepare(&format!("select {} + $1::int4", n * 1000)).await.unwrap();
            for i in 0..100i32 {
                let row = client.query_one(&one, &[&i]).await.unwrap();
                assert_eq!(row.get::<_, &str>(0), format!("client {n} {i}"));
                assert_eq!(client.query_one(&two, &[&i]).await.unwrap().get::<_, i32>(0), n as i32 * 1000 + i);
            }
        })
        .await;
    });

    c.check("statements_made_and_dropped", async || {
        together(4, async |n: usize| {
            let client = connect().await;
            for i in 0..150i32 {
                let statement = client.prepare(&format!("select $1::int4 + {}", i % 40)).await.unwrap();
                assert_eq!(
                    client.query_one(&statement, &[&(n as i32)]).await.unwrap().get::<_, i32>(0),
                    n as i32 + i % 40
                );
            }
        })
        .await;
    });

    c.check("pipelined_futures", async || {
        together(4, async |n: usize| {
            let client = connect().await;
            let statement = client.prepare("select $1::text").await.unwrap();
            for _ in 0..5 {
                let asked = (0..100).map(|i| {
                    let (client, statement) = (&client, &statement);
                    async move {
                        if i % 10 == 7 {
                            refused(client.query("select 1 / $1::int4", &[&0i32]).await, "22012");
                        } else if i % 10 == 3 {
                            client.batch_execute("select 1; select 2").await.unwrap();
                        } else {
                            let row = client.query_one(statement, &[&format!("{n} {i}")]).await.unwrap();
                            assert_eq!(row.get::<_, &str>(0), format!("{n} {i}"));
                        }
                    }
                });
                join_all(asked).await;
            }
        })
        .await;
    });

    c.check("prepare_fails", async || {
        let client = connect().await;
        for _ in 0..5 {
            refused(client.prepare("selec 1").await, "42601");
            refused(client.prepare("select * from rust_nowhere").await, "42P01");
            assert_eq!(number(&client, "select 1", &[]).await, 1);
        }
    });

    c.check("statement_after_ddl", async || {
        let (client, other) = (connect().await, connect().await);
        client
            .batch_execute(
                "drop table if exists rust_ddl; create table rust_ddl (a int); insert into rust_ddl values (1)",
            )
            .await
            .unwrap();
        let statement = client.prepare("select * from rust_ddl").await.unwrap();
        client.query(&statement, &[]).await.unwrap();
        other.batch_execute("alter table rust_ddl add column b int").await.unwrap();
        // The driver keeps its statement, so the direct answer is this error, each time.
        for _ in 0..3 {
            if let Err(error) = client.query(&statement, &[]).await {
                assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{error:?}");
            }
        }
        assert_eq!(client.query("select * from rust_ddl", &[]).await.unwrap()[0].len(), 2);
        client.batch_execute("drop table rust_ddl").await.unwrap();
    });

    c.check("enum_and_domain_types", async || {
        let client = connect().await;
        client
            .batch_execute("drop type if exists rust_mood cascade; create type rust_mood as enum ('sad', 'ok'); drop type if exists rust_pair cascade; create type rust_pair as (a int, b rust_mood)")
            .await
            .unwrap();
        // Needs the driver's own look-ups in the catalogue, in the middle of a prepare.
        let statement = client.prepare("select $1::rust_mood::text, row(1, 'ok')::rust_pair").await.unwrap();
        assert_eq!(statement.params()[0].name(), "rust_mood");
        assert_eq!(statement.columns()[1].type_().name(), "rust_pair");
        client.batch_execute("drop type rust_pair; drop type rust_mood").await.unwrap();
    });

    c.check("transactions", async || {
        let mut client = connect().await;
        client.batch_execute("drop table if exists rust_tx; create table rust_tx (a int primary key)").await.unwrap();
        for i in 0..9i32 {
            let tx = client.transaction().await.unwrap();
            tx.execute("insert into rust_tx values ($1)", &[&i]).await.unwrap();
            match i % 3 {
                0 => tx.commit().await.unwrap(),
                1 => tx.rollback().await.unwrap(),
                _ => drop(tx), // sends ROLLBACK behind our back
            }
        }
        assert_eq!(number(&client, "select count(*)::int4 from rust_tx", &[]).await, 3);
        let tx = client.transaction().await.unwrap();
        refused(tx.execute("insert into rust_tx values (0)", &[]).await, "23505");
        refused(tx.execute("select 1", &[]).await, "25P02");
        tx.commit().await.unwrap();
        let mut tx = client.transaction().await.unwrap();
        let inner = tx.transaction().await.unwrap();
        refused(inner.execute("insert into rust_tx values (0)", &[]).await, "23505");
        inner.rollback().await.unwrap();
        let named = tx.savepoint("named").await.unwrap();
        named.execute("insert into rust_tx values (100)", &[]).await.unwrap();
        named.commit().await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(number(&client, "select count(*)::int4 from rust_tx", &[]).await, 4);
        client.batch_execute("drop table rust_tx").await.unwrap();
    });

    c.check("isolation_and_read_only", async || {
        let mut client = connect().await;
        for (level, name) in
            [(IsolationLevel::Serializable, "serializable"), (IsolationLevel::RepeatableRead, "repeatable read")]
        {
            let tx = client
                .build_transaction()
                .isolation_level(level)
                .read_only(true)
                .deferrable(true)
                .start()
                .await
                .unwrap();
            let row = tx.query_one("show transaction_isolation", &[]).await.unwrap();
            assert_eq!(row.get::<_, &str>(0), name);
            refused(tx.execute("create table rust_never (a int)", &[]).await, "25006");
            tx.rollback().await.unwrap();
        }
        assert_eq!(text(&client, "show transaction_read_only").await, "off");
    });

    c.check("portals", async || {
        together(3, async |n: usize| {
            let mut client = connect().await;
            for _ in 0..3 {
                let tx = client.transaction().await.unwrap();
                let one =
                    tx.bind("select i + $1::int4 from generate_series(1, 100) i", &[&(n as i32 * 1000)]).await.unwrap();
                let two = tx.bind("select i from generate_series(1, 100) i", &[]).await.unwrap();
                let mut seen = 0;
                loop {
                    let rows = tx.query_portal(&one, 7).await.unwrap();
                    if rows.is_empty() {
                        break;
                    }
                    assert_eq!(rows[0].get::<_, i32>(0), n as i32 * 1000 + seen + 1);
                    seen += rows.len() as i32;
                    tx.query_portal(&two, 3).await.unwrap();
                }
                assert_eq!(seen, 100);
                tx.commit().await.unwrap();
            }
        })
        .await;
    });

    c.check("cursors", async || {
        together(2, async |n: usize| {
            let client = connect().await;
            client
                .batch_execute(&format!(
                    "begin; declare held cursor with hold for select i + {} from generate_series(1, 50) i; commit",
                    n * 100
                ))
                .await
                .unwrap();
            for i in 0..5 {
                let rows = client.query("fetch 10 from held", &[]).await.unwrap();
                assert_eq!(rows[0].get::<_, i32>(0), (n * 100 + i * 10 + 1) as i32);
            }
            client.batch_execute("close held").await.unwrap();
            refused(client.query("fetch 1 from held", &[]).await, "34000");
        })
        .await;
    });

    c.check("row_stream_dropped", async || {
        let client = connect().await;
        for _ in 0..5 {
            let rows = client.query_raw("select generate_series(1, 50000)", Vec::<i32>::new()).await.unwrap();
            pin_mut!(rows);
            rows.try_next().await.unwrap();
        }
        assert_eq!(number(&client, "select 1", &[]).await, 1);
    });

    c.check("copy_both_ways", async || {
        let client = connect().await;
        client
            .batch_execute("drop table if exists rust_copy; create table rust_copy (id int, text text)")
            .await
            .unwrap();
        let sink = client.copy_in("copy rust_copy from stdin").await.unwrap();
        pin_mut!(sink);
        let mut sent = 0;
        for i in 0..100 {
            let chunk: String = (0..1000).map(|j| format!("{}\tsome text of a row\n", i * 1000 + j)).collect();
            sent += chunk.len();
            sink.send(Bytes::from(chunk)).await.unwrap();
        }
        assert_eq!(sink.finish().await.unwrap(), 100_000);
        let out = client.copy_out("copy rust_copy to stdout").await.unwrap();
        pin_mut!(out);
        let mut received = 0;
        while let Some(chunk) = out.next().await {
            received += chunk.unwrap().len();
        }
        assert_eq!(received, sent);
        client.batch_execute("drop table rust_copy").await.unwrap();
    });

    c.check("copy_in_server_fails", async || {
        let client = connect().await;
        client
            .batch_execute("drop table if exists rust_copyfail; create table rust_copyfail (id int primary key)")
            .await
            .unwrap();
        let chunk = Bytes::from("1\n".repeat(5000));
        for _ in 0..8 {
            let sink = client.copy_in("copy rust_copyfail from stdin").await.unwrap();
            pin_mut!(sink);
            let mut outcome = Ok(());
            for _ in 0..100 {
                outcome = sink.send(chunk.clone()).await;
                if outcome.is_err() {
                    break;
                }
            }
            let outcome = match outcome {
                Ok(()) => sink.finish().await.map(|_| ()),
                failed => failed,
            };
            refused(outcome, "23505");
            assert_eq!(number(&client, "select count(*)::int4 from rust_copyfail", &[]).await, 0);
            // On a client of its own: behind a COPY that fails at once, 0.7.18 sends one Sync more than it reads
            // answers for, without any pooler too.
            let outcome = connect().await.copy_in::<_, Bytes>("copy rust_no_such_table from stdin").await.map(|_| ());
            refused(outcome, "42P01");
        }
        client.batch_execute("drop table rust_copyfail").await.unwrap();
    });

    c.check("copy_in_dropped", async || {
        let client = connect().await;
        client.batch_execute("drop table if exists rust_copyhalf; create table rust_copyhalf (id int)").await.unwrap();
        for _ in 0..5 {
            {
                let sink = client.copy_in("copy rust_copyhalf from stdin").await.unwrap();
                pin_mut!(sink);
                sink.send(Bytes::from("5\n".repeat(1000))).await.unwrap();
                // Dropped without finish: the driver sends CopyFail.
            }
            assert_eq!(number(&client, "select count(*)::int4 from rust_copyhalf", &[]).await, 0);
        }
        client.batch_execute("drop table rust_copyhalf").await.unwrap();
    });

    c.check("copy_in_transaction", async || {
        let mut client = connect().await;
        client.batch_execute("drop table if exists rust_copytx; create table rust_copytx (id int)").await.unwrap();
        for _ in 0..3 {
            let tx = client.transaction().await.unwrap();
            {
                let sink = tx.copy_in("copy rust_copytx from stdin").await.unwrap();
                pin_mut!(sink);
                sink.send(Bytes::from("5\n6\n")).await.unwrap();
                assert_eq!(sink.finish().await.unwrap(), 2);
            }
            tx.rollback().await.unwrap();
        }
        assert_eq!(number(&client, "select count(*)::int4 from rust_copytx", &[]).await, 0);
        client.batch_execute("drop table rust_copytx").await.unwrap();
    });

    c.check("copy_out_dropped_and_failing", async || {
        let client = connect().await;
        for _ in 0..4 {
            {
                let out = client.copy_out("copy (select generate_series(1, 200000)) to stdout").await.unwrap();
                pin_mut!(out);
                out.next().await.unwrap().unwrap();
            }
            assert_eq!(number(&client, "select 1", &[]).await, 1);
            let out = client
                .copy_out("copy (select 1 / (5000 - i) from generate_series(1, 10000) i) to stdout")
                .await
                .unwrap();
            let outcome: Result<Vec<Bytes>, Error> = out.try_collect().await;
            refused(outcome, "22012");
        }
    });

    c.check("listen_notify", async || {
        let (listener, mut heard) = connect_listening().await;
        let (stranger, mut overheard) = connect_listening().await;
        let sender = connect().await;
        listener.batch_execute("listen rust_channel").await.unwrap();
        sleep(700).await;
        for i in 0..5 {
            sender.batch_execute(&format!("notify rust_channel, 'message {i}'")).await.unwrap();
            stranger.batch_execute("select 1").await.unwrap();
            assert_eq!(hear(&mut heard).await, format!("rust_channel message {i}"));
        }
        listener.batch_execute("unlisten *").await.unwrap();
        sender.batch_execute("notify rust_channel, 'late'").await.unwrap();
        sleep(300).await;
        assert!(heard.try_recv().is_err(), "a notification after UNLISTEN");
        assert!(overheard.try_recv().is_err(), "a client that never listened was notified");
    });

    c.check("notices", async || {
        let (client, mut heard) = connect_listening().await;
        client.batch_execute("do $$ begin raise notice 'one'; raise warning 'two'; end $$; commit").await.unwrap();
        for want in ["NOTICE one", "WARNING two", "WARNING there is no transaction in progress"] {
            assert_eq!(hear(&mut heard).await, want);
        }
    });

    c.check("cancel", async || {
        let client = connect().await;
        for _ in 0..3 {
            let token = client.cancel_token();
            let started = Instant::now();
            let (outcome, cancelled) = tokio::join!(client.batch_execute("select pg_sleep(20)"), async {
                sleep(400).await;
                token.cancel_query(NoTls).await
            });
            cancelled.unwrap();
            refused(outcome, "57014");
            assert!(started.elapsed() < Duration::from_secs(8), "the cancel took {:?}", started.elapsed());
            sleep(50).await;
            assert_eq!(number(&client, "select 1", &[]).await, 1);
        }
    });

    c.check("future_dropped", async || {
        // A future that is given up leaves its query running; what follows must still be told apart.
        let client = connect().await;
        for i in 0..20i32 {
            let _ = tokio::time::timeout(Duration::from_millis(5), client.query("select pg_sleep(0.03)", &[])).await;
            assert_eq!(number(&client, "select $1::int4", &[&i]).await, i);
        }
    });

    c.check("settings_stick", async || {
        together(4, async |n: usize| {
            let name = format!("rust {n}");
            let client = connect_with(
                config().application_name(&name).options(format!("-c geqo=off -c search_path=rust_path_{n}")),
            )
            .await
            .unwrap();
            client
                .batch_execute(&format!(
                    "set work_mem = '{}MB'; select set_config('app.tenant', 'tenant {n}', false)",
                    n + 10
                ))
                .await
                .unwrap();
            for _ in 0..20 {
                assert_eq!(text(&client, "show application_name").await, name);
                assert_eq!(text(&client, "show geqo").await, "off");
                assert_eq!(text(&client, "show search_path").await, format!("rust_path_{n}"));
                assert_eq!(text(&client, "show work_mem").await, format!("{}MB", n + 10));
                assert_eq!(text(&client, "show app.tenant").await, format!("tenant {n}"));
            }
        })
        .await;
        let client = connect().await;
        assert_eq!(text(&client, "show geqo").await, "on");
        assert_eq!(text(&client, "show work_mem").await, "4MB");
    });

    c.check("temp_table", async || {
        together(2, async |n: usize| {
            let client = connect().await;
            client.batch_execute("create temp table mine (a int)").await.unwrap();
            for i in 0..30 {
                client.execute("insert into mine values ($1)", &[&((n * 100 + i) as i32)]).await.unwrap();
            }
            assert_eq!(number(&client, "select min(a) from mine", &[]).await, (n * 100) as i32);
            client.batch_execute("drop table mine").await.unwrap();
        })
        .await;
    });

    c.check("advisory_locks", async || {
        let (holder, other) = (connect().await, connect().await);
        let ask = async |client: &Client, sql: &str| -> bool { client.query_one(sql, &[]).await.unwrap().get(0) };
        holder.batch_execute("select pg_advisory_lock(77004)").await.unwrap();
        for _ in 0..5 {
            assert!(!ask(&other, "select pg_try_advisory_lock(77004)").await);
            holder.batch_execute("select 1").await.unwrap();
        }
        assert!(ask(&holder, "select pg_advisory_unlock(77004)").await);
        assert!(ask(&other, "select pg_try_advisory_lock(77004)").await);
        assert!(ask(&other, "select pg_advisory_unlock(77004)").await);
    });

    c.check("sql_prepare_and_discard", async || {
        together(3, async |n: usize| {
            let client = connect().await;
            client.batch_execute(&format!("prepare plan (int) as select {} + $1", n * 100)).await.unwrap();
            for i in 0..20 {
                let rows = client.simple_query(&format!("execute plan({i})")).await.unwrap();
                let found = rows.iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                });
                assert_eq!(found, Some((n * 100 + i).to_string()));
            }
            client.batch_execute("discard all").await.unwrap();
            refused(client.batch_execute("execute plan(1)").await, "26000");
        })
        .await;
        let client = connect().await;
        let statement = client.prepare("select 1").await.unwrap();
        client.batch_execute("deallocate all").await.unwrap();
        refused(client.query(&statement, &[]).await, "26000");
        assert_eq!(number(&client, "select 2", &[]).await, 2);
    });

    c.check("sqlstates", async || {
        let client = connect().await;
        client.batch_execute("drop table if exists rust_states; create table rust_states (id int primary key, n int not null check (n > 0))").await.unwrap();
        for (sql, state) in [
            ("selec", "42601"), ("select * from rust_nowhere", "42P01"), ("insert into rust_states values (1, null)", "23502"),
            ("insert into rust_states values (1, 0)", "23514"), ("select 'x'::int", "22P02"), ("select 1/0", "22012"),
            ("do $$ begin raise exception 'mine' using errcode = 'ZZ001'; end $$", "ZZ001"),
        ] {
            refused(client.batch_execute(sql).await, state);
            refused(client.execute(sql, &[]).await, state);
        }
        let error = refused(client.execute("insert into rust_states values (1, 0)", &[]).await, "23514");
        assert_eq!(error.as_db_error().unwrap().constraint(), Some("rust_states_n_check"));
        client.batch_execute("drop table rust_states").await.unwrap();
    });

    c.check("many_connections_tagged_rows", async || {
        together(20, async |n: usize| {
            let client = connect().await;
            for i in 0..60 {
                let tag = format!("worker {n} item {i}");
                let row = client.query_one(&format!("select $1::text where {0} = {0}", i % 13), &[&tag]).await.unwrap();
                assert_eq!(row.get::<_, &str>(0), tag);
            }
        })
        .await;
    });

    c.check("reconnect_loop", async || {
        together(3, async |n: usize| {
            for i in 0..30 {
                let client = connect().await;
                assert_eq!(number(&client, "select $1::int4", &[&((n * 100 + i) as i32)]).await, (n * 100 + i) as i32);
                if i % 3 == 0 {
                    client.batch_execute("begin").await.unwrap();
                }
            }
        })
        .await;
    });

    c.check("wrong_password_and_database", async || {
        refused(connect_with(config().password("certainly wrong")).await, "28P01");
        refused(connect_with(config().dbname("no_such_database")).await, "3D000");
        assert_eq!(number(&connect().await, "select 1", &[]).await, 1);
    });

    c.check("idle_in_transaction", async || {
        let mut idle = connect().await;
        let tx = idle.transaction().await.unwrap();
        let pid: i32 = tx.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
        together(4, move |_| async move {
            let client = connect().await;
            for _ in 0..20 {
                assert_ne!(number(&client, "select pg_backend_pid()", &[]).await, pid);
            }
        })
        .await;
        sleep(500).await;
        assert_eq!(tx.query_one("select pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0), pid);
        tx.commit().await.unwrap();
    });

    c.check("backend_terminated", async || {
        for _ in 0..3 {
            let (mut victim, killer) = (connect().await, connect().await);
            let tx = victim.transaction().await.unwrap();
            let pid: i32 = tx.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
            let done = killer.query_one("select pg_terminate_backend($1, 5000)", &[&pid]).await.unwrap();
            assert!(done.get::<_, bool>(0));
            assert!(tx.query_one("select 1", &[]).await.is_err());
            assert_eq!(number(&killer, "select 1", &[]).await, 1);
        }
    });

    c.run().await;
}
