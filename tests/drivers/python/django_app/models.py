"""Two tables with what Django has of its own for PostgreSQL."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone


class Place(models.Model):  # type: ignore[misc, unused-ignore]
    name = models.CharField(max_length=50, unique=True)
    traits = models.JSONField(default=dict)
    tags = ArrayField(models.TextField(), default=list)
    amount = models.DecimalField(max_digits=12, decimal_places=2, default=0)
    seen = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "django_place"


class Visit(models.Model):  # type: ignore[misc, unused-ignore]
    place = models.ForeignKey(Place, on_delete=models.CASCADE)
    n = models.IntegerField()

    class Meta:
        db_table = "django_visit"
