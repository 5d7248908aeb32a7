//! Checks of sqlx with its own pool. Connection data come from PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE.

use std::time::{Duration, Instant};

use drivers_rust::{Checks, sleep, together, variable};
use futures_util::TryStreamExt;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Error, Executor, PgConnection, Row, query, query_scalar};

fn options() -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host(&variable("PGHOST"))
        .port(variable("PGPORT").parse().unwrap())
        .username(&variable("PGUSER"))
        .password(&variable("PGPASSWORD"))
        .database(&variable("PGDATABASE"))
        .disable_statement_logging()
}

async fn connect() -> PgConnection {
    options().connect().await.unwrap()
}

async fn pool(size: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(Duration::from_secs(15))
        .connect_with(options())
        .await
        .unwrap()
}

async fn run(conn: &mut PgConnection, statements: &[&str]) {
    for sql in statements {
        conn.execute(AssertSqlSafe(sql.to_string())).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

async fn text(conn: &mut PgConnection, sql: &str) -> String {
    query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(conn).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn refused<T>(outcome: Result<T, Error>, state: &str) {
    match outcome {
        Ok(_) => panic!("expected SQLSTATE {state}, but nothing failed"),
        Err(Error::Database(error)) => assert_eq!(error.code().as_deref(), Some(state), "{error}"),
        Err(other) => panic!("expected SQLSTATE {state}, got {other}"),
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut c = Checks::default();

    c.check("queries_and_types", async || {
        let mut conn = connect().await;
        let moment: chrono::DateTime<chrono::Utc> = "2024-02-29T12:34:56.789012Z".parse().unwrap();
        for i in 0..30i32 {
            let row: PgRow = query("select $1::int4, $2::int8, $3::text, $4::bytea, $5::timestamptz, $6::jsonb, $7::int4[], $8::text, $9::bool")
                .bind(i)
                .bind(i64::MIN)
                .bind("snowman ☃")
                .bind(vec![0u8, 255])
                .bind(moment)
                .bind(serde_json::json!({"k": [1.5, null]}))
                .bind(vec![1, 2, i])
                .bind(None::<String>)
                .bind(true)
                .fetch_one(&mut conn)
                .await
                .unwrap();
            assert_eq!((row.get::<i32, _>(0), row.get::<i64, _>(1), row.get::<String, _>(2)), (i, i64::MIN, "snowman ☃".to_owned()));
            assert_eq!((row.get::<Vec<u8>, _>(3), row.get::<chrono::DateTime<chrono::Utc>, _>(4)), (vec![0, 255], moment));
            assert_eq!((row.get::<Vec<i32>, _>(6), row.get::<Option<String>, _>(7), row.get::<bool, _>(8)), (vec![1, 2, i], None, true));
        }
    });

    c.check("statement_cache_overflow", async || {
        together(5, async |n: usize| {
            let mut conn = options().statement_cache_capacity(7).connect().await.unwrap();
            for round in 0..3i32 {
                for i in 0..40i32 {
                    let sum: i32 = query_scalar(AssertSqlSafe(format!("select $1::int4 + {i}")))
                        .bind(n as i32 + round)
                        .fetch_one(&mut conn)
                        .await
                        .unwrap();
                    assert_eq!(sum, n as i32 + round + i);
                }
            }
        })
        .await;
    });

    c.check("names_collide", async || {
        // Every connection names its statements sqlx_s_1, sqlx_s_2, ...
        together(10, async |n: usize| {
            let mut conn = connect().await;
            let sql = format!("select 'client {n} ' || $1::int4");
            for i in 0..80i32 {
                let tag: String = query_scalar(AssertSqlSafe(sql.clone())).bind(i).fetch_one(&mut conn).await.unwrap();
                assert_eq!(tag, format!("client {n} {i}"));
            }
        })
        .await;
    });

    c.check("not_persistent", async || {
        together(6, async |n: usize| {
            let mut conn = connect().await;
            for i in 0..50i32 {
                let tag: String = query_scalar("select $1::text || $2::int4")
                    .persistent(false)
                    .bind(format!("{n} "))
                    .bind(i)
                    .fetch_one(&mut conn)
                    .await
                    .unwrap();
                assert_eq!(tag, format!("{n} {i}"));
            }
        })
        .await;
    });

    c.check("errors_in_between", async || {
        let mut conn = connect().await;
        for i in 0..10i32 {
            refused(query("select 1 / $1::int4").bind(0).execute(&mut conn).await, "22012");
            refused(query("selec").execute(&mut conn).await, "42601");
            refused(query("select * from sqlx_nowhere").execute(&mut conn).await, "42P01");
            let back: i32 = query_scalar("select $1::int4").bind(i).fetch_one(&mut conn).await.unwrap();
            assert_eq!(back, i);
        }
    });

    c.check("transactions_and_savepoints", async || {
        let mut conn = connect().await;
        run(&mut conn, &["drop table if exists sqlx_tx", "create table sqlx_tx (a int primary key)"]).await;
        for i in 0..9i32 {
            let mut tx = conn.begin().await.unwrap();
            query("insert into sqlx_tx values ($1)").bind(i).execute(&mut *tx).await.unwrap();
            let mut inner = tx.begin().await.unwrap();
            refused(query("insert into sqlx_tx values ($1)").bind(i).execute(&mut *inner).await, "23505");
            inner.rollback().await.unwrap();
            match i % 3 {
                0 => tx.commit().await.unwrap(),
                1 => tx.rollback().await.unwrap(),
                _ => drop(tx),
            }
        }
        assert_eq!(text(&mut conn, "select count(*)::text from sqlx_tx").await, "3");
        run(&mut conn, &["drop table sqlx_tx"]).await;
    });

    c.check("stream_abandoned", async || {
        let mut conn = connect().await;
        for _ in 0..5 {
            {
                let mut rows = query("select generate_series(1, 50000) as i").fetch(&mut conn);
                rows.try_next().await.unwrap();
            }
            assert_eq!(text(&mut conn, "select 'after'").await, "after");
        }
    });

    c.check("big_text_both_ways", async || {
        let mut conn = connect().await;
        let big = "0123456789abcdef".repeat((10 << 20) / 16);
        let back: String = query_scalar("select $1::text").bind(&big).fetch_one(&mut conn).await.unwrap();
        assert!(back == big, "10 MB changed on the way");
    });

    c.check("copy", async || {
        let mut conn = connect().await;
        run(&mut conn, &["drop table if exists sqlx_copy", "create table sqlx_copy (id int primary key)"]).await;
        let mut copy = conn.copy_in_raw("copy sqlx_copy from stdin").await.unwrap();
        let data: String = (0..50000).map(|i| format!("{i}\n")).collect();
        copy.send(data.as_bytes()).await.unwrap();
        assert_eq!(copy.finish().await.unwrap(), 50000);
        for _ in 0..4 {
            let outcome = async {
                let mut copy = conn.copy_in_raw("copy sqlx_copy from stdin").await?;
                for _ in 0..50 {
                    copy.send("7\n".repeat(20000).as_bytes()).await?;
                }
                copy.finish().await
            };
            refused(outcome.await, "23505");
            let copy = conn.copy_in_raw("copy sqlx_copy from stdin").await.unwrap();
            copy.abort("enough").await.unwrap();
            let out: Vec<_> = conn.copy_out_raw("copy sqlx_copy to stdout").await.unwrap().try_collect().await.unwrap();
            assert_eq!(out.iter().map(|chunk| chunk.len()).sum::<usize>(), data.len());
        }
        run(&mut conn, &["drop table sqlx_copy"]).await;
    });

    c.check("listener", async || {
        let pool = pool(3).await;
        let mut listener = PgListener::connect_with(&pool).await.unwrap();
        listener.listen_all(["sqlx_a", "sqlx_b"]).await.unwrap();
        sleep(700).await;
        for i in 0..5 {
            for channel in ["sqlx_a", "sqlx_b"] {
                query("select pg_notify($1, $2)").bind(channel).bind(format!("{i}")).execute(&pool).await.unwrap();
                let note = tokio::time::timeout(Duration::from_secs(5), listener.recv())
                    .await
                    .expect("nothing within 5 s")
                    .unwrap();
                assert_eq!((note.channel(), note.payload()), (channel, i.to_string().as_str()));
            }
        }
        listener.unlisten("sqlx_a").await.unwrap();
        query("notify sqlx_a").execute(&pool).await.unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(300), listener.recv()).await.is_err(),
            "a notification after UNLISTEN"
        );
    });

    c.check("settings_stick", async || {
        together(4, async |n: usize| {
            let mut conn = options()
                .application_name(&format!("sqlx {n}"))
                .options([("geqo", "off"), ("search_path", &format!("sqlx_path_{n}"))])
                .connect()
                .await
                .unwrap();
            run(&mut conn, &[&format!("set work_mem = '{}MB'", n + 10)]).await;
            for _ in 0..20 {
                assert_eq!(text(&mut conn, "show application_name").await, format!("sqlx {n}"));
                assert_eq!(text(&mut conn, "show search_path").await, format!("sqlx_path_{n}"));
                assert_eq!(text(&mut conn, "show geqo").await, "off");
                assert_eq!(text(&mut conn, "show work_mem").await, format!("{}MB", n + 10));
            }
        })
        .await;
    });

    c.check("after_ddl", async || {
        let (mut conn, mut other) = (connect().await, connect().await);
        run(
            &mut conn,
            &["drop table if exists sqlx_ddl", "create table sqlx_ddl (a int)", "insert into sqlx_ddl values (1)"],
        )
        .await;
        let ask = async |conn: &mut PgConnection| query("select * from sqlx_ddl").fetch_one(conn).await;
        ask(&mut conn).await.unwrap();
        run(&mut other, &["alter table sqlx_ddl add column b int"]).await;
        // sqlx keeps its statement, so the direct answer is this error, each time.
        for _ in 0..3 {
            if let Err(Error::Database(error)) = ask(&mut conn).await {
                assert_eq!(error.code().as_deref(), Some("0A000"), "{error}");
            }
        }
        conn.clear_cached_statements().await.unwrap();
        assert_eq!(ask(&mut conn).await.unwrap().len(), 2);
        run(&mut conn, &["drop table sqlx_ddl"]).await;
    });

    c.check("multi_statement", async || {
        let mut conn = connect().await;
        let rows: Vec<PgRow> =
            sqlx::raw_sql("select 1 as a; select 2 as a; select 3 as a").fetch_all(&mut conn).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.get::<i32, _>(0)).collect::<Vec<_>>(), [1, 2, 3]);
        refused(sqlx::raw_sql("select 1; select 1/0; select 2").execute(&mut conn).await, "22012");
        assert_eq!(text(&mut conn, "select 'after'").await, "after");
    });

    c.check("advisory_lock_and_temp_table", async || {
        let (mut holder, mut other) = (connect().await, connect().await);
        run(&mut holder, &["select pg_advisory_lock(77005)", "create temp table mine (a int)"]).await;
        for _ in 0..10 {
            run(&mut holder, &["insert into mine values (1)"]).await;
            assert_eq!(text(&mut other, "select pg_try_advisory_lock(77005)::text").await, "false");
        }
        assert_eq!(text(&mut holder, "select count(*)::text from mine").await, "10");
        run(&mut holder, &["drop table mine", "select pg_advisory_unlock(77005)"]).await;
    });

    c.check("pool_tagged_rows", async || {
        let pool = pool(20).await;
        let shared = pool.clone();
        together(20, move |n| {
            let pool = shared.clone();
            async move {
                for i in 0..80 {
                    let tag = format!("worker {n} item {i}");
                    let back: String = query_scalar(AssertSqlSafe(format!("select $1::text where {0} = {0}", i % 13)))
                        .bind(&tag)
                        .fetch_one(&pool)
                        .await
                        .unwrap();
                    assert_eq!(back, tag);
                }
            }
        })
        .await;
        pool.close().await;
    });

    c.check("pool_transactions", async || {
        let pool = pool(20).await;
        query("drop table if exists sqlx_bank").execute(&pool).await.unwrap();
        query("create table sqlx_bank as select i as id, 100 as amount from generate_series(0, 19) i")
            .execute(&pool)
            .await
            .unwrap();
        let shared = pool.clone();
        together(20, move |n| {
            let pool = shared.clone();
            async move {
                for i in 0..12usize {
                    let mut tx = pool.begin().await.unwrap();
                    let (low, high) = (n.min((n + i + 1) % 20), n.max((n + i + 1) % 20));
                    query("update sqlx_bank set amount = amount - 1 where id = $1")
                        .bind(low as i32)
                        .execute(&mut *tx)
                        .await
                        .unwrap();
                    if i % 4 == 3 {
                        drop(tx);
                    } else {
                        query("update sqlx_bank set amount = amount + 1 where id = $1")
                            .bind(high as i32)
                            .execute(&mut *tx)
                            .await
                            .unwrap();
                        tx.commit().await.unwrap();
                    }
                }
            }
        })
        .await;
        let sum: i64 = query_scalar("select sum(amount) from sqlx_bank").fetch_one(&pool).await.unwrap();
        assert_eq!(sum, 2000);
        query("drop table sqlx_bank").execute(&pool).await.unwrap();
        pool.close().await;
    });

    c.check("query_given_up", async || {
        // sqlx closes a pool's connection whose future was dropped in the middle of an answer, or drains it.
        let pool = pool(2).await;
        for i in 0..10i32 {
            let started = Instant::now();
            let _ = tokio::time::timeout(Duration::from_millis(10), query("select pg_sleep(0.1)").execute(&pool)).await;
            let back: i32 = query_scalar("select $1::int4").bind(i).fetch_one(&pool).await.unwrap();
            assert_eq!(back, i);
            assert!(started.elapsed() < Duration::from_secs(5));
        }
        pool.close().await;
    });

    c.check("reconnect_loop", async || {
        together(3, async |n: usize| {
            for i in 0..25 {
                let mut conn = connect().await;
                let back: i32 =
                    query_scalar("select $1::int4").bind((n * 100 + i) as i32).fetch_one(&mut conn).await.unwrap();
                assert_eq!(back, (n * 100 + i) as i32);
                if i % 2 == 0 {
                    conn.close().await.unwrap();
                }
            }
        })
        .await;
    });

    c.check("wrong_password_and_database", async || {
        refused(options().password("certainly wrong").connect().await, "28P01");
        refused(options().database("no_such_database").connect().await, "3D000");
        connect().await.ping().await.unwrap();
    });

    c.run().await;
}
