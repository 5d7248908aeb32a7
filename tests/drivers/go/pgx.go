package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

var execModes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
}

func pgxConnect(ctx context.Context, changes ...func(*pgx.ConnConfig)) *pgx.Conn {
	config := got(pgx.ParseConfig(""))
	for _, change := range changes {
		change(config)
	}
	return got(pgx.ConnectConfig(ctx, config))
}

func pgxExec(ctx context.Context, conn *pgx.Conn, statements ...string) {
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			fail("%.100s: %v%s", sql, err, place())
		}
	}
}

func pgxValue[T any](ctx context.Context, conn interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}, sql string, args ...any) T {
	var value T
	if err := conn.QueryRow(ctx, sql, args...).Scan(&value); err != nil {
		fail("%.100s: %v%s", sql, err, place())
	}
	return value
}

func pgxState(err error, want string) {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		fail("expected SQLSTATE %s, got: %v%s", want, err, place())
	}
	if refused.Code != want {
		fail("expected SQLSTATE %s, got %s (%s)%s", want, refused.Code, refused.Message, place())
	}
}

func pgxRefused(ctx context.Context, conn *pgx.Conn, want, sql string, args ...any) {
	_, err := conn.Exec(ctx, sql, args...)
	pgxState(err, want)
}

func param(name, value string) func(*pgx.ConnConfig) {
	return func(config *pgx.ConnConfig) { config.RuntimeParams[name] = value }
}

