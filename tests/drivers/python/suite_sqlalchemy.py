"""Smoke checks of SQLAlchemy over each of its PostgreSQL dialects: psycopg, psycopg2, asyncpg."""

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Session, relationship

from tests.drivers.python.checks import NotHere, check, equal, main, refused, setting, sqlstate, together

DIALECTS = ("psycopg", "psycopg2")


def url(dialect: str) -> sa.URL:
    return sa.URL.create(
        f"postgresql+{dialect}",
        username=setting("PGUSER"),
        password=setting("PGPASSWORD"),
        host=setting("PGHOST"),
        port=int(setting("PGPORT")),
        database=setting("PGDATABASE"),
    )


def over_both(body: Callable[[Any], None], **settings: Any) -> None:
    """Runs body(engine) over every blocking dialect."""
    for dialect in DIALECTS:
        engine: Any = sa.create_engine(url(dialect), **settings)
        try:
            body(engine)
        finally:
            engine.dispose()


class Model(DeclarativeBase):
    __allow_unmapped__ = True


class Author(Model):
    __tablename__ = "sqla_author"
    id: Any = sa.Column(sa.Integer, primary_key=True)
    name: Any = sa.Column(sa.String(50), nullable=False, unique=True)
    traits: Any = sa.Column(postgresql.JSONB, default=dict)
    tags: Any = sa.Column(postgresql.ARRAY(sa.Text), default=list)
    books = relationship("Book", back_populates="author", cascade="all, delete-orphan")


class Book(Model):
    __tablename__ = "sqla_book"
    id: Any = sa.Column(sa.Integer, primary_key=True)
    title: Any = sa.Column(sa.Text)
    price: Any = sa.Column(sa.Numeric(10, 2))
    author_id: Any = sa.Column(sa.ForeignKey("sqla_author.id"))
    author = relationship("Author", back_populates="books")


@check("orm")
def orm() -> None:
    def body(engine: Any) -> None:
        Model.metadata.drop_all(engine)
        Model.metadata.create_all(engine)
        with Session(engine) as session:
            for i in range(20):
                author = Author(name=f"author {i}", traits={"i": i}, tags=[f"t{i}", "all"])
                author.books = [Book(title=f"book {i}.{j}", price=j) for j in range(3)]
                session.add(author)
            session.commit()
            equal(session.scalar(sa.select(sa.func.count()).select_from(Book)), 60)
            seventh = session.scalars(sa.select(Author).where(Author.traits["i"].as_integer() == 7)).one()
            equal([book.title for book in seventh.books], ["book 7.0", "book 7.1", "book 7.2"])
            session.delete(seventh)
            session.commit()
            session.add(Author(name="author 1"))
            equal(sqlstate(refused("23505", session.flush)), "23505")
            session.rollback()
            with session.begin_nested():
                session.add(Author(name="nested"))
            equal(session.scalar(sa.select(sa.func.count()).select_from(Book)), 57)
            session.commit()
        Model.metadata.drop_all(engine)

    over_both(body)


@check("insert_many_values")
def insert_many_values() -> None:
    def body(engine: Any) -> None:
        table = sa.Table(
            "sqla_many", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer)
        )
        table.metadata.drop_all(engine)
        table.metadata.create_all(engine)
        with engine.begin() as conn:
            result = conn.execute(
                table.insert().returning(table.c.id, sort_by_parameter_order=True), [{"n": i} for i in range(5000)]
            )
            equal([row.id for row in result], list(range(1, 5001)))
        table.metadata.drop_all(engine)

    over_both(body)


