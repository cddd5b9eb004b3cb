"""Files as other password managers export them, made in their documented formats."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

BITWARDEN = (
    "folder,favorite,type,name,notes,fields,reprompt,login_uri,login_username,login_password,"
    "login_totp"
)
BITWARDEN_ORGANIZATION = BITWARDEN.replace("folder,favorite", "collections")
KEEPASSXC = "Group,Title,Username,Password,URL,Notes,TOTP,Icon,Last Modified,Created"
CHROME = "name,url,username,password,note"
FIREFOX = (
    "url,username,password,httpRealm,formActionOrigin,guid,timeCreated,timeLastUsed,"
    "timePasswordChanged"
)
ONE_PASSWORD = "Title,Url,Username,Password,OTPAuth,Favorite,Archived,Tags,Notes"


class Login(NamedTuple):
    """A login that somebody exports."""

    title: str = "Example"
    login: str = "alice"
    password: str = "one"
    url: str = "https://example.com/login"
    folder: str = ""
    totp: str = ""
    notes: str = ""


def csv_of(header: str, rows: Iterable[Sequence[str]]) -> str:
    """Return a CSV file with every field in quotes."""
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(header.split(","))
    writer.writerows(rows)
    return file.getvalue()


def bitwarden(logins: Iterable[Login], header: str = BITWARDEN) -> str:
    """Return the CSV of Bitwarden."""
    favorite = [""] if header is BITWARDEN else []
    return csv_of(
        header,
        (
            [
                *(each.folder, *favorite, "login", each.title, each.notes, "", "0"),
                *(each.url, each.login, each.password, each.totp),
            ]
            for each in logins
        ),
    )


def keepassxc(logins: Iterable[Login]) -> str:
    """Return the CSV of KeePassXC, in which every group is in that of the database."""
    time = "2026-01-02T03:04:05Z"
    return csv_of(
        KEEPASSXC,
        (
            [
                *("Root/" + each.folder if each.folder else "Root", each.title, each.login),
                *(each.password, each.url, each.notes, each.totp, "0", time, time),
            ]
            for each in logins
        ),
    )


def chrome(logins: Iterable[Login]) -> str:
    """Return the CSV of Chrome."""
    rows = ([each.title, each.url, each.login, each.password, each.notes] for each in logins)
    return csv_of(CHROME, rows)


def firefox(logins: Iterable[Login]) -> str:
    """Return the CSV of Firefox, which has no titles."""
    times = ["1767323045000"] * 3
    rows = (
        [each.url, each.login, each.password, "", "https://example.com", "{guid}", *times]
        for each in logins
    )
    return csv_of(FIREFOX, rows)


def one_password(logins: Iterable[Login]) -> str:
    """Return the CSV of 1Password."""
    return csv_of(
        ONE_PASSWORD,
        (
            [
                *(each.title, each.url, each.login, each.password, each.totp),
                *("false", "false", each.folder, each.notes),
            ]
            for each in logins
        ),
    )


def bitwarden_json(logins: Iterable[Login], *others: dict[str, Any]) -> str:
    """Return the JSON of Bitwarden, with other items after the logins."""
    logins = [*logins]
    folders = {each.folder: f"id of {each.folder}" for each in logins if each.folder}
    items: list[dict[str, Any]] = [
        {
            "id": "an id",
            "organizationId": None,
            "folderId": folders.get(each.folder),
            "type": 1,
            "reprompt": 0,
            "name": each.title,
            "notes": each.notes or None,
            "favorite": False,
            "login": {
                "uris": [{"match": None, "uri": each.url}],
                "username": each.login,
                "password": each.password,
                "totp": each.totp or None,
            },
            "collectionIds": None,
        }
        for each in logins
    ]
    listed = [{"id": id, "name": name} for name, id in folders.items()]
    whole = {"encrypted": False, "folders": listed, "items": [*items, *others]}
    return json.dumps(whole, indent=2)


def json_lines(logins: Iterable[Login]) -> str:
    """Return the JSON lines of `pwserver export`; the title is the username."""
    return "".join(
        json.dumps({"username": each.title, "password": each.password, "labels": []}) + "\n"
        for each in logins
    )