func registerPgx() {
	check("simple_query", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		for i := range 50 {
			equal(pgxValue[int](ctx, conn, fmt.Sprintf("select %d", i), pgx.QueryExecModeSimpleProtocol), i)
		}
	})

	check("empty_query", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		for _, mode := range execModes {
			pgxExec2(ctx, conn, "", mode)
			pgxExec2(ctx, conn, "-- nothing", mode)
		}
		equal(pgxValue[int](ctx, conn, "select 1"), 1)
	})

	check("parameters_all_types", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		moment := time.Date(2024, 2, 29, 12, 34, 56, 789012000, time.UTC)
		for _, mode := range execModes {
			for range 3 {
				var (
					b    bool
					i2   int16
					i4   int32
					i8   int64
					f4   float32
					f8   float64
					text string
					raw  []byte
					day  time.Time
					ts   time.Time
					tstz time.Time
					uuid string
				)
				err := conn.QueryRow(ctx, `select $1::bool, $2::int2, $3::int4, $4::int8, $5::float4, $6::float8, $7::text, $8::bytea,
					$9::date, $10::timestamp, $11::timestamptz, $12::uuid::text`, mode,
					true, int16(-32768), int32(2147483647), int64(-9223372036854775808), float32(1.5), 2.25, "snowman ☃ 'quoted' \\",
					[]byte{0, 1, 255, 92}, moment, moment, moment, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
				).Scan(&b, &i2, &i4, &i8, &f4, &f8, &text, &raw, &day, &ts, &tstz, &uuid)
				if err != nil {
					fail("%v: %v", mode, err)
				}
				equal([]any{b, i2, i4, i8, f4, f8, text, raw}, []any{true, int16(-32768), int32(2147483647),
					int64(-9223372036854775808), float32(1.5), 2.25, "snowman ☃ 'quoted' \\", []byte{0, 1, 255, 92}})
				equal(day.Format("2006-01-02"), "2024-02-29")
				equal(ts.UnixMicro(), moment.UnixMicro())
				equal(tstz.UnixMicro(), moment.UnixMicro())
				equal(uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")
			}
		}
	})

	check("nulls", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		for _, mode := range execModes {
			var i *int32
			var s *string
			var t *time.Time
			must(conn.QueryRow(ctx, "select $1::int4, $2::text, $3::timestamptz", mode, nil, nil, nil).Scan(&i, &s, &t))
			truth(i == nil && s == nil && t == nil, "NULL came back as a value in %v", mode)
		}
	})

	check("arrays_json_numeric", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		equal(pgxValue[[]int32](ctx, conn, "select $1::int4[]", []int32{1, 2, 3}), []int32{1, 2, 3})
		equal(pgxValue[[]*string](ctx, conn, "select array['a', null]::text[]")[1], (*string)(nil))
		equal(pgxValue[map[string]any](ctx, conn, "select $1::jsonb", map[string]any{"k": []any{1.5, "é", nil}}),
			map[string]any{"k": []any{1.5, "é", nil}})
		number := pgxValue[pgtype.Numeric](ctx, conn, "select 123456789012345678901234567890.125::numeric")
		whole, _ := new(big.Int).SetString("123456789012345678901234567890125", 10)
		equal(number.Int.String(), whole.String())
		equal(number.Exp, int32(-3))
	})

	check("formats_text_and_binary", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		for range 3 {
			for format, want := range map[int16]string{pgx.TextFormatCode: "7", pgx.BinaryFormatCode: "\x00\x00\x00\x07"} {
				rows := got(conn.Query(ctx, "select 7::int4", pgx.QueryResultFormats{format}))
				truth(rows.Next(), "no row")
				equal(string(rows.RawValues()[0]), want)
				rows.Close()
				must(rows.Err())
			}
		}
	})

	check("big_text_both_ways", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		big := strings.Repeat("0123456789abcdef", 10<<20/16)
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeSimpleProtocol} {
			equal(pgxValue[string](ctx, conn, "select $1::text", mode, big) == big, true)
		}
		equal(pgxValue[int](ctx, conn, "select 1"), 1)
	})

	check("many_rows", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		rows := got(conn.Query(ctx, "select i, 'row ' || i from generate_series(1, 200000) i"))
		var sum, i int64
		var text string
		for rows.Next() {
			must(rows.Scan(&i, &text))
			sum += i
		}
		must(rows.Err())
		equal(sum, int64(200000)*200001/2)
	})

	check("rows_abandoned_early", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		for range 5 {
			rows := got(conn.Query(ctx, "select i from generate_series(1, 50000) i"))
			rows.Next()
			rows.Close()
			must(rows.Err())
			equal(pgxValue[int](ctx, conn, "select 42"), 42)
		}
	})

	check("many_parameters", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		const count = 65535
		var sql strings.Builder
		args := make([]any, count)
		sql.WriteString("select (array[$1::int4")
		args[0] = 0
		for i := 1; i < count; i++ {
			fmt.Fprintf(&sql, ",$%d", i+1)
			args[i] = i
		}
		fmt.Fprintf(&sql, "])[%d]", count)
		equal(pgxValue[int](ctx, conn, sql.String(), args...), count-1)
	})

	check("prepared_repeated", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		got(conn.Prepare(ctx, "add", "select $1::int4 + $2::int4"))
		for i := range 300 {
			equal(pgxValue[int](ctx, conn, "add", i, 1), i+1)
		}
	})

	check("prepared_names_collide", func(ctx context.Context) {
		together(10, func(n int) {
			conn := pgxConnect(ctx)
			defer conn.Close(ctx)
			got(conn.Prepare(ctx, "ps", fmt.Sprintf("select %d::int8 * 1000 + $1::int8", n)))
			got(conn.Prepare(ctx, "other", fmt.Sprintf("select 'client %d ' || $1::text", n)))
			for i := range 100 {
				equal(pgxValue[int](ctx, conn, "ps", i), n*1000+i)
				equal(pgxValue[string](ctx, conn, "other", fmt.Sprint(i)), fmt.Sprintf("client %d %d", n, i))
			}
		})
	})

	check("prepared_deallocated", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		for i := range 20 {
			got(conn.Prepare(ctx, "again", fmt.Sprintf("select %d", i)))
			equal(pgxValue[int](ctx, conn, "again"), i)
			must(conn.Deallocate(ctx, "again"))
		}
		result := conn.PgConn().ExecPrepared(ctx, "again", nil, nil, nil).Read()
		pgxState(result.Err, "26000")
		truth(strings.Contains(result.Err.Error(), `"again"`), "the error names another statement: %v", result.Err)
	})

	check("prepared_twice_refused", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		got(conn.PgConn().Prepare(ctx, "twice", "select 1", nil))
		_, err := conn.PgConn().Prepare(ctx, "twice", "select 2", nil)
		pgxState(err, "42P05")
		truth(strings.Contains(err.Error(), `"twice"`), "the error names another statement: %v", err)
		result := conn.PgConn().ExecPrepared(ctx, "twice", nil, nil, nil).Read()
		must(result.Err)
		equal(string(result.Rows[0][0]), "1")
	})

	check("prepare_syntax_error", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		for range 3 {
			_, err := conn.Prepare(ctx, "bad", "selec 1")
			pgxState(err, "42601")
		}
		got(conn.Prepare(ctx, "bad", "select 5"))
		equal(pgxValue[int](ctx, conn, "bad"), 5)
	})

	check("statement_cache_overflow", func(ctx context.Context) {
		together(4, func(n int) {
			conn := pgxConnect(ctx, func(config *pgx.ConnConfig) { config.StatementCacheCapacity = 8 })
			defer conn.Close(ctx)
			for round := range 3 {
				for i := range 60 {
					equal(pgxValue[int](ctx, conn, fmt.Sprintf("select $1::int4 + %d", i), round+n), i+round+n)
				}
			}
		})
	})

	check("reprepare_after_ddl", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		pgxExec(ctx, conn, "drop table if exists pgx_ddl", "create table pgx_ddl (a int)", "insert into pgx_ddl values (1)")
		other := pgxConnect(ctx)
		defer other.Close(ctx)
		for round := range 4 {
			for range 7 {
				rows := got(conn.Query(ctx, "select * from pgx_ddl"))
				values, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (int, error) {
					all, err := row.Values()
					return len(all), err
				})
				if err != nil {
					// The first use after the change may fail as PostgreSQL lets it fail; pgx then forgets the statement.
					pgxState(err, "0A000")
					continue
				}
				equal(values, []int{round + 1})
			}
			rows := got(conn.Query(ctx, "select * from pgx_ddl"))
			equal(len(rows.FieldDescriptions()) > 0, true)
			rows.Close()
			must(rows.Err())
			pgxExec(ctx, other, fmt.Sprintf("alter table pgx_ddl add column c%d text", round))
		}
		pgxExec(ctx, conn, "drop table pgx_ddl")
	})

	check("batch", func(ctx context.Context) {
		for _, mode := range execModes[:4] {
			conn := pgxConnect(ctx, func(config *pgx.ConnConfig) { config.DefaultQueryExecMode = mode })
			defer conn.Close(ctx)
			for range 3 {
				batch := &pgx.Batch{}
				for i := range 60 {
					batch.Queue(fmt.Sprintf("select $1::int4 + %d", i%12), i)
				}
				results := conn.SendBatch(ctx, batch)
				for i := range 60 {
					var value int
					must(results.QueryRow().Scan(&value))
					equal(value, i+i%12)
				}
				must(results.Close())
			}
		}
	})

	check("batch_error_in_middle", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		pgxExec(ctx, conn, "drop table if exists pgx_batch", "create table pgx_batch (id int primary key)")
		for range 4 {
			batch := &pgx.Batch{}
			batch.Queue("insert into pgx_batch values ($1)", 1)
			batch.Queue("insert into pgx_batch values ($1)", 2)
			batch.Queue("insert into pgx_batch values ($1)", 1)
			batch.Queue("insert into pgx_batch values ($1)", 3)
			results := conn.SendBatch(ctx, batch)
			got(results.Exec())
			got(results.Exec())
			_, err := results.Exec()
			pgxState(err, "23505")
			_, err = results.Exec()
			truth(err != nil, "a statement behind the failed one succeeded")
			results.Close()
			equal(pgxValue[int](ctx, conn, "select count(*) from pgx_batch"), 0)
		}
		pgxExec(ctx, conn, "drop table pgx_batch")
	})

	check("pipeline_several_syncs", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		for range 5 {
			pipeline := conn.PgConn().StartPipeline(ctx)
			pipeline.SendPrepare("p1", "select 10 + $1::int4", nil)
			pipeline.SendQueryPrepared("p1", [][]byte{[]byte("1")}, nil, nil)
			pipeline.SendPipelineSync()
			pipeline.SendPrepare("p2", "select 1 / $1::int4", nil)
			pipeline.SendQueryPrepared("p2", [][]byte{[]byte("0")}, nil, nil)
			pipeline.SendPrepare("p3", "select 3", nil)
			pipeline.SendPipelineSync()
			pipeline.SendQueryPrepared("p3", nil, nil, nil)
			pipeline.SendPipelineSync()
			pipeline.SendQueryPrepared("p1", [][]byte{[]byte("2")}, nil, nil)
			pipeline.SendDeallocate("p1")
			pipeline.SendDeallocate("p2")
			pipeline.SendPipelineSync()
			must(pipeline.Flush())
			var story []string
			for range 40 {
				result, err := pipeline.GetResults()
				var refused *pgconn.PgError
				if errors.As(err, &refused) {
					story = append(story, refused.Code)
					continue
				}
				must(err)
				if result == nil {
					break
				}
				switch answer := result.(type) {
				case *pgconn.ResultReader:
					read := answer.Read()
					if errors.As(read.Err, &refused) {
						story = append(story, refused.Code)
					} else {
						must(read.Err)
						story = append(story, string(read.Rows[0][0]))
					}
				case *pgconn.StatementDescription:
					story = append(story, "prepared")
				case *pgconn.CloseComplete:
					story = append(story, "closed")
				case *pgconn.PipelineSync:
					story = append(story, "sync")
				}
			}
			must(pipeline.Close())
			equal(strings.Join(story, " "), "prepared 11 sync prepared 22012 sync 26000 sync 12 closed closed sync")
		}
	})

	check("pipeline_flush_without_sync", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		pipeline := conn.PgConn().StartPipeline(ctx)
		for i := range 20 {
			pipeline.SendQueryParams("select $1::text", [][]byte{[]byte(fmt.Sprint(i))}, nil, nil, nil)
			pipeline.SendFlushRequest()
			must(pipeline.Flush())
			result := got(pipeline.GetResults()).(*pgconn.ResultReader).Read()
			must(result.Err)
			equal(string(result.Rows[0][0]), fmt.Sprint(i))
		}
		must(pipeline.Sync())
		must(pipeline.Close())
		equal(pgxValue[int](ctx, conn, "select 1"), 1)
	})

	check("multi_statement", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		results := got(conn.PgConn().Exec(ctx, "select 1; select 'two'; create temp table pgx_multi (a int) on commit drop; select 3").ReadAll())
		equal(len(results), 4)
		equal(string(results[1].Rows[0][0]), "two")
		pgxExec(ctx, conn, "drop table if exists pgx_multi_kept")
		_, err := conn.PgConn().Exec(ctx, "create table pgx_multi_kept (a int); select 1/0; select 2").ReadAll()
		pgxState(err, "22012")
		equal(pgxValue[bool](ctx, conn, "select to_regclass('pgx_multi_kept') is null"), true)
	})

	check("transaction_commit_rollback", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		pgxExec(ctx, conn, "drop table if exists pgx_tx", "create table pgx_tx (a int)")
		for i := range 10 {
			tx := got(conn.Begin(ctx))
			got(tx.Exec(ctx, "insert into pgx_tx values ($1)", i))
			if i%2 == 0 {
				must(tx.Commit(ctx))
			} else {
				must(tx.Rollback(ctx))
			}
		}
		equal(pgxValue[int](ctx, conn, "select count(*) from pgx_tx"), 5)
		for range 5 {
			must(got(conn.Begin(ctx)).Commit(ctx))
			must(got(conn.Begin(ctx)).Rollback(ctx))
		}
		pgxExec(ctx, conn, "drop table pgx_tx")
	})

	check("failed_transaction", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		tx := got(conn.Begin(ctx))
		_, err := tx.Exec(ctx, "select 1/0")
		pgxState(err, "22012")
		equal(conn.PgConn().TxStatus(), byte('E'))
		_, err = tx.Exec(ctx, "select 1")
		pgxState(err, "25P02")
		_, err = tx.Exec(ctx, "select never_prepared from nowhere")
		pgxState(err, "25P02")
		equal(errors.Is(tx.Commit(ctx), pgx.ErrTxCommitRollback), true)
		equal(conn.PgConn().TxStatus(), byte('I'))
		equal(pgxValue[int](ctx, conn, "select 1"), 1)
	})

	check("savepoints", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		pgxExec(ctx, conn, "drop table if exists pgx_save", "create table pgx_save (a int primary key)")
		tx := got(conn.Begin(ctx))
		got(tx.Exec(ctx, "insert into pgx_save values (1)"))
		inner := got(tx.Begin(ctx))
		_, err := inner.Exec(ctx, "insert into pgx_save values (1)")
		pgxState(err, "23505")
		must(inner.Rollback(ctx))
		second := got(tx.Begin(ctx))
		got(second.Exec(ctx, "insert into pgx_save values (2)"))
		must(second.Commit(ctx))
		must(tx.Commit(ctx))
		equal(pgxValue[int](ctx, conn, "select sum(a) from pgx_save"), 3)
		pgxExec(ctx, conn, "drop table pgx_save")
	})

	check("isolation_levels", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		for level, name := range map[pgx.TxIsoLevel]string{pgx.Serializable: "serializable", pgx.RepeatableRead: "repeatable read",
			pgx.ReadCommitted: "read committed", "": "read committed"} {
			tx := got(conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: level}))
			equal(pgxValue[string](ctx, tx, "show transaction_isolation"), name)
			must(tx.Commit(ctx))
		}
		pgxExec(ctx, conn, "drop table if exists pgx_iso", "create table pgx_iso (a int)", "insert into pgx_iso values (1)")
		other := pgxConnect(ctx)
		defer other.Close(ctx)
		tx := got(conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}))
		equal(pgxValue[int](ctx, tx, "select a from pgx_iso"), 1)
		pgxExec(ctx, other, "update pgx_iso set a = 2")
		equal(pgxValue[int](ctx, tx, "select a from pgx_iso"), 1)
		_, err := tx.Exec(ctx, "update pgx_iso set a = 3")
		pgxState(err, "40001")
		must(tx.Rollback(ctx))
		pgxExec(ctx, conn, "drop table pgx_iso")
	})

	check("read_only_transaction", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		tx := got(conn.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}))
		_, err := tx.Exec(ctx, "create table pgx_never (a int)")
		pgxState(err, "25006")
		must(tx.Rollback(ctx))
		tx = got(conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly, DeferrableMode: pgx.Deferrable}))
		equal(pgxValue[string](ctx, tx, "show transaction_deferrable"), "on")
		must(tx.Commit(ctx))
		equal(pgxValue[string](ctx, conn, "show transaction_read_only"), "off")
	})

	check("session_read_only_sticks", func(ctx context.Context) {
		conn, other := pgxConnect(ctx), pgxConnect(ctx)
		defer conn.Close(ctx)
		defer other.Close(ctx)
		pgxExec(ctx, conn, "set session characteristics as transaction read only")
		for range 5 {
			pgxRefused(ctx, conn, "25006", "create table pgx_never (a int)")
			pgxExec(ctx, other, "create table pgx_ro (a int)", "drop table pgx_ro")
		}
	})

	check("server_cursor", func(ctx context.Context) {
		together(3, func(n int) {
			conn := pgxConnect(ctx)
			defer conn.Close(ctx)
			tx := got(conn.Begin(ctx))
			got(tx.Exec(ctx, "declare cur scroll cursor for select i from generate_series(1, 1000) i"))
			total := 0
			for {
				rows := got(tx.Query(ctx, "fetch 100 from cur"))
				page := got(pgx.CollectRows(rows, pgx.RowTo[int]))
				if len(page) == 0 {
					break
				}
				total += len(page)
			}
			equal(total, 1000)
			equal(pgxValue[int](ctx, tx, "fetch absolute 7 from cur"), 7)
			must(tx.Commit(ctx))
			pgxRefused(ctx, conn, "34000", "fetch 1 from cur")
		})
	})

	check("cursor_with_hold", func(ctx context.Context) {
		together(2, func(n int) {
			conn := pgxConnect(ctx)
			defer conn.Close(ctx)
			pgxExec(ctx, conn, "begin", fmt.Sprintf("declare held cursor with hold for select i + %d from generate_series(1, 100) i", n*1000), "commit")
			for i := range 10 {
				rows := got(conn.Query(ctx, "fetch 10 from held"))
				equal(got(pgx.CollectRows(rows, pgx.RowTo[int]))[0], n*1000+i*10+1)
			}
			pgxExec(ctx, conn, "close held")
			pgxRefused(ctx, conn, "34000", "fetch 1 from held")
		})
	})

	check("copy_large_both_ways", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		pgxExec(ctx, conn, "drop table if exists pgx_copy", "create table pgx_copy (id int8, text text)")
		const count = 200000
		copied := got(conn.CopyFrom(ctx, pgx.Identifier{"pgx_copy"}, []string{"id", "text"},
			pgx.CopyFromSlice(count, func(i int) ([]any, error) { return []any{int64(i), "some text of a row"}, nil })))
		equal(copied, int64(count))
		equal(pgxValue[int64](ctx, conn, "select sum(id) from pgx_copy"), int64(count)*(count-1)/2)
		var out bytes.Buffer
		tag := got(conn.PgConn().CopyTo(ctx, &out, "copy pgx_copy to stdout"))
		equal(tag.RowsAffected(), int64(count))
		equal(bytes.Count(out.Bytes(), []byte("\n")), count)
		pgxExec(ctx, conn, "drop table pgx_copy")
	})

	check("copy_in_server_fails", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		pgxExec(ctx, conn, "drop table if exists pgx_copyfail", "create table pgx_copyfail (id int primary key)")
		data := strings.Repeat("1\n", 2<<20)
		for range 8 {
			_, err := conn.PgConn().CopyFrom(ctx, strings.NewReader(data), "copy pgx_copyfail from stdin")
			pgxState(err, "23505")
			equal(pgxValue[int](ctx, conn, "select count(*) from pgx_copyfail"), 0)
			_, err = conn.PgConn().CopyFrom(ctx, strings.NewReader(data), "copy pgx_no_such_table from stdin")
			pgxState(err, "42P01")
		}
		pgxExec(ctx, conn, "drop table pgx_copyfail")
	})

	check("copy_in_client_fails", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		pgxExec(ctx, conn, "drop table if exists pgx_copyhalf", "create table pgx_copyhalf (id int)")
		for range 5 {
			half := io.MultiReader(strings.NewReader(strings.Repeat("7\n", 100000)), failingReader{})
			_, err := conn.PgConn().CopyFrom(ctx, half, "copy pgx_copyhalf from stdin")
			pgxState(err, "57014")
			equal(pgxValue[int](ctx, conn, "select count(*) from pgx_copyhalf"), 0)
		}
		pgxExec(ctx, conn, "drop table pgx_copyhalf")
	})

	check("copy_out_fails_half_way", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		for range 3 {
			_, err := conn.PgConn().CopyTo(ctx, io.Discard, "copy (select 1 / (5000 - i) from generate_series(1, 10000) i) to stdout")
			pgxState(err, "22012")
			equal(pgxValue[int](ctx, conn, "select 1"), 1)
		}
	})

	check("listen_notify", func(ctx context.Context) {
		together(3, func(n int) {
			listener, sender := pgxConnect(ctx), pgxConnect(ctx)
			defer listener.Close(ctx)
			defer sender.Close(ctx)
			channel := fmt.Sprintf("pgx_channel_%d", n)
			pgxExec(ctx, listener, "listen "+channel)
			for i := range 10 {
				pgxExec(ctx, sender, fmt.Sprintf("notify %s, 'message %d'", channel, i))
				note := got(listener.WaitForNotification(ctx))
				equal([]string{note.Channel, note.Payload}, []string{channel, fmt.Sprintf("message %d", i)})
			}
			pgxExec(ctx, listener, "unlisten "+channel)
			pgxExec(ctx, sender, "notify "+channel)
			short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
			note, err := listener.WaitForNotification(short)
			truth(err != nil, "a notification after UNLISTEN: %v", note)
		})
	})

	check("listen_while_idle", func(ctx context.Context) {
		listener, sender, stranger := pgxConnect(ctx), pgxConnect(ctx), pgxConnect(ctx)
		defer listener.Close(ctx)
		defer sender.Close(ctx)
		defer stranger.Close(ctx)
		pgxExec(ctx, listener, "listen pgx_idle")
		arrived := make(chan string, 1)
		go func() {
			note, err := listener.WaitForNotification(ctx)
			if err != nil {
				arrived <- err.Error()
			} else {
				arrived <- note.Payload
			}
		}()
		time.Sleep(time.Second)
		tx := got(sender.Begin(ctx))
		got(tx.Exec(ctx, "select pg_notify('pgx_idle', 'wake')"))
		select {
		case text := <-arrived:
			fail("notified before the sender committed: %s", text)
		case <-time.After(300 * time.Millisecond):
		}
		must(tx.Commit(ctx))
		select {
		case text := <-arrived:
			equal(text, "wake")
		case <-time.After(5 * time.Second):
			fail("no notification within 5 s")
		}
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		_, err := stranger.WaitForNotification(short)
		truth(err != nil, "a client that never listened was notified")
	})

	check("cancel_running_query", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		for range 5 {
			started := time.Now()
			pgxCancelled(ctx, conn, "select pg_sleep(20)")
			truth(time.Since(started) < 8*time.Second, "the cancel took %v", time.Since(started))
			equal(pgxValue[int](ctx, conn, "select 1"), 1)
		}
	})

	check("cancel_hits_nobody_else", func(ctx context.Context) {
		stop := time.Now().Add(3 * time.Second)
		together(6, func(n int) {
			conn := pgxConnect(ctx)
			defer conn.Close(ctx)
			for i := 0; time.Now().Before(stop); i++ {
				if n < 2 {
					pgxCancelled(ctx, conn, "select pg_sleep(10)")
				} else {
					equal(pgxValue[string](ctx, conn, "select $1::text || pg_sleep(0.002)::text", fmt.Sprintf("%d.%d", n, i)),
						fmt.Sprintf("%d.%d", n, i))
				}
			}
		})
	})

	check("context_timeout_closes", func(ctx context.Context) {
		for range 3 {
			conn := pgxConnect(ctx)
			short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			_, err := conn.Exec(short, "select pg_sleep(20)")
			cancel()
			truth(err != nil, "no error from a query whose context ended")
			conn.Close(ctx)
		}
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		equal(pgxValue[int](ctx, conn, "select 1"), 1)
	})

	check("large_objects", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		content := bytes.Repeat([]byte("0123456789"), 200000)
		tx := got(conn.Begin(ctx))
		objects := tx.LargeObjects()
		id := got(objects.Create(ctx, 0))
		object := got(objects.Open(ctx, id, pgx.LargeObjectModeWrite|pgx.LargeObjectModeRead))
		got(object.Write(content))
		got(object.Seek(0, io.SeekStart))
		equal(bytes.Equal(got(io.ReadAll(object)), content), true)
		must(tx.Commit(ctx))
		tx = got(conn.Begin(ctx))
		objects = tx.LargeObjects()
		must(objects.Unlink(ctx, id))
		must(tx.Commit(ctx))
	})

	check("search_path_sticks", func(ctx context.Context) {
		setup := pgxConnect(ctx)
		defer setup.Close(ctx)
		for n := range 4 {
			pgxExec(ctx, setup, fmt.Sprintf("drop schema if exists pgx_s%d cascade", n), fmt.Sprintf("create schema pgx_s%d", n),
				fmt.Sprintf("create table pgx_s%d.whose as select %d as owner", n, n))
		}
		together(4, func(n int) {
			conn := pgxConnect(ctx)
			defer conn.Close(ctx)
			pgxExec(ctx, conn, fmt.Sprintf("set search_path to pgx_s%d, public", n))
			for range 60 {
				equal(pgxValue[int](ctx, conn, "select owner from whose"), n)
				equal(pgxValue[int](ctx, conn, "select owner from whose", pgx.QueryExecModeSimpleProtocol), n)
				equal(pgxValue[string](ctx, conn, "show search_path"), fmt.Sprintf("pgx_s%d, public", n))
			}
		})
		equal(pgxValue[string](ctx, setup, "show search_path"), `"$user", public`)
		for n := range 4 {
			pgxExec(ctx, setup, fmt.Sprintf("drop schema pgx_s%d cascade", n))
		}
	})

	check("statement_timeout_sticks", func(ctx context.Context) {
		limited, free := pgxConnect(ctx), pgxConnect(ctx)
		defer limited.Close(ctx)
		defer free.Close(ctx)
		pgxExec(ctx, limited, "set statement_timeout = '150ms'")
		for range 3 {
			pgxRefused(ctx, limited, "57014", "select pg_sleep(5)")
			equal(pgxValue[string](ctx, limited, "show statement_timeout"), "150ms")
			equal(pgxValue[string](ctx, free, "show statement_timeout"), "0")
			pgxExec(ctx, free, "select pg_sleep(0.3)")
		}
		pgxExec(ctx, limited, "reset statement_timeout", "select pg_sleep(0.3)")
	})

	check("set_config_sticks", func(ctx context.Context) {
		together(5, func(n int) {
			conn := pgxConnect(ctx)
			defer conn.Close(ctx)
			want := fmt.Sprintf("tenant %d", n)
			equal(pgxValue[string](ctx, conn, "select set_config('app.tenant', $1, false)", want), want)
			for range 50 {
				equal(pgxValue[string](ctx, conn, "select current_setting('app.tenant')"), want)
			}
		})
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		for range 5 {
			equal(pgxValue[string](ctx, conn, "select coalesce(current_setting('app.tenant', true), '')"), "")
		}
	})

	check("set_local_and_rolled_back", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		pgxExec(ctx, conn, "set work_mem = '5MB'")
		tx := got(conn.Begin(ctx))
		got(tx.Exec(ctx, "set local work_mem = '6MB'"))
		equal(pgxValue[string](ctx, tx, "show work_mem"), "6MB")
		must(tx.Commit(ctx))
		equal(pgxValue[string](ctx, conn, "show work_mem"), "5MB")
		tx = got(conn.Begin(ctx))
		got(tx.Exec(ctx, "set work_mem = '7MB'"))
		must(tx.Rollback(ctx))
		equal(pgxValue[string](ctx, conn, "show work_mem"), "5MB")
		pgxExec(ctx, conn, "reset all")
		equal(pgxValue[string](ctx, conn, "show work_mem"), "4MB")
	})

	check("set_in_do_block", func(ctx context.Context) {
		conn, other := pgxConnect(ctx), pgxConnect(ctx)
		defer conn.Close(ctx)
		defer other.Close(ctx)
		pgxExec(ctx, conn, "do $$ begin set work_mem = '9MB'; end $$")
		for range 5 {
			equal(pgxValue[string](ctx, conn, "show work_mem"), "9MB")
			equal(pgxValue[string](ctx, other, "show work_mem"), "4MB")
		}
	})

	check("application_name", func(ctx context.Context) {
		together(5, func(n int) {
			name := fmt.Sprintf("pgx app %d", n)
			conn := pgxConnect(ctx, param("application_name", name))
			defer conn.Close(ctx)
			for range 20 {
				equal(pgxValue[string](ctx, conn, "show application_name"), name)
			}
			pgxExec(ctx, conn, "set application_name = 'changed'")
			equal(conn.PgConn().ParameterStatus("application_name"), "changed")
			for range 20 {
				equal(pgxValue[string](ctx, conn, "select application_name from pg_stat_activity where pid = pg_backend_pid()"), "changed")
			}
		})
	})

	check("time_zone_and_date_style", func(ctx context.Context) {
		for zone, want := range map[string]string{"Asia/Tokyo": "2024-01-01 09:00:00+09", "America/New_York": "2023-12-31 19:00:00-05", "UTC": "2024-01-01 00:00:00+00"} {
			conn := pgxConnect(ctx, param("timezone", zone))
			equal(conn.PgConn().ParameterStatus("TimeZone"), zone)
			for range 5 {
				equal(pgxValue[string](ctx, conn, "select '2024-01-01T00:00:00Z'::timestamptz::text"), want)
			}
			pgxExec(ctx, conn, "set time zone 'Europe/Paris'", "set datestyle to 'German'")
			equal(conn.PgConn().ParameterStatus("TimeZone"), "Europe/Paris")
			equal(pgxValue[string](ctx, conn, "select '2024-01-01T00:00:00Z'::timestamptz::text"), "01.01.2024 01:00:00 CET")
			conn.Close(ctx)
		}
	})

	check("startup_options", func(ctx context.Context) {
		conn := pgxConnect(ctx, param("options", `-c geqo=off -c statement_timeout=4321ms -c app.who=me\ too`))
		defer conn.Close(ctx)
		other := pgxConnect(ctx)
		defer other.Close(ctx)
		for range 5 {
			equal(pgxValue[string](ctx, conn, "show geqo"), "off")
			equal(pgxValue[string](ctx, conn, "show statement_timeout"), "4321ms")
			equal(pgxValue[string](ctx, conn, "show app.who"), "me too")
			equal(pgxValue[string](ctx, other, "show geqo"), "on")
		}
		pgxExec(ctx, conn, "set geqo = on", "reset geqo")
		equal(pgxValue[string](ctx, conn, "show geqo"), "off")
	})

	check("startup_parameter_refused", func(ctx context.Context) {
		config := got(pgx.ParseConfig(""))
		config.RuntimeParams["no_such_parameter_at_all"] = "1"
		conn, err := pgx.ConnectConfig(ctx, config)
		if err == nil {
			conn.Close(ctx)
		}
		pgxState(err, "42704")
	})

	check("temp_table", func(ctx context.Context) {
		together(2, func(n int) {
			conn := pgxConnect(ctx)
			defer conn.Close(ctx)
			pgxExec(ctx, conn, "create temporary table mine (a int)")
			for i := range 30 {
				pgxExec(ctx, conn, fmt.Sprintf("insert into mine values (%d)", n*100+i))
			}
			equal(pgxValue[int](ctx, conn, "select min(a) from mine"), n*100)
			equal(pgxValue[int](ctx, conn, "select count(*) from mine"), 30)
			pgxExec(ctx, conn, "drop table mine")
		})
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		pgxExec(ctx, conn, "create temp table left_behind (a int)")
		conn.Close(ctx)
		for range 6 {
			next := pgxConnect(ctx)
			pgxRefused(ctx, next, "42P01", "select * from left_behind")
			next.Close(ctx)
		}
	})

	check("advisory_locks", func(ctx context.Context) {
		holder, other := pgxConnect(ctx), pgxConnect(ctx)
		defer holder.Close(ctx)
		defer other.Close(ctx)
		pgxExec(ctx, holder, "select pg_advisory_lock(77001)")
		for range 5 {
			equal(pgxValue[bool](ctx, other, "select pg_try_advisory_lock(77001)"), false)
			pgxExec(ctx, holder, "select 1")
		}
		equal(pgxValue[bool](ctx, holder, "select pg_advisory_unlock(77001)"), true)
		equal(pgxValue[bool](ctx, other, "select pg_try_advisory_lock(77001)"), true)
		other.Close(ctx)
		// PostgreSQL notices a closed connection a moment later.
		deadline := time.Now().Add(5 * time.Second)
		for !pgxValue[bool](ctx, holder, "select pg_try_advisory_lock(77001)") {
			truth(time.Now().Before(deadline), "a lock outlived its client")
			time.Sleep(50 * time.Millisecond)
		}
		pgxExec(ctx, holder, "select pg_advisory_unlock_all()")
	})

	check("sql_prepare_execute", func(ctx context.Context) {
		together(4, func(n int) {
			conn := pgxConnect(ctx, func(config *pgx.ConnConfig) { config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol })
			defer conn.Close(ctx)
			pgxExec(ctx, conn, fmt.Sprintf("prepare plan (int) as select %d + $1", n*100))
			for i := range 20 {
				equal(pgxValue[int](ctx, conn, fmt.Sprintf("execute plan(%d)", i)), n*100+i)
			}
			pgxRefused(ctx, conn, "42P05", "prepare plan as select 1")
			equal(got(conn.Exec(ctx, "deallocate plan")).String(), "DEALLOCATE")
			pgxRefused(ctx, conn, "26000", "execute plan(1)")
			pgxRefused(ctx, conn, "26000", "deallocate plan")
			pgxExec(ctx, conn, "prepare plan as select 'again'")
			equal(pgxValue[string](ctx, conn, "execute plan"), "again")
			equal(got(conn.Exec(ctx, "deallocate all")).String(), "DEALLOCATE ALL")
			pgxRefused(ctx, conn, "26000", "execute plan")
		})
	})

	check("discard_all", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		for range 3 {
			got(conn.PgConn().Prepare(ctx, "gone", "select 1", nil))
			pgxExec2(ctx, conn, "set work_mem = '11MB'", pgx.QueryExecModeSimpleProtocol)
			equal(got(conn.PgConn().Exec(ctx, "discard all").ReadAll())[0].CommandTag.String(), "DISCARD ALL")
			pgxState(conn.PgConn().ExecPrepared(ctx, "gone", nil, nil, nil).Read().Err, "26000")
			equal(pgxValue[string](ctx, conn, "show work_mem", pgx.QueryExecModeSimpleProtocol), "4MB")
		}
		tx := got(conn.Begin(ctx))
		_, err := conn.PgConn().Exec(ctx, "discard all").ReadAll()
		pgxState(err, "25001")
		must(tx.Rollback(ctx))
	})

	check("sequences_in_transaction", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		pgxExec(ctx, conn, "drop sequence if exists pgx_seq", "create sequence pgx_seq")
		for i := range 5 {
			tx := got(conn.Begin(ctx))
			equal(pgxValue[int](ctx, tx, "select nextval('pgx_seq')"), i+1)
			equal(pgxValue[int](ctx, tx, "select currval('pgx_seq')"), i+1)
			equal(pgxValue[int](ctx, tx, "select lastval()"), i+1)
			must(tx.Commit(ctx))
		}
		pgxExec(ctx, conn, "drop sequence pgx_seq")
	})

	check("sqlstates", func(ctx context.Context) {
		conn := pgxConnect(ctx)
		defer conn.Close(ctx)
		pgxExec(ctx, conn, "drop table if exists pgx_states",
			"create table pgx_states (id int primary key, n int not null check (n > 0), self int references pgx_states)")
		for sql, state := range map[string]string{
			"selec": "42601", "select * from pgx_nowhere": "42P01", "select nothing from pgx_states": "42703", "select no_function()": "42883",
			"insert into pgx_states values (1, null)": "23502", "insert into pgx_states values (1, 0)": "23514",
			"insert into pgx_states values (1, 1, 99)": "23503", "select 'x'::int": "22P02", "select 1/0": "22012", "commit prepared 'x'": "42704",
			"do $$ begin raise exception 'mine' using errcode = 'ZZ001'; end $$": "ZZ001", "set no_such_thing = 1": "42704",
			"select 2147483647 + 1": "22003", "rollback to savepoint x": "25P01", "fetch 1 from no_cursor": "34000",
		} {
			for _, mode := range execModes {
				pgxRefused(ctx, conn, state, sql, mode)
			}
		}
		_, err := conn.Exec(ctx, "insert into pgx_states values (1, 0)")
		var refused *pgconn.PgError
		truth(errors.As(err, &refused), "not a PgError: %v", err)
		equal([]string{refused.TableName, refused.ConstraintName, refused.SchemaName, refused.Severity},
			[]string{"pgx_states", "pgx_states_n_check", "public", "ERROR"})
		truth(strings.HasPrefix(refused.Detail, "Failing row"), "detail: %q", refused.Detail)
		_, err = conn.Exec(ctx, "select 1 from pgx_states where nothing = 1", pgx.QueryExecModeSimpleProtocol)
		truth(errors.As(err, &refused), "not a PgError: %v", err)
		equal(refused.Position, int32(32))
		pgxExec(ctx, conn, "drop table pgx_states")
	})

	check("notices", func(ctx context.Context) {
		var heard []string
		conn := pgxConnect(ctx, func(config *pgx.ConnConfig) {
			config.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
				heard = append(heard, notice.Severity+" "+notice.Message)
			}
		})
		defer conn.Close(ctx)
		pgxExec(ctx, conn, "do $$ begin raise notice 'one'; raise warning 'two'; end $$")
		pgxExec(ctx, conn, "commit")
		equal(heard, []string{"NOTICE one", "WARNING two", "WARNING there is no transaction in progress"})
		heard = nil
		pgxExec(ctx, conn, "begin", "begin", "rollback")
		equal(heard, []string{"WARNING there is already a transaction in progress"})
	})

	check("pool_tagged_rows", func(ctx context.Context) {
		config := got(pgxpool.ParseConfig(""))
		config.MaxConns = 20
		pool := got(pgxpool.NewWithConfig(ctx, config))
		defer pool.Close()
		together(20, func(n int) {
			for i := range 100 {
				tag := fmt.Sprintf("worker %d item %d", n, i)
				rows := got(pool.Query(ctx, fmt.Sprintf("select $1::text, j from generate_series(1, $2::int4) j where %d = %d", i%15, i%15), tag, i%7+1))
				seen := 0
				for rows.Next() {
					var back string
					var j int
					must(rows.Scan(&back, &j))
					equal(back, tag)
					seen++
				}
				must(rows.Err())
				equal(seen, i%7+1)
			}
		})
	})

	check("pool_transactions", func(ctx context.Context) {
		config := got(pgxpool.ParseConfig(""))
		config.MaxConns = 20
		pool := got(pgxpool.NewWithConfig(ctx, config))
		defer pool.Close()
		got(pool.Exec(ctx, "drop table if exists pgx_bank"))
		got(pool.Exec(ctx, "create table pgx_bank as select i as id, 100 as amount from generate_series(0, 19) i"))
		together(20, func(n int) {
			for i := range 15 {
				err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
					if i%5 == 4 {
						_, err := tx.Exec(ctx, "select 1/0")
						return err
					}
					low, high := n, (n+i+1)%20
					if low > high {
						low, high = high, low
					}
					if _, err := tx.Exec(ctx, "update pgx_bank set amount = amount - 1 where id = $1", low); err != nil {
						return err
					}
					_, err := tx.Exec(ctx, "update pgx_bank set amount = amount + 1 where id = $1", high)
					return err
				})
				if i%5 == 4 {
					pgxState(err, "22012")
				} else {
					must(err)
				}
			}
		})
		equal(pgxValue[int](ctx, pool, "select sum(amount) from pgx_bank"), 2000)
		got(pool.Exec(ctx, "drop table pgx_bank"))
	})

	check("reconnect_loop", func(ctx context.Context) {
		together(4, func(n int) {
			for i := range 30 {
				conn := pgxConnect(ctx)
				equal(pgxValue[int](ctx, conn, "select $1::int4", n*100+i), n*100+i)
				if i%3 == 0 {
					conn.PgConn().Conn().Close() // without Terminate
				} else {
					must(conn.Close(ctx))
				}
			}
		})
	})

	check("lost_in_transaction", func(ctx context.Context) {
		setup := pgxConnect(ctx)
		defer setup.Close(ctx)
		pgxExec(ctx, setup, "drop table if exists pgx_lost", "create table pgx_lost (a int)")
		for range 6 {
			conn := pgxConnect(ctx)
			pgxExec(ctx, conn, "begin", "lock table pgx_lost", "insert into pgx_lost values (1)")
			conn.PgConn().Conn().Close()
		}
		pgxExec(ctx, setup, "set lock_timeout = '5s'", "drop table pgx_lost")
	})

	check("wrong_password_and_database", func(ctx context.Context) {
		config := got(pgx.ParseConfig(""))
		config.Password = "certainly wrong"
		_, err := pgx.ConnectConfig(ctx, config)
		pgxState(err, "28P01")
		config = got(pgx.ParseConfig(""))
		config.Database = "no_such_database"
		_, err = pgx.ConnectConfig(ctx, config)
		pgxState(err, "3D000")
		conn := pgxConnect(ctx)
		equal(pgxValue[int](ctx, conn, "select 1"), 1)
		must(conn.Close(ctx))
	})

	check("protocol_3_2", func(ctx context.Context) {
		config := got(pgx.ParseConfig("max_protocol_version=latest"))
		conn := got(pgx.ConnectConfig(ctx, config))
		defer conn.Close(ctx)
		equal(pgxValue[int](ctx, conn, "select 1"), 1)
		pgxCancelled(ctx, conn, "select pg_sleep(20)")
	})

	check("idle_in_transaction", func(ctx context.Context) {
		idle := pgxConnect(ctx)
		defer idle.Close(ctx)
		tx := got(idle.Begin(ctx))
		equal(pgxValue[int](ctx, tx, "select 1"), 1)
		pid := pgxValue[int](ctx, tx, "select pg_backend_pid()")
		together(4, func(n int) {
			conn := pgxConnect(ctx)
			defer conn.Close(ctx)
			for range 20 {
				truth(pgxValue[int](ctx, conn, "select pg_backend_pid()") != pid, "another client on the backend of an open transaction")
			}
		})
		time.Sleep(500 * time.Millisecond)
		equal(pgxValue[int](ctx, tx, "select pg_backend_pid()"), pid)
		must(tx.Commit(ctx))
	})

	check("backend_terminated", func(ctx context.Context) {
		for range 3 {
			victim, killer := pgxConnect(ctx), pgxConnect(ctx)
			tx := got(victim.Begin(ctx))
			pid := pgxValue[int](ctx, tx, "select pg_backend_pid()")
			equal(pgxValue[bool](ctx, killer, "select pg_terminate_backend($1, 5000)", pid), true)
			_, err := tx.Exec(ctx, "select 1")
			truth(err != nil, "a statement succeeded in a transaction whose backend was terminated")
			var refused *pgconn.PgError
			if errors.As(err, &refused) {
				equal(refused.Code, "57P01")
			}
			victim.Close(ctx)
			equal(pgxValue[int](ctx, killer, "select 1"), 1)
			killer.Close(ctx)
			conn := pgxConnect(ctx)
			equal(pgxValue[int](ctx, conn, "select 1"), 1)
			conn.Close(ctx)
		}
	})

	check("set_role", func(ctx context.Context) {
		conn, other := pgxConnect(ctx), pgxConnect(ctx)
		defer conn.Close(ctx)
		defer other.Close(ctx)
		me := pgxValue[string](ctx, conn, "select session_user::text")
		pgxExec(ctx, conn, "set role driver_guest")
		for range 5 {
			equal(pgxValue[string](ctx, conn, "select current_user::text"), "driver_guest")
			equal(pgxValue[string](ctx, other, "select current_user::text"), me)
		}
		pgxExec(ctx, conn, "reset role")
		equal(pgxValue[string](ctx, conn, "select current_user::text"), me)
	})
}

// pgxExec2 runs one statement in a given mode.
func pgxExec2(ctx context.Context, conn *pgx.Conn, sql string, mode pgx.QueryExecMode) {
	if _, err := conn.Exec(ctx, sql, mode); err != nil {
		fail("%q in %v: %v%s", sql, mode, err, place())
	}
}

// pgxCancelled runs a statement that takes long and cancels it, again and again since a cancel that comes before the
// statement does is lost. A cancel may also come late, which nobody can tell; so it leaves the last one a moment.
func pgxCancelled(ctx context.Context, conn *pgx.Conn, sql string) {
	over := make(chan struct{})
	cancelling := make(chan struct{})
	go func() {
		defer close(cancelling)
		for pause := 60 * time.Millisecond; ; pause = time.Second {
			select {
			case <-over:
				return
			case <-time.After(pause):
				conn.PgConn().CancelRequest(ctx)
			}
		}
	}()
	_, err := conn.Exec(ctx, sql)
	close(over)
	<-cancelling
	time.Sleep(50 * time.Millisecond)
	pgxState(err, "57014")
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("the source of the data broke") }
