"""Smoke checks of Django's ORM over psycopg 3, server-side cursors and prepared statements included."""

import contextlib
import threading
from typing import Any

import django
from django.conf import settings

from tests.drivers.python.checks import check, equal, main, refused, setting, together

# Server-side cursors stay on, which Django's documentation tells users of poolers to switch off.
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": setting("PGDATABASE"),
            "USER": setting("PGUSER"),
            "PASSWORD": setting("PGPASSWORD"),
            "HOST": setting("PGHOST"),
            "PORT": setting("PGPORT"),
            "CONN_MAX_AGE": None,
            "CONN_HEALTH_CHECKS": True,
            "OPTIONS": {"server_side_binding": True, "application_name": "django"},
        }
    },
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "django.contrib.postgres",
        "tests.drivers.python.django_app",
    ],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    TIME_ZONE="Europe/Paris",
    USE_TZ=True,
)
django.setup()

from django.contrib.auth.models import User  # noqa: E402 - needs the settings above
from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, connection, connections, models, transaction  # noqa: E402
from django.db.models import Count, F, Sum  # noqa: E402
from django.utils import timezone  # noqa: E402

from tests.drivers.python.django_app.models import Place, Visit  # noqa: E402


@contextlib.contextmanager
def tables() -> Any:
    """Both tables, empty, for one check; the connection is closed behind it, as a request's end may do."""
    with connection.cursor() as cursor:
        cursor.execute("drop table if exists django_visit, django_place")
    with connection.schema_editor() as editor:
        editor.create_model(Place)
        editor.create_model(Visit)
    try:
        yield
        with connection.schema_editor() as editor:
            editor.delete_model(Visit)
            editor.delete_model(Place)
    finally:
        connections.close_all()


@check("models")
def model_round_trip() -> None:
    with tables():
        for i in range(20):
            place = Place.objects.create(
                name=f"place {i}", traits={"i": i, "é": [None]}, tags=["x", f"t{i}"], amount="1.25"
            )
            Visit.objects.bulk_create([Visit(place=place, n=n) for n in range(5)])
        seventh = Place.objects.get(traits__i=7)
        equal((seventh.name, seventh.tags, str(seventh.amount)), ("place 7", ["x", "t7"], "1.25"))
        equal(Visit.objects.filter(place__tags__contains=["t3"]).aggregate(Sum("n"))["n__sum"], 10)
        equal(Place.objects.annotate(visits=Count("visit")).filter(visits=5).count(), 20)
        Place.objects.update(amount=F("amount") * 2)
        equal(str(Place.objects.aggregate(Sum("amount"))["amount__sum"]), "50.00")
        equal(Place.objects.filter(name__startswith="place 1").delete()[0], 11 * 6)
        place, made = Place.objects.update_or_create(name="place 2", defaults={"tags": ["new"]})
        equal((place.tags, made), (["new"], False))
        equal(len(Place.objects.prefetch_related("visit_set")), 9)


@check("iterator_with_server_side_cursor")
def iterator_with_server_side_cursor() -> None:
    with tables():
        Place.objects.bulk_create([Place(name=f"place {i}") for i in range(1000)])
        # Outside a transaction Django declares these WITH HOLD; inside, plain.
        seen = 0
        for place in Place.objects.order_by("id").iterator(chunk_size=70):
            equal(place.name, f"place {seen}")
            seen += 1
            if seen % 100 == 0:
                equal(Place.objects.filter(pk=place.pk).count(), 1)
        equal(seen, 1000)
        with transaction.atomic():
            equal(sum(1 for _ in Place.objects.iterator(chunk_size=300)), 1000)
        abandoned = Place.objects.iterator(chunk_size=10)
        next(abandoned)
        del abandoned
        equal(Place.objects.count(), 1000)


