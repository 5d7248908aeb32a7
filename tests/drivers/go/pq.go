package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lib/pq"
)

func pqOpen(connections int, extra string) *sql.DB {
	db := got(sql.Open("postgres", "sslmode=disable "+extra))
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db
}

type pqQuerier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func pqValue[T any](ctx context.Context, db pqQuerier, query string, args ...any) T {
	var value T
	if err := db.QueryRowContext(ctx, query, args...).Scan(&value); err != nil {
		fail("%.100s: %v%s", query, err, place())
	}
	return value
}

type pqExecer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func pqExec(ctx context.Context, db pqExecer, statements ...string) {
	for _, statement := range statements {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			fail("%.100s: %v%s", statement, err, place())
		}
	}
}

func pqState(err error, want string) {
	var refused *pq.Error
	if !errors.As(err, &refused) {
		fail("expected SQLSTATE %s, got: %v%s", want, err, place())
	}
	equal(string(refused.Code), want)
}

func registerPq() {
	check("simple_and_parameters", func(ctx context.Context) {
		db := pqOpen(1, "")
		defer db.Close()
		for i := range 50 {
			equal(pqValue[int](ctx, db, fmt.Sprintf("select %d", i)), i)
			equal(pqValue[string](ctx, db, "select $1::text", fmt.Sprint(i)), fmt.Sprint(i))
		}
		var nothing *string
		must(db.QueryRowContext(ctx, "select $1::text", nil).Scan(&nothing))
		truth(nothing == nil, "NULL came back as %v", nothing)
		moment := time.Date(2024, 2, 29, 12, 34, 56, 789012000, time.UTC)
		equal(pqValue[time.Time](ctx, db, "select $1::timestamptz", moment).UnixMicro(), moment.UnixMicro())
		var numbers pq.Int64Array
		must(db.QueryRowContext(ctx, "select $1::int8[]", pq.Array([]int64{1, 2, 3})).Scan(&numbers))
		equal([]int64(numbers), []int64{1, 2, 3})
	})

	check("binary_parameters", func(ctx context.Context) {
		db := pqOpen(3, "binary_parameters=yes")
		defer db.Close()
		together(6, func(n int) {
			for i := range 30 {
				equal(pqValue[int](ctx, db, "select $1::int4 + $2::int4", n, i), n+i)
				equal(string(pqValue[[]byte](ctx, db, "select $1::bytea", []byte{0, 1, 255})), "\x00\x01\xff")
			}
		})
	})

	check("big_text_both_ways", func(ctx context.Context) {
		db := pqOpen(1, "")
		defer db.Close()
		big := strings.Repeat("0123456789abcdef", 10<<20/16)
		truth(pqValue[string](ctx, db, "select $1::text", big) == big, "10 MB changed on the way")
	})

	check("prepared_across_connections", func(ctx context.Context) {
		db := pqOpen(8, "")
		defer db.Close()
		statement := got(db.PrepareContext(ctx, "select $1::int4 * 2"))
		defer statement.Close()
		together(8, func(n int) {
			mine := got(db.PrepareContext(ctx, fmt.Sprintf("select %d + $1::int4", n*1000)))
			defer mine.Close()
			for i := range 50 {
				var double, sum int
				must(statement.QueryRowContext(ctx, i).Scan(&double))
				must(mine.QueryRowContext(ctx, i).Scan(&sum))
				equal([]int{double, sum}, []int{2 * i, n*1000 + i})
			}
		})
	})

	check("transaction_with_statement", func(ctx context.Context) {
		db := pqOpen(2, "")
		defer db.Close()
		pqExec(ctx, db, "drop table if exists pq_tx", "create table pq_tx (a int primary key)")
		tx := got(db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable}))
		insert := got(tx.PrepareContext(ctx, "insert into pq_tx values ($1)"))
		for i := range 10 {
			got(insert.ExecContext(ctx, i))
		}
		equal(pqValue[string](ctx, tx, "show transaction_isolation"), "serializable")
		must(tx.Commit())
		tx = got(db.BeginTx(ctx, nil))
		_, err := tx.ExecContext(ctx, "insert into pq_tx values ($1)", 3)
		pqState(err, "23505")
		_, err = tx.ExecContext(ctx, "select 1")
		pqState(err, "25P02")
		must(tx.Rollback())
		equal(pqValue[int](ctx, db, "select count(*) from pq_tx"), 10)
		tx = got(db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}))
		_, err = tx.ExecContext(ctx, "delete from pq_tx")
		pqState(err, "25006")
		must(tx.Rollback())
		pqExec(ctx, db, "drop table pq_tx")
	})

	check("failed_transaction_commit", func(ctx context.Context) {
		db := pqOpen(1, "")
		defer db.Close()
		for range 3 {
			tx := got(db.BeginTx(ctx, nil))
			_, err := tx.ExecContext(ctx, "select 1/0")
			pqState(err, "22012")
			truth(tx.Commit() != nil, "the commit of a failed transaction succeeded")
			equal(pqValue[int](ctx, db, "select 1"), 1)
		}
	})

	check("copy_in", func(ctx context.Context) {
		db := pqOpen(1, "")
		defer db.Close()
		pqExec(ctx, db, "drop table if exists pq_copy", "create table pq_copy (id int primary key, text text)")
		tx := got(db.BeginTx(ctx, nil))
		statement := got(tx.PrepareContext(ctx, pq.CopyIn("pq_copy", "id", "text")))
		for i := range 50000 {
			got(statement.ExecContext(ctx, i, "some text of a row"))
		}
		got(statement.ExecContext(ctx))
		must(statement.Close())
		must(tx.Commit())
		equal(pqValue[int](ctx, db, "select count(*) from pq_copy"), 50000)
		for range 3 {
			tx = got(db.BeginTx(ctx, nil))
			statement = got(tx.PrepareContext(ctx, pq.CopyIn("pq_copy", "id", "text")))
			var err error
			for i := 0; i < 200000 && err == nil; i++ {
				_, err = statement.ExecContext(ctx, 7, "a duplicate")
			}
			if err == nil {
				_, err = statement.ExecContext(ctx)
			}
			pqState(err, "23505")
			statement.Close()
			must(tx.Rollback())
			equal(pqValue[int](ctx, db, "select count(*) from pq_copy"), 50000)
		}
		pqExec(ctx, db, "drop table pq_copy")
	})

	check("listener", func(ctx context.Context) {
		listener := pq.NewListener("sslmode=disable", 10*time.Millisecond, time.Second, nil)
		defer listener.Close()
		must(listener.Listen("pq_one"))
		must(listener.Listen("pq_two"))
		db := pqOpen(1, "")
		defer db.Close()
		time.Sleep(500 * time.Millisecond)
		pqExec(ctx, db, "notify pq_one, 'a'", "notify pq_two, 'b'", "notify pq_three, 'c'")
		for _, want := range []string{"pq_one a", "pq_two b"} {
			select {
			case note := <-listener.Notify:
				equal(note.Channel+" "+note.Extra, want)
			case <-time.After(5 * time.Second):
				fail("no notification within 5 s")
			}
		}
		must(listener.Ping())
		must(listener.Unlisten("pq_one"))
		pqExec(ctx, db, "notify pq_one, 'd'", "notify pq_two, 'e'")
		equal((<-listener.Notify).Extra, "e")
	})

	check("cancel_by_context", func(ctx context.Context) {
		db := pqOpen(2, "")
		defer db.Close()
		for range 3 {
			short, cancel := context.WithTimeout(ctx, 400*time.Millisecond)
			started := time.Now()
			_, err := db.ExecContext(short, "select pg_sleep(20)")
			cancel()
			truth(err != nil, "no error from a query whose context ended")
			truth(time.Since(started) < 8*time.Second, "the cancel took %v", time.Since(started))
			equal(pqValue[int](ctx, db, "select 1"), 1)
		}
	})

	check("settings_stick", func(ctx context.Context) {
		together(4, func(n int) {
			db := pqOpen(1, fmt.Sprintf("application_name=pq%d search_path=pq_path_%d work_mem=%dMB", n, n, n+10))
			defer db.Close()
			for range 30 {
				equal(pqValue[string](ctx, db, "show application_name"), fmt.Sprintf("pq%d", n))
				equal(pqValue[string](ctx, db, "show search_path"), fmt.Sprintf("pq_path_%d", n))
				equal(pqValue[string](ctx, db, "show work_mem"), fmt.Sprintf("%dMB", n+10))
			}
			pqExec(ctx, db, "set work_mem = '64MB'")
			for range 10 {
				equal(pqValue[string](ctx, db, "show work_mem"), "64MB")
			}
			pqExec(ctx, db, "reset work_mem")
			equal(pqValue[string](ctx, db, "show work_mem"), fmt.Sprintf("%dMB", n+10))
		})
	})

	check("multi_statement_results", func(ctx context.Context) {
		db := pqOpen(1, "")
		defer db.Close()
		rows := got(db.QueryContext(ctx, "select 1; select 2; select 3"))
		defer rows.Close()
		var values []int
		for more := true; more; more = rows.NextResultSet() {
			for rows.Next() {
				var value int
				must(rows.Scan(&value))
				values = append(values, value)
			}
		}
		must(rows.Err())
		equal(values, []int{1, 2, 3})
	})

	check("pool_tagged_rows", func(ctx context.Context) {
		db := pqOpen(20, "")
		defer db.Close()
		together(20, func(n int) {
			for i := range 60 {
				tag := fmt.Sprintf("worker %d item %d", n, i)
				equal(pqValue[string](ctx, db, fmt.Sprintf("select $1::text where %d = %d", i%9, i%9), tag), tag)
			}
		})
	})

	check("rows_closed_early", func(ctx context.Context) {
		db := pqOpen(1, "")
		defer db.Close()
		for range 5 {
			rows := got(db.QueryContext(ctx, "select i from generate_series(1, $1::int) i", 20000))
			rows.Next()
			must(rows.Close())
			equal(pqValue[int](ctx, db, "select 1"), 1)
		}
	})

	check("wrong_password_and_database", func(ctx context.Context) {
		wrong := pqOpen(1, "password=wrong")
		defer wrong.Close()
		pqState(wrong.PingContext(ctx), "28P01")
		nowhere := pqOpen(1, "dbname=no_such_database")
		defer nowhere.Close()
		pqState(nowhere.PingContext(ctx), "3D000")
	})
}
