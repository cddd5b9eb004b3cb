"""The password book as a FastAPI application: plain `def` endpoints, which run in its thread pool.

Started by `contenders.py`, by uvicorn. What favours it is said in `web_book.py`.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, FastAPI

from benchmarks.client.dialects import HTTP_COUNT_PATH, HTTP_NUMBER, HTTP_SAVE_PATH, HTTP_SAVED
from benchmarks.servers import web_book

web_book.use_named()
app = FastAPI()


@app.post(HTTP_SAVE_PATH)
def save_password(password: Annotated[str, Body(embed=True)]) -> dict[str, str]:
    """Save a password as a new user."""
    web_book.User.create(password=password)
    return HTTP_SAVED


@app.get(HTTP_COUNT_PATH)
def number_of_users() -> dict[str, int]:
    """Count the users."""
    return {HTTP_NUMBER: web_book.User.select().count()}
