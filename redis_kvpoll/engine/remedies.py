"""What a person is told of an error: what the server or the network said, and what to do about it.

Texts differ between servers and versions, so an error is known by its code, which a script's error has inside its text,
or by the exception below it; only errors without a code are known by words that all servers share.

To explain an error: add its code to _BY_CODE, or its words to _BY_TEXT.
"""

from __future__ import annotations

import re
import ssl

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from redis_kvpoll.protocol.replies import DENIED_IN_SCRIPT

IS_IT_UP = "check that the server is up and reachable"

_OF_CLUSTER = "this server is part of a cluster: use redis+cluster:// or a RedisCluster client"
_BY_CODE = {
    "WRONGTYPE": "a key of the table has another type, set by hand: kvpoll doctor names it, and says how to mend that",
    "NOPERM": "this Redis user lacks a permission: kvpoll acl prints the rule that it needs, with the keys kvpoll:*",
    "NOAUTH": "the server requires a password: put it into the URL, or name its file in KVPOLL_PASSWORD_FILE",
    "WRONGPASS": "check the user name in the URL, and the password there or in the file of KVPOLL_PASSWORD_FILE",
    "OOM": "the server has reached its maxmemory: raise it, or choose shorter TTLs",
    "MISCONF": "the server cannot save its data to disk, and so takes no writes: its log says why (is the disk full?)",
    "READONLY": (
        "this server is a replica, which takes no writes: use the address of its primary, or redis+sentinel://; "
        "a store with read_only=True can read here"
    ),
    "NOREPLICAS": "the server has fewer replicas than its min-replicas-to-write: start them, or lower that setting",
    "LOADING": "the server is loading its data: wait until it is done",
    "BUSY": "a script of another client keeps the server busy: end it with SCRIPT KILL",
    "MASTERDOWN": "this server is a replica that has lost its primary: use the address of the primary",
    "CLUSTERDOWN": "a part of the cluster is down, or nobody serves the slot: see CLUSTER INFO",
    "TRYAGAIN": "the cluster is moving the slot: let that end",
    "MOVED": _OF_CLUSTER,
    "ASK": _OF_CLUSTER,
    "CROSSSLOT": _OF_CLUSTER,
    "NOPROTO": "add ?protocol=2 to the URL",
}
_BY_TEXT = (
    (r"unknown command\W+hello", "the server, or a proxy before it, has no HELLO: add ?protocol=2 to the URL"),
    (r"unknown command\W+sentinel", "no Sentinel answers there: name the Sentinels (port 26379), or use redis://"),
    (r"unknown command", "the server, or a proxy before it, has renamed or disabled a command that is needed"),
    (r"DB index", "the server has fewer databases: name a lower one in the URL"),
    (r"SELECT is not allowed in cluster", "a cluster has only database 0"),
    (r"cluster support disabled", "this server is no cluster: use redis:// instead of redis+cluster://"),
    (r"max number of clients", "the server has reached its maxclients: raise it, or close other connections"),
    (r"^No master found", "check that the Sentinels are up, and that they know a primary of this name"),
)
_NO_TLS = "the server uses no TLS on this port: use redis:// instead of rediss://"
_MAYBE_NO_TLS = "if the server uses no TLS on this port, use redis:// instead of rediss://; else " + IS_IT_UP
_MAYBE_TLS = (
    "it takes connections and closes them: if it uses TLS, use rediss:// instead of redis://; "
    "if it is a proxy, check the server behind it"
)
_NO_REDIS = "what answers there is no Redis, or uses TLS: check the port; for TLS use rediss:// instead of redis://"
_CERTIFICATES = {
    10: "the server's certificate has expired: renew it",
    62: "the server's certificate is for another host name: use that name in the URL",
    64: "the server's certificate is for another address: use a name or an address that it has",
}
"""By OpenSSL's number of what is wrong."""
_UNTRUSTED = "the server's certificate is not trusted: name its CA in the URL with ?ssl_ca_certs=FILE"
_NO_TLS_REASONS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")
_CLIENT_CERTIFICATE = (
    "the server wants a certificate of this client that it trusts: name it in the URL with ?ssl_certfile=FILE&"
    "ssl_keyfile=FILE"
)
_CLIENT_REASONS = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "BAD_CERTIFICATE", "UNKNOWN_CA", "CERTIFICATE_UNKNOWN")
_TLS_FILE = "a certificate or key file that the URL names cannot be read"

