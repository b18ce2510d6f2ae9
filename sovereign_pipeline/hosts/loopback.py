"""Ports of the loopback interface, on which the services of an installation listen.

What belongs here: taking one, or saying that it is taken. What does not: what is served there.
"""

import socket

from sovereign_pipeline.errors import InputError

LOOPBACK = "127.0.0.1"
REVIEW_PORT = 8600
"""Of the review page, unless another is given."""
GATEWAY_PORT = 8800
"""Of the gateway, unless another is given."""


def listen(port: int, option: str) -> socket.socket:
    """A socket that holds the port. option: what to change it with. Raises InputError when another program has it."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((LOOPBACK, port))
        held.listen()
    except OSError as error:
        held.close()
        raise InputError(
            f"Port {port} of {LOOPBACK} is already in use ({error.strerror}).",
            f"End the program that listens there, or give another port with {option}.",
        ) from None
    return held
