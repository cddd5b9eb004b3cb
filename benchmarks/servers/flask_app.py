"""The password book as a Flask application, one request at a time in each process.

Started by `contenders.py`, by gunicorn. What favours it is said in `web_book.py`.
"""

from __future__ import annotations

from flask import Flask, request

from benchmarks.client.dialects import HTTP_COUNT_PATH, HTTP_NUMBER, HTTP_SAVE_PATH, HTTP_SAVED
from benchmarks.servers import web_book

web_book.use_named()
app = Flask(__name__)


@app.post(HTTP_SAVE_PATH)
def save_password() -> dict[str, str]:
    """Save a password as a new user."""
    web_book.User.create(password=request.get_json()["password"])
    return HTTP_SAVED


@app.get(HTTP_COUNT_PATH)
def number_of_users() -> dict[str, int]:
    """Count the users."""
    return {HTTP_NUMBER: web_book.User.select().count()}