@check("stream_results")
def stream_results() -> None:
    def body(engine: Any) -> None:
        with engine.connect().execution_options(stream_results=True, max_row_buffer=50) as conn:
            result = conn.execute(sa.text("select generate_series(1, 3000)"))
            equal(sum(row[0] for row in result), 3000 * 3001 // 2)
            conn.execute(sa.text("select generate_series(1, 3000)")).fetchone()
            conn.rollback()
            equal(conn.scalar(sa.text("select 1")), 1)

    over_both(body)


@check("reflection")
def reflection() -> None:
    def body(engine: Any) -> None:
        Model.metadata.drop_all(engine)
        Model.metadata.create_all(engine)
        inspector = sa.inspect(engine)
        equal([column["name"] for column in inspector.get_columns("sqla_author")], ["id", "name", "traits", "tags"])
        equal(inspector.get_foreign_keys("sqla_book")[0]["referred_table"], "sqla_author")
        again = sa.MetaData()
        again.reflect(engine, only=["sqla_book"])
        assert "sqla_author" in again.tables
        Model.metadata.drop_all(engine)

    over_both(body)


@check("isolation_levels")
def isolation_levels() -> None:
    def body(engine: Any) -> None:
        for level in ("SERIALIZABLE", "REPEATABLE READ", "AUTOCOMMIT", "READ COMMITTED"):
            with engine.connect().execution_options(isolation_level=level) as conn:
                wanted = "read committed" if level == "AUTOCOMMIT" else level.lower()
                for _ in range(3):
                    equal(conn.scalar(sa.text("show transaction_isolation")), wanted)
                    conn.rollback()
        with engine.connect().execution_options(postgresql_readonly=True) as conn:
            refused("25006", conn.execute, sa.text("create table sqla_never (a int)"))
        with engine.connect() as conn:
            equal(conn.scalar(sa.text("show transaction_read_only")), "off")

    over_both(body)


@check("two_phase")
def two_phase() -> None:
    def body(engine: Any) -> None:
        with engine.connect() as conn:
            if conn.scalar(sa.text("show max_prepared_transactions")) == "0":
                raise NotHere("max_prepared_transactions is 0")
            conn.execute(sa.text("drop table if exists sqla_2pc"))
            conn.execute(sa.text("create table sqla_2pc (a int)"))
            conn.commit()
            for i in range(4):
                transaction = conn.begin_twophase()
                conn.execute(sa.text("insert into sqla_2pc values (:i)"), {"i": i})
                transaction.prepare()
                if i % 2:
                    transaction.commit()
                else:
                    transaction.rollback()
            equal(conn.scalar(sa.text("select count(*) from sqla_2pc")), 2)
            conn.execute(sa.text("drop table sqla_2pc"))
            conn.commit()

    over_both(body)


@check("pool_tagged_rows")
def pool_tagged_rows() -> None:
    def body(engine: Any) -> None:
        def work(n: int) -> None:
            for i in range(25):
                with engine.connect() as conn:
                    tag = f"worker {n} item {i}"
                    equal(conn.scalar(sa.text(f"select cast(:tag as text) where {i % 7} = {i % 7}"), {"tag": tag}), tag)

        together(20, work)

    over_both(body, pool_size=20, pool_pre_ping=True, pool_timeout=15)


@check("settings_on_connect")
def settings_on_connect() -> None:
    def body(engine: Any) -> None:
        @sa.event.listens_for(engine, "connect")
        def set_path(connection: Any, _record: object) -> None:
            was, connection.autocommit = connection.autocommit, True
            with connection.cursor() as cursor:
                cursor.execute("set search_path to sqla_path, public")
            connection.autocommit = was

        for _ in range(10):
            with engine.connect() as conn:
                equal(conn.scalar(sa.text("show search_path")), "sqla_path, public")

    over_both(body, pool_size=3)


@check("asyncpg_engine")
async def asyncpg_engine() -> None:
    try:
        asynchronous: Any = importlib.import_module("sqlalchemy.ext.asyncio")
    except ImportError as error:
        raise NotHere("greenlet is not installed") from error
    engine = asynchronous.create_async_engine(url("asyncpg"), pool_size=20, pool_timeout=15)
    try:

        async def work(n: int) -> None:
            for i in range(20):
                async with engine.begin() as conn:
                    tag = f"worker {n} item {i}"
                    equal(
                        await conn.scalar(sa.text(f"select cast(:tag as text) where {i % 7} = {i % 7}"), {"tag": tag}),
                        tag,
                    )
                    async with conn.begin_nested() as inner:
                        await conn.execute(sa.text("select 1"))
                        await inner.rollback()

        await asyncio.gather(*(work(n) for n in range(20)))
        async with engine.connect() as conn:
            result = await conn.stream(sa.text("select generate_series(1, 1000)"))
            equal(sum([row[0] async for row in result]), 500500)
            await conn.run_sync(Model.metadata.drop_all)
            await conn.run_sync(Model.metadata.create_all)
            await conn.execute(sa.insert(Author), [{"name": f"a{i}", "traits": {}, "tags": ["x"]} for i in range(500)])
            equal(await conn.scalar(sa.select(sa.func.count()).select_from(Author)), 500)
            await conn.run_sync(Model.metadata.drop_all)
            await conn.commit()
    finally:
        await engine.dispose()


if __name__ == "__main__":
    main()
