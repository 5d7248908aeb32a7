package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
)

// logins reads connection strings, a line each, and prints for each of them who pgx is there, or the refusal. TOKEN in the
// environment is what it answers when a token is asked for.
func logins() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		name, err := logIn(lines.Text())
		if err != nil {
			fmt.Println("refused:", strings.Join(strings.Fields(err.Error()), " "))
		} else {
			fmt.Println("in as", name)
		}
	}
}

func logIn(target string) (name string, err error) {
	ctx, stop := context.WithTimeout(context.Background(), checkLimit)
	defer stop()
	config, err := pgx.ParseConfig(target)
	if err != nil {
		return "", err
	}
	if token := os.Getenv("TOKEN"); token != "" {
		config.OAuthTokenProvider = func(context.Context) (string, error) { return token, nil }
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, "select current_user::text").Scan(&name)
	return name, err
}
