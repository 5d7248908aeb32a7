// Driver checks for PostgreSQL connections that may go through a pooler.
//
// Usage: drivers-go SUITE, where SUITE is pgx or pq (or logins: see logins.go). Connection data come from PGHOST, PGPORT,
// PGUSER, PGPASSWORD and PGDATABASE. Every check prints one line of JSON: {"name", "ok", "detail"}; the exit status is 0 when all were run.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

const checkLimit = 40 * time.Second

type namedCheck struct {
	name string
	run  func(ctx context.Context)
}

var registered []namedCheck

func check(name string, run func(ctx context.Context)) {
	registered = append(registered, namedCheck{name, run})
}

// failure is what a check panics with when an expectation does not hold.
type failure struct{ text string }

func fail(format string, args ...any) {
	panic(failure{fmt.Sprintf(format, args...)})
}

func must(err error) {
	if err != nil {
		fail("unexpected error: %v%s", err, place())
	}
}

func got[T any](value T, err error) T {
	if err != nil {
		fail("unexpected error: %v%s", err, place())
	}
	return value
}

func equal(have, want any) {
	if !reflect.DeepEqual(have, want) {
		fail("got %.300v, expected %.300v%s", have, want, place())
	}
}

func truth(holds bool, format string, args ...any) {
	if !holds {
		fail(format+place(), args...)
	}
}

// place names the lines of the check, innermost first, that made the failing call.
func place() string {
	var lines []string
	for _, line := range strings.Split(string(debug.Stack()), "\n") {
		file, _, _ := strings.Cut(strings.TrimSpace(line), " +0x")
		name := file[strings.LastIndex(file, "/")+1:]
		if strings.HasPrefix(line, "\t") && (strings.HasPrefix(name, "pgx.go:") || strings.HasPrefix(name, "pq.go:")) {
			lines = append(lines, name)
		}
	}
	return " (" + strings.Join(lines[:min(len(lines), 3)], ", ") + ")"
}

// together runs work(0) .. work(n-1) at once and fails with the first failure of any of them.
func together(n int, work func(i int)) {
	var group sync.WaitGroup
	failures := make(chan any, n)
	for i := range n {
		group.Add(1)
		go func() {
			defer group.Done()
			defer func() {
				if reason := recover(); reason != nil {
					failures <- reason
				}
			}()
			work(i)
		}()
	}
	group.Wait()
	select {
	case reason := <-failures:
		panic(reason)
	default:
	}
}

func runCheck(one namedCheck) (detail string) {
	ctx, cancel := context.WithTimeout(context.Background(), checkLimit)
	defer cancel()
	done := make(chan string, 1)
	go func() {
		defer func() {
			switch reason := recover().(type) {
			case nil:
				done <- ""
			case failure:
				done <- reason.text
			default:
				done <- fmt.Sprintf("panic: %v\n%s", reason, debug.Stack())
			}
		}()
		one.run(ctx)
	}()
	select {
	case detail = <-done:
	case <-time.After(checkLimit + 2*time.Second):
		detail = fmt.Sprintf("still running after %v", checkLimit)
	}
	return detail
}

func main() {
	suite := ""
	if len(os.Args) > 1 {
		suite = os.Args[1]
	}
	switch suite {
	case "pgx":
		registerPgx()
	case "pq":
		registerPq()
	case "logins":
		logins()
		return
	default:
		fmt.Fprintln(os.Stderr, "usage: drivers-go pgx|pq [CHECK ...] | logins")
		os.Exit(2)
	}
	wanted := map[string]bool{}
	for _, name := range os.Args[2:] {
		wanted[name] = true
	}
	out := json.NewEncoder(os.Stdout)
	for _, one := range registered {
		if len(wanted) > 0 && !wanted[one.name] {
			continue
		}
		started := time.Now()
		detail := runCheck(one)
		err := out.Encode(map[string]any{
			"name": one.name, "ok": detail == "", "detail": detail, "seconds": time.Since(started).Seconds(),
		})
		if err != nil && !errors.Is(err, os.ErrClosed) {
			os.Exit(1)
		}
	}
}
