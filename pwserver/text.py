"""Texts of others, as they may be shown."""


def visible(text: str) -> str:
    """Return a text as a terminal may have it: control characters and the like by their numbers."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in text)
