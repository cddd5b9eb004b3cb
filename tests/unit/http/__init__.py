"""Tests of `workers/http`."""
