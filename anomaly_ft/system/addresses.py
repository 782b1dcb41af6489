"""Strip user and password from addresses of servers and databases before they are shown or stored."""

import re

# up to the last @ of the part that names the host; a password may hold a slash where databases are meant, and a
# port before a slash is no password
CREDENTIALS = re.compile(r"(?<=://)(?:[^\s/?#'\"]*@|[^\s/:@'\"]*:(?!\d+/)[^\s@'\"]*@)")
SECRETS = re.compile(r"([?&](?:user(?:name)?|pass(?:word|wd)?|pwd|sslpassword|token|secret)=)[^\s&#'\"]+", re.I)


def without_password(text: str) -> str:
    """Strip user and password from the addresses in a text.

    >>> without_password("MLflow at https://ann:secret@host:5000/x failed")
    'MLflow at https://host:5000/x failed'
    >>> without_password("postgresql://host/runs?user=ann&password=secret")
    'postgresql://host/runs?user=***&password=***'
    """
    return SECRETS.sub(r"\1***", CREDENTIALS.sub("", text))