# An error inside a script arrives unchanged, or (Redis 6.2) wrapped in "ERR Error running script …: -CODE …".
_FIRST_WORD = re.compile(r"([A-Z]{3,})\b")
_WRAPPED_CODE = re.compile(rf"(?:[ :]|-)({'|'.join(_BY_CODE)})\b")
_OF_SCRIPT = re.compile(
    r"^(ERR )?Error running script \([^)]*\): (@user_script: ?\d+: )*-?"
    r"|,? script: ([0-9a-f]{40}, )?on @user_script:\d+\.?$"
)
"""What a server adds about the script: the caller knows the operation, not the script."""
_HIDDEN = (", with args beginning with", ", otherwise the HELLO AUTH <user>", " : <redis.")
"""Where a text ends for us. A server repeats the words of a command that it does not know, those of HELLO with the
password; it explains HELLO to a client without a password; and redis-py appends its clients, with their options, to
what it says of Sentinels."""
_SOCKET = " connecting to /"
CLOSED = ("Connection closed by server", "Error while reading")
"""How redis-py begins the error of a connection that the server has closed."""
TLS_TIMEOUT = "TLS handshake"
"""In the text of a timeout: the connection was there, and the TLS handshake was not answered."""


class ExpectsTLS(RedisConnectionError):  # noqa: N818 - what is known of the server
    """The server takes only TLS connections, and this one was plain."""


def code_of(error: BaseException) -> str:
    """Return the code of the server's error, outside or inside a script; empty for another error."""
    code, text = getattr(error, "status_code", None), str(error)
    if code and code != "ERR":
        return str(code)
    if not isinstance(error, ResponseError):
        return ""
    if "Protocol error: unauthenticated" in text:
        return "NOAUTH"  # to a command of many or long words
    if any(words in text for words in DENIED_IN_SCRIPT):
        return "NOPERM"
    first = None if code else _FIRST_WORD.match(text)
    found = _WRAPPED_CODE.search(text) if first is None or first[1] == "ERR" else first
    return found[1] if found else ""


def text_of(error: BaseException) -> str:
    """Return an error's text, with the code that redis-py takes away, and without what must not be shown."""
    text = str(error)
    for start in _HIDDEN:
        if start in text:
            text = text.partition(start)[0]
            error.args = (text,)  # it is the cause of what the caller gets, and is printed with it
    if not isinstance(error, RedisError | OSError):
        return f"{type(error).__name__}: {text}"
    code, text = code_of(error), _OF_SCRIPT.sub("", text)
    return f"{code} {text}" if code and code not in text else text


def remedy(error: BaseException) -> str:
    """Return what to do about an error; IS_IT_UP if nothing better is known, and empty for an unknown rejection."""
    if found := _BY_CODE.get(code_of(error)):
        return found
    text = str(error)
    if isinstance(error, RedisError):
        for words, found in _BY_TEXT:
            if re.search(words, text, re.IGNORECASE):
                return found
    if isinstance(error, ExpectsTLS):
        return "use rediss:// instead of redis://"
    if isinstance(error, InvalidResponse):
        return _NO_REDIS
    if isinstance(error, ResponseError):
        return ""
    if isinstance(error, UnicodeError):
        return "this is no host name: check it in the URL"
    if not isinstance(error, RedisError | OSError):
        return "the connection could not be made: see the client's credential provider"
    return _of_connection(text, _below(error)) or IS_IT_UP


def is_tls_rejected(error: BaseException) -> bool:
    """Whether TLS failed in a way in which it will fail again. For failures to connect only."""
    below = _below(error)
    if isinstance(below, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return False  # the server, or a proxy before it, went away
    return isinstance(below, ssl.SSLError) or _is_missing_file(str(error), below)


def _below(error: BaseException) -> BaseException | None:
    """Return the exception of the system that redis-py has turned into ``error``.

    Only its texts tell: the context of an exception may also be one that the caller is handling.
    """
    return error.__context__ if str(error).startswith(("Error ", "Timeout ")) else None


def _is_missing_file(text: str, below: BaseException | None) -> bool:
    """Whether a file of TLS is missing. For a unix socket that is not there, the text has its path."""
    return isinstance(below, FileNotFoundError | IsADirectoryError) and _SOCKET not in text


def _of_connection(text: str, below: BaseException | None) -> str:
    # socket.gaierror; a resolver that has no answer for the moment says so.
    if type(below).__name__ == "gaierror" and "emporary" not in str(below):
        return "this host name does not resolve: check it in the URL"
    if isinstance(below, ssl.SSLCertVerificationError):
        return _CERTIFICATES.get(below.verify_code, _UNTRUSTED)
    if isinstance(below, ssl.SSLError) and below.reason:
        if any(reason in below.reason for reason in _NO_TLS_REASONS):
            return _NO_TLS
        if any(reason in below.reason for reason in _CLIENT_REASONS):
            return _CLIENT_CERTIFICATE
    if TLS_TIMEOUT in text or "handshake operation timed out" in str(below):
        return _MAYBE_NO_TLS
    if _is_missing_file(text, below):
        return _TLS_FILE
    if _SOCKET in text:
        return "check that the server is up, the path of its socket, and that this user may open it"
    return _MAYBE_TLS if text.startswith(CLOSED) else ""
