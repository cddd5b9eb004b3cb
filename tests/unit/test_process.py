"""What a child of the listener says of its end."""

import pytest

from pwserver.errors import StorageFailed
from pwserver.ipc import control_channel, receive_control
from workers.process import ENDING, say_why


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("abc123"), "ValueError (test_process.py, line "),
        (KeyError("abc123"), "KeyError (test_process.py, line "),
        (OSError(28, "No space left on device", "abc123"), "OSError: No space left on device ("),
        (OSError("abc123"), "OSError: no reason is given ("),
        (ImportError("No module named 'x'"), "ImportError: No module named 'x' ("),
        (StorageFailed("The disk failed."), "StorageFailed: The disk failed. ("),
    ],
)
def test_an_error_that_nobody_foresaw_is_named_without_its_text(
    error: Exception, said: str
) -> None:
    """The text may hold a password: the listener writes it into the log."""
    listeners, childs = control_channel()
    with listeners, childs:
        try:
            raise error
        except Exception as raised:
            say_why(childs, raised)
        message = receive_control(listeners)
    assert message is not None
    assert message[0][:1] == ENDING
    assert message[0][1:].decode().startswith(said)
    assert b"abc123" not in message[0]
