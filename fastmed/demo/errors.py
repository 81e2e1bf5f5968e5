"""What the user can put right."""


class InputError(Exception):
    """The input cannot be used; the message is one line that names the file."""
