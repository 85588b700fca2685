"""Postgres: statements over pooled libpq connections."""