@check("atomic")
def atomic() -> None:
    with tables():
        committed: list[str] = []
        for i in range(6):
            with contextlib.suppress(ZeroDivisionError), transaction.atomic():
                Place.objects.create(name=f"outer {i}")
                try:
                    with transaction.atomic():
                        Place.objects.create(name=f"outer {i}")
                except IntegrityError:
                    Place.objects.create(name=f"second {i}")
                transaction.on_commit(lambda i=i: committed.append(f"outer {i}"))  # type: ignore[misc, unused-ignore]
                if i % 2:
                    raise ZeroDivisionError
        equal(committed, ["outer 0", "outer 2", "outer 4"])
        equal(Place.objects.count(), 6)
        with transaction.atomic():
            equal(Place.objects.select_for_update().filter(name="outer 0").update(amount=5), 1)
        refused("23505", Place.objects.create, name="outer 0")


@check("threads")
def threads() -> None:
    with tables():
        Place.objects.bulk_create([Place(name=f"place {i}", amount=100) for i in range(12)])

        def work(n: int) -> None:
            try:
                for i in range(12):
                    low, high = sorted((n, (n + i + 1) % 12))
                    with transaction.atomic():
                        Place.objects.filter(name=f"place {low}").update(amount=F("amount") - 1)
                        Place.objects.filter(name=f"place {high}").update(amount=F("amount") + 1)
                    equal(Place.objects.get(name=f"place {n}").name, f"place {n}")
            finally:
                connections.close_all()

        together(12, work)
        equal(int(Place.objects.aggregate(Sum("amount"))["amount__sum"]), 1200)


@check("time_zone_and_application_name")
def time_zone_and_application_name() -> None:
    def show(name: str) -> str:
        with connection.cursor() as cursor:
            cursor.execute(f"show {name}")
            return str(cursor.fetchone()[0])

    for _ in range(10):
        # With USE_TZ Django keeps its connections at UTC, whatever the server's own zone.
        equal((show("timezone"), show("application_name")), ("UTC", "django"))
        with timezone.override("Asia/Tokyo"):
            equal(timezone.localtime(timezone.now()).tzname(), "JST")
    connections.close_all()


@check("schema_changes")
def schema_changes() -> None:
    with tables():
        Place.objects.create(name="before")
        for i in range(4):
            field = models.IntegerField(default=i)
            field.set_attributes_from_name(f"extra{i}")
            with connection.schema_editor() as editor:
                editor.add_field(Place, field)
            equal(Place.objects.get(name="before").name, "before")
            with connection.cursor() as cursor:
                for _ in range(7):
                    cursor.execute("select * from django_place where name = %s", ["before"])
                    equal(len(cursor.fetchone()), 7 + i)


@check("migrations")
def migrations() -> None:
    with connection.cursor() as cursor:
        cursor.execute("drop schema if exists django_migrated cascade")
        cursor.execute("create schema django_migrated")
        # Stays for all that follows on this connection, which is what migration tools rely on.
        cursor.execute("set search_path to django_migrated")
    call_command("migrate", verbosity=0, interactive=False)
    User.objects.create_user("someone", password="secret", email="a@b.invalid")
    assert User.objects.get(username="someone").check_password("secret")
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from pg_tables where schemaname = 'django_migrated'")
        assert cursor.fetchone()[0] > 5, "the migrations ran in another schema"
        cursor.execute("drop schema django_migrated cascade")
    connections.close_all()


@check("connection_lost")
def connection_lost() -> None:
    for _ in range(3):
        with connection.cursor() as cursor:
            cursor.execute("select 1")
        connection.connection.close()
        # What a request's start does with CONN_HEALTH_CHECKS.
        connection.close_if_unusable_or_obsolete()
        connection.health_check_done = False
        connection.close()
        with connection.cursor() as cursor:
            cursor.execute("select %s", [threading.get_ident()])
            equal(cursor.fetchone()[0], threading.get_ident())
    connections.close_all()


if __name__ == "__main__":
    main()
